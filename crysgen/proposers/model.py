"""Sample candidates from a generative model, for each requested cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crysgen.proposers.base import Method, predicted
from crysgen.requests import CompositionRequest, Draw, draws
from crysgen.wyckoff.groups import draw_space_group
from crysgen.wyckoff.sizes import fit_sizes
from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.models.base import Model
    from crysgen.settings import Resources, SamplingSettings
    from crysmetrics.io import Crystals
    from crysmetrics.progress import Advance


class ModelSamples(Method):
    """See `crysgen.proposers.base.Method`; a piece is one draw."""

    name = "diffusion"
    is_distribution = True

    def __init__(
        self,
        requests: Sequence[CompositionRequest],
        settings: SamplingSettings,
        resources: Resources,
    ) -> None:
        self.settings, self.resources = settings, resources
        self.draw_for([self.fitted(request) for request in requests])

    def fitted(self, request: CompositionRequest) -> CompositionRequest:
        """Return a request in cells alone that the space group has places for.

        Raises:
            UserError: if there is none, with the reason and the nearest size that works.
        """
        if self.settings.space_group is None:
            return request
        return fit_sizes(request, self.settings.space_group, self.settings.max_atoms)

    def draw_for(self, requests: Sequence[CompositionRequest]) -> None:
        """Make the samples of these compositions the pieces of work."""
        self.draws = {str(draw.number): draw for draw in draws(requests, self.settings.seed)}

    def identity(self) -> dict[str, Any]:
        """Hash the model, whatever its name."""
        from crysgen.checkpoints import model_identity

        return dict(model_identity(self.settings.model))

    def prepare(self) -> None:
        """Load the model, and check that it can make these targets."""
        from crysgen.models.base import refuse_targets

        refuse_targets(self.model, (draw.target for draw in self._draws()))

    def pieces(self) -> list[str]:
        """Name one piece for each structure to be made."""
        return list(self.draws)

    def request_of(self, piece: str) -> int:
        """See `Method`."""
        return self.draws[piece].request

    @cached_property
    def model(self) -> Model:
        """The model, loaded when it is first needed."""
        from crysgen.checkpoints import load_model

        return load_model(self.settings.model, self._device)

    @cached_property
    def _device(self) -> str:
        from crysmetrics.device import torch_device

        return torch_device(self.resources.device)

    def _draws(self) -> list[Draw]:
        """List all draws; a model that accepts a space group is given the one that is wanted."""
        everything = list(self.draws.values())
        sites = self.settings.sites or None
        groups = [self.group_of(draw) for draw in everything]
        if sites is None and all(group is None for group in groups):
            return everything
        if "space_group" not in self.model.accepts and sites is None:
            if self.settings.draw_space_groups or self.name == "wyckoff":
                raise UserError(f"A model of kind {self.model.kind} can't be told the space group.")
            return everything
        return [
            replace(draw, target=replace(draw.target, space_group=group, sites=sites))
            for draw, group in zip(everything, groups, strict=True)
        ]

    def group_of(self, draw: Draw) -> int | None:
        """Choose the space group of a draw: the same for a seed, whatever else is drawn."""
        atoms = draw.target.atomic_numbers
        if self.settings.draw_space_groups:
            return draw_space_group(atoms or (), draw.seed)
        return self.settings.space_group

    def total(self, pieces: Sequence[str]) -> int:
        """Count structures times steps."""
        return len(pieces) * (self.settings.steps or self.model.default_steps)

    def run(self, pieces: Sequence[str], advance: Advance) -> Iterator[Crystals]:
        """Yield the candidates of one batch after the other, large cells first."""
        from crysgen.sampling import plan_batches, sample
        from crysmetrics.parallel import cpu_count

        workers = cpu_count(self.resources.workers)
        wanted = set(pieces)
        # All batches are planned, and the finished ones left out: what is left is as it was.
        size = self.resources.batch_size
        planned = plan_batches(self._draws(), self._device, size, workers, self.model.size_of)
        missing = [[draw for draw in batch if str(draw.number) in wanted] for batch in planned]
        for crystals in sample(
            self.model,
            [batch for batch in missing if batch],
            steps=self.settings.steps,
            device=self._device,
            workers=workers,
            advance=advance,
            unfinished=self.unfinished,
        ):
            yield self._described(crystals)

    def _described(self, crystals: Crystals) -> Crystals:
        count = len(crystals)
        positions = [self.request_of(name) for name in crystals.ids]
        steps = self.settings.steps or self.model.default_steps
        draws = 1 + np.asarray(crystals.properties.get("redrawn", np.zeros(count)), dtype=np.int64)
        properties = predicted(
            count,
            **crystals.properties,
            steps=steps * draws,
            request=np.array(positions, dtype=np.int64),
            method=np.full(count, self.name),
            prototype_id=np.full(count, "", dtype="<U1"),
        )
        return replace(crystals, properties=properties)
