"""The interface of proposers, and the table of them: they turn requests into candidate crystals.

A method divides its work into pieces with names, so that an interrupted run goes on with those
that are missing, and yields the candidates of finished pieces as Crystals. Ranking and output know
nothing of where a candidate came from but its properties. Adding a method touches one module and
the table here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from crysmetrics.errors import UserError
from crysmetrics.packages import require

if TYPE_CHECKING:
    from crysgen.requests import CompositionRequest
    from crysgen.settings import Resources, SamplingSettings
    from crysgen.unfinished import UnfinishedBatches
    from crysmetrics.io import Crystals
    from crysmetrics.progress import Advance

METHODS: dict[str, tuple[str, ...]] = {
    "auto": (
        "crysgen.proposers.retrieval:Retrieval",
        "crysgen.proposers.auto:ModelShare",
        "crysgen.proposers.variations:Variations",
    ),
    "retrieval": ("crysgen.proposers.retrieval:Retrieval",),
    "diffusion": ("crysgen.proposers.model:ModelSamples",),
    "wyckoff": ("crysgen.proposers.wyckoff:WyckoffSamples",),
    "refine": ("crysgen.proposers.refine:Refine",),
}
"""What `--method` takes: the classes of the methods whose candidates are ranked together."""

LIBRARIES = ("known", "benchmark")
"""What `--library` takes: all that is known, or the part that benchmarks may see."""
PREDICTED = "predicted"
"""Status of candidates that are no known structure of the very formula."""
PREDICTED_TIER = 2
"""Tier of predictions: known structures have 1, and a prediction that stands before them has 0."""
MORE_SYMMETRIC_TIER = PREDICTED_TIER + 1
"""Tier of structures, known or not, that have more symmetry than the space group asked for."""

CANDIDATE_PROPERTIES = {
    "request": "iu",
    "method": "U",
    "prototype_id": "U",
    "score": "f",
    "probability": "f",
    "seed": "iu",
    "redrawn": "iu",
    "steps": "iu",
    "status": "U",
    "tier": "iu",
}
"""Properties of candidates and kinds of their arrays: position of the request, name of
the method, id of the known structure it came from ("" if none), the method's own score and the
probability that the structure is the right one (NaN if none; higher is better), the structure's
seed, how many draws before it were no crystals, how many calls of a model it took in all, whether
it is predicted or known (and as what), and its tier: those of a lower one come first, whatever the
scores."""


def predicted(count: int, **given: Any) -> dict[str, Any]:
    """Fill in the properties of predicted candidates that nothing is known of.

    Args:
        count: B of candidates.
        given: values (B,) of other properties, or of these, by name.
    """
    import numpy as np  # here: the table of methods is read for help, which imports nothing heavy

    unknown = {
        "score": np.full(count, np.nan),
        "probability": np.full(count, np.nan),
        "redrawn": np.zeros(count, dtype=np.int64),
        "status": np.full(count, PREDICTED),
        "tier": np.full(count, PREDICTED_TIER, dtype=np.int64),
    }
    return unknown | given


class Method(ABC):
    """One source of candidates, for one request.

    Args:
        requests: the compositions.
        settings: what decides the candidates.
        resources: what decides how fast they are made.
    """

    name: ClassVar[str]
    is_distribution: ClassVar[bool] = False
    """Whether candidates are independent samples: by themselves, equal ones are all kept."""
    unfinished: UnfinishedBatches | None = None
    """Where the work within a piece is kept, for methods whose pieces take long."""

    @abstractmethod
    def __init__(
        self,
        requests: Sequence[CompositionRequest],
        settings: SamplingSettings,
        resources: Resources,
    ) -> None: ...

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what decides the candidates beside the settings, such as hashes; must be fast."""

    @abstractmethod
    def prepare(self) -> None:
        """Load models and libraries, before anything is written.

        Raises:
            UserError: if that can't be had.
        """

    def plan(self, earlier: Crystals) -> None:  # noqa: B027 (most need not plan)
        """Divide the work into pieces, which may depend on what other methods have made.

        Called before `pieces`, `total` and `run`.

        Args:
            earlier: all candidates of the methods before this one in the request.
        """

    @abstractmethod
    def pieces(self) -> list[str]:
        """List the names of all pieces of work, without `/`, the same at every run."""

    @abstractmethod
    def request_of(self, piece: str) -> int:
        """Return the position of the request that a piece belongs to."""

    @abstractmethod
    def total(self, pieces: Sequence[str]) -> int:
        """Count the work of these pieces, in the units that `run` reports."""

    @abstractmethod
    def run(self, pieces: Sequence[str], advance: Advance) -> Iterator[Crystals]:
        """Yield the candidates of these pieces, as soon as some pieces are complete.

        Their ids are `PIECE` or `PIECE/anything`. A piece without candidates is a failure whose
        `file` is its name.
        """


def build_methods(
    requests: Sequence[CompositionRequest], settings: SamplingSettings, resources: Resources
) -> list[Method]:
    """Build the methods that the settings name; nothing is loaded or computed yet.

    Raises:
        UserError: if there is no such method, or PyTorch is not installed.
    """
    require("torch", "torch", "Generating crystals")
    if settings.method not in METHODS:
        raise UserError(f"There is no method {settings.method!r}; known are {', '.join(METHODS)}.")
    built: list[Method] = []
    for place in METHODS[settings.method]:
        module, _, name = place.partition(":")
        built.append(getattr(import_module(module), name)(requests, settings, resources))
    return built
