"""The interface of every generator: what training, sampling, cards and commands know of a model.

A new model is one module in this folder with a subclass of `Model`, a line in
`crysgen.models.MODELS`, and configurations in `crysgen/training/configs/KIND/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from crysgen.config_values import from_values
from crysgen.models import MODELS, model_class
from crysgen.models.targets import Target
from crysgen.training.batch import Batch
from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.wyckoff.draws import DrawnOrbits
    from crysmetrics.io import Crystals

__all__ = [
    "MODELS",
    "Encodes",
    "Model",
    "ModelConfig",
    "Noises",
    "Prepares",
    "Stepwise",
    "Target",
    "model_class",
    "refuse_targets",
]

OnStep = Callable[[int, int], None]
"""Told during sampling how many steps are done, and of how many."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a model beside its weights; subclasses add fields and check them.

    Fields are of bool, int, float, str, Literal, X | None, tuple, or dict of plain values.
    """

    @property
    def properties(self) -> tuple[str, ...]:
        """Numeric properties of crystals that `Model.loss` reads from `Batch.properties`."""
        return ()

    @property
    def partial_properties(self) -> tuple[str, ...]:
        """The same that crystals may lack; those that do have NaN."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from what `to_json` gave, or a user wrote.

        Raises:
            ValueError: naming a setting that is unknown or invalid.
        """
        return from_values(cls, values)


class Model(nn.Module, ABC):
    """A generator of crystals.

    The constructor takes the configuration alone. Weights that decide a model are all in
    `state_dict()`.

    Args:
        config: of the class `Config`.

    Attributes:
        kind: name in cards, configurations and `crysgen train KIND`; the key in `MODELS`.
        paper: authors, title, venue, year, for cards.
        Config: class of its configuration.
        accepts: fields of `Target` that it can be told.
        requires: fields of `Target` that it must be told.
        stages: names of the trainings that follow one another, each with a loss of its own.
        sampling_settings: fields of `Config` that may be changed after training.
    """

    kind: ClassVar[str]
    paper: ClassVar[str]
    Config: ClassVar[type[ModelConfig]]
    accepts: ClassVar[frozenset[str]]
    requires: ClassVar[frozenset[str]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ("model",)
    sampling_settings: ClassVar[frozenset[str]] = frozenset()

    config: Any

    @classmethod
    def training_form(cls, crystals: Crystals, config: Any) -> Crystals:
        """Return crystals in the form that the model learns from; as they are, unless it says so.

        Args:
            crystals: in canonical cells.
            config: as read from a file.
        """
        return crystals

    @classmethod
    def fitted(cls, config: Any, train: Batch) -> Any:
        """Return the configuration with statistics of the training data, such as means of cells.

        Args:
            config: as read from a file.
            train: all crystals to train on.
        """
        return config

    def begin_stage(self, stage: str, train: Iterable[Batch]) -> None:
        """Make ready for a stage after the first, once the one before is done.

        Args:
            stage: that begins.
            train: all crystals to train on, on the device of the model.
        """
        return

    def parameters_of(self, stage: str) -> Iterable[nn.Parameter]:
        """Iterate over the parameters that a stage trains; all others are frozen in it."""
        return self.parameters()

    @abstractmethod
    def loss(
        self, batch: Batch, generator: torch.Generator | None, stage: str
    ) -> dict[str, Tensor]:
        """Return `loss`, which is minimised, and any parts of it that a log should show.

        Args:
            batch: B crystals.
            generator: of all random numbers, on the batch's device.
            stage: one of `stages`.

        Returns:
            Scalars by name, means over the batch.
        """

    def size_of(self, target: Target) -> int | None:
        """Return how many atoms a crystal will have, where that is known before it is made."""
        return target.size

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Calls of the network that one sample takes, unless fewer or more are asked for."""

    @property
    def default_steps(self) -> int:
        """How many of `num_steps` sampling takes where nobody asks for a number."""
        return self.num_steps

    @abstractmethod
    def sample(
        self,
        targets: Sequence[Target],
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> Batch:
        """Return one crystal for each target, in order, on the device of the model.

        What is written is what this returns: its atoms, their number and the cell. All random
        numbers of a crystal follow from its target's seed, whatever batch it is in. A row without
        atoms, or with numbers that are not finite, is drawn again with another seed.

        Args:
            targets: within `accepts` and `requires`.
            steps: how many are taken; `default_steps` if None. More than `num_steps` lie between
                those.
            on_step: told how many steps are done, and of how many.
        """

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def compile(self, **options: Any) -> None:
        """Let `torch.compile` make each part of the model fast, in place."""
        for part in self.children():
            part.compile(**options)


@runtime_checkable
class Noises(Protocol):
    """A model with a forward process: `crysgen noise` and `--method refine`."""

    refine_strength: float
    """Share of the steps by which refinement noises a crystal, tuned for these weights."""

    @property
    def num_steps(self) -> int:
        """T."""

    def noise(self, batch: Batch, step: int, seeds: Sequence[int]) -> Batch:
        """Return crystals after `step` steps, 0 to T, of the forward process."""

    def refine(
        self,
        batch: Batch,
        seeds: Sequence[int],
        strength: float | None = None,
        steps: int | None = None,
    ) -> Batch:
        """Noise crystals by a share of the steps, and denoise them.

        Args:
            batch: B crystals.
            seeds: B, one for each crystal.
            strength: share of the steps, `refine_strength` by default.
            steps: that the whole way from pure noise would take, of which this is a share; all by
                default.

        Raises:
            ValueError: unless 0 < strength <= 1.
        """


@runtime_checkable
class RefinesOrbits(Protocol):
    """A model that refines crystals within their space groups: `--method refine --space-group`."""

    def refine_orbits(
        self,
        batch: Batch,
        orbits: Sequence[DrawnOrbits],
        seeds: Sequence[int],
        strength: float | None = None,
    ) -> Batch:
        """Refine crystals as `Noises` does, with noise and every step projected onto their groups.

        Args:
            batch: B crystals in the cells of their orbits, atoms in the order of these.
            orbits: of each crystal.
            seeds: B, one for each crystal.
            strength: share of the steps, `refine_strength` by default.

        Returns:
            The crystals in conventional cells.

        Raises:
            ValueError: unless 0 < strength <= 1.
        """


@runtime_checkable
class Encodes(Protocol):
    """A model with a latent space: reconstruction, interpolation, optimisation."""

    def encode(self, batch: Batch) -> Tensor:
        """Return latent vectors (B, D) of crystals."""

    def decode(self, latents: Tensor, seeds: Sequence[int]) -> Batch:
        """Return crystals of latent vectors (B, D), as `sample` does of targets that hold them."""

    def sizes(self, latents: Tensor) -> Tensor:
        """Predict the numbers of atoms (B,) of crystals of latent vectors (B, D)."""


@runtime_checkable
class Prepares(Protocol):
    """A model whose loss has two halves, so that the second can be a graph of static shapes.

    `loss(batch, generator, stage)` is `prepared_loss(prepare(batch, generator, stage), stage)`.
    Where `has_static_shapes` is there and false, it depends on the crystals how much is prepared.
    """

    def prepare(
        self, batch: Batch, generator: torch.Generator | None, stage: str, parts: int = 1
    ) -> Any:
        """Noise a batch and search neighbours, without gradients, and without trained weights.

        It may run in another thread, on batches that are trained on later.

        Args:
            batch: B crystals.
            generator: of all random numbers, on the batch's device.
            stage: of the training.
            parts: of equal size, each of which is a batch of its own.

        Returns:
            Tensors in nested tuples, with B rows each, whose shapes follow from the batch's alone.
        """

    def prepared_loss(self, prepared: Any, stage: str) -> dict[str, Tensor]:
        """Return the losses of what `prepare` gave; nothing in it waits for a value."""


@runtime_checkable
class Stepwise(Protocol):
    """A model that samples by one step repeated, so that the step can be a graph of static shapes.

    `sample(targets, steps)` is `begin`, `step` with each of the inputs in turn, and `finish`. State
    and inputs are tensors in nested tuples, on the device, of the same shapes at every step.
    """

    def begin(self, targets: Sequence[Target], steps: int | None = None) -> tuple[Any, list[Any]]:
        """Return the first state, and the inputs of each step: all random numbers are in them."""

    def step(self, state: Any, inputs: Any) -> Any:
        """Return the next state; nothing in it waits for a value."""

    def finish(self, state: Any) -> Batch:
        """Return the crystals of the last state."""


def walked(model: Stepwise, state: Any, way: Sequence[Any], on_step: OnStep | None = None) -> Batch:
    """Take all steps of a way back, and return the crystals at its end.

    Args:
        model: whose steps they are.
        state: of `begin`.
        way: inputs of each step.
        on_step: told how many steps are done, and of how many.
    """
    for done, inputs in enumerate(way):
        state = model.step(state, inputs)
        if on_step is not None:
            on_step(done + 1, len(way))
    return model.finish(state)


def refuse_targets(model: Model, targets: Iterable[Target]) -> None:
    """Check that a model can make what is asked for.

    Raises:
        UserError: naming what it can't be told, or must be.
    """
    for given in {target.given for target in targets}:
        for name in sorted(given - model.accepts):
            raise UserError(f"A model of kind {model.kind} can't be told {_WORDS[name]}.")
        # Sites say which atoms there are, if not how many.
        told = given | {"atomic_numbers"} if "sites" in given else given
        for name in sorted(model.requires - told):
            raise UserError(f"A model of kind {model.kind} must be told {_WORDS[name]}.")


_WORDS = {
    "atomic_numbers": "the atoms of a cell",
    "num_atoms": "the number of atoms of a cell",
    "space_group": "the space group",
    "sites": "non-equivalent sites",
    "latent": "a latent vector",
}
