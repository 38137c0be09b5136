"""Vary the first proposals of the library, for `--method auto`.

Noised far more than `--method refine` does it and denoised, a proposal becomes a relative of
itself: another distortion, another order of the same elements, a neighbouring structure. These are
others than what the model makes of pure noise: on `val`, either finds structures that the other
does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crysgen.proposers.base import PREDICTED, Method, predicted
from crysgen.proposers.model import ModelSamples
from crysgen.requests import CompositionRequest, derived_seed
from crysmetrics.io import Crystals, Failure

if TYPE_CHECKING:
    from crysgen.settings import Resources, SamplingSettings
    from crysmetrics.progress import Advance

STRENGTHS = (0.3, 0.6)
"""Shares of the steps by which each proposal is noised: on `val`, what the smaller and what the
larger finds beside retrieval and samples is nearly disjoint (benchmarks/RESULTS.md)."""
SHARE = 0.2
"""Share of the requested structures that are varied, the likeliest proposals first."""
SURE = 0.9
"""Probability of the first proposal from which on a composition needs no variations."""
_AT_ONCE = 64


class Variations(Method):
    """See `crysgen.proposers.base.Method`; a piece is one composition."""

    name = "variation"

    def __init__(
        self,
        requests: Sequence[CompositionRequest],
        settings: SamplingSettings,
        resources: Resources,
    ) -> None:
        self.requests, self.settings = requests, settings
        self.samples = ModelSamples(requests, replace(settings, space_group=None), resources)
        self.starts: dict[str, Crystals] = {}

    def identity(self) -> dict[str, Any]:
        """Hash the model."""
        return self.samples.identity()

    def prepare(self) -> None:
        """Load nothing: the samples of the same model have been prepared."""

    @cached_property
    def _can_vary(self) -> bool:
        from crysgen.models.base import Noises

        return isinstance(self.samples.model, Noises)

    def plan(self, earlier: Crystals) -> None:
        """Choose the first proposals of each composition that is not sure."""
        self.starts = {}
        if self.settings.space_group is not None or self.settings.draw_space_groups:
            return  # what is varied keeps no space group
        if not len(earlier) or not self._can_vary:
            return
        position = np.asarray(earlier.properties["request"], dtype=np.int64)
        chances = np.asarray(earlier.properties["probability"], dtype=np.float64)
        can_vary = (earlier.properties["status"] == PREDICTED) & np.isfinite(chances)
        for number, request in enumerate(self.requests):
            here = np.flatnonzero(position == number)
            if np.nan_to_num(chances[here]).max(initial=0.0) >= SURE:
                continue
            atoms = sum(request.formula.counts.values())
            fits = np.isin(earlier.num_atoms[here], [unit * atoms for unit in request.units])
            here = here[fits & can_vary[here]]
            best = here[np.argsort(-chances[here], kind="stable")]
            wanted = -int(-SHARE * request.count // 1)
            if len(best):
                self.starts[str(number)] = earlier[best[:wanted]]

    def pieces(self) -> list[str]:
        """Name one piece for each composition whose proposals are varied."""
        return list(self.starts)

    def request_of(self, piece: str) -> int:
        """See `Method`."""
        return int(piece)

    def total(self, pieces: Sequence[str]) -> int:
        """Count compositions."""
        return len(pieces)

    def run(self, pieces: Sequence[str], advance: Advance) -> Iterator[Crystals]:
        """Yield the variations of some compositions after the other, as many as fit a batch."""
        group: list[str] = []
        for piece in pieces:
            group.append(piece)
            if sum(len(self.starts[one]) for one in group) >= _AT_ONCE:
                yield self._varied(group)
                advance(len(group))
                group = []
        if group:
            yield self._varied(group)
            advance(len(group))

    def _varied(self, pieces: Sequence[str]) -> Crystals:
        """Vary the proposals of some compositions; one without any variation is a failure."""
        from crysgen.training.data import canonical

        parts = []
        for piece in pieces:
            starts = self.starts[piece]
            names = [f"{piece}/{k}" for k in range(len(starts))]
            parts.append(starts.with_ids(names).with_failures(()))
        starts = canonical(Crystals.concatenate(parts), primitive=False)
        made = Crystals.empty()
        if len(starts):
            made = Crystals.concatenate([self._denoised(starts, share) for share in STRENGTHS])
        found = {name.partition("/")[0] for name in made.ids}
        empty = [Failure(piece, "no variation is a crystal") for piece in pieces]
        return made.with_failures([one for one in empty if one.file not in found])

    def _denoised(self, starts: Crystals, share: float) -> Crystals:
        """Noise crystals by a share of the steps and denoise them; failed ones are left out."""
        import torch

        from crysgen.ranking.selection import SHORTEST_DISTANCE
        from crysgen.training.batch import Batch
        from crysmetrics.geometry import min_distances
        from crysmetrics.parallel import flushed_denormals

        model: Any = self.samples.model
        steps = self.settings.steps or model.default_steps
        names = [f"{name}-{share:g}" for name in starts.ids]
        seeds = [
            # The same for a composition and a place in its order, whatever else is asked for.
            derived_seed(self.settings.seed, crystal.atomic_numbers.tolist(), name.split("/")[1])
            for crystal, name in zip(starts, names, strict=True)
        ]
        parts, owners = [], []
        # Of like sizes together, since each crystal of a batch costs what the largest does.
        order = np.argsort(starts.num_atoms, kind="stable")
        for begin in range(0, len(order), _AT_ONCE):
            rows = order[begin : begin + _AT_ONCE]
            batch = Batch.from_crystals(starts[rows], torch.float32).to(model.device)
            with flushed_denormals():
                made = model.refine(batch, [seeds[row] for row in rows], share, steps)
            found, whole = made.finite_crystals([names[row] for row in rows])
            parts.append(found)
            owners.append(rows[whole])
        crystals = Crystals.concatenate(parts)
        kept = np.flatnonzero(min_distances(crystals, workers=1) > SHORTEST_DISTANCE)
        crystals, rows, count = crystals[kept], np.concatenate(owners)[kept], len(kept)
        taken = max(1, round(share * steps))
        properties = predicted(
            count,
            request=np.asarray(starts.properties["request"])[rows],
            method=np.full(count, "refine"),
            prototype_id=np.asarray(starts.properties["prototype_id"])[rows],
            seed=np.array(seeds, dtype=np.int64)[rows],
            steps=np.full(count, taken, dtype=np.int64),
        )
        return replace(crystals, properties=properties)
