"""Share out draws of a model beside retrieval, for `--method auto`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from crysgen.proposers.model import ModelSamples
from crysgen.requests import CompositionRequest, Draw
from crysgen.wyckoff.groups import draw_space_group
from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.settings import Resources, SamplingSettings
    from crysmetrics.io import Crystals

SHARE = 0.25
"""Share of the requested structures that are also drawn from noise: a formula may have a structure
that no library knows."""


class ModelShare(ModelSamples):
    """Samples of a model for a share of each composition, and for all where proposals are missing.

    See `crysgen.proposers.base.Method`.
    """

    def __init__(
        self,
        requests: Sequence[CompositionRequest],
        settings: SamplingSettings,
        resources: Resources,
    ) -> None:
        super().__init__(requests, settings, resources)
        self.requests = requests
        self.empty: set[int] = set()

    def group_of(self, draw: Draw) -> int | None:
        """See `ModelSamples`; of what the library has no proposal for, groups are drawn."""
        atoms, given = draw.target.atomic_numbers, super().group_of(draw)
        may = "space_group" in self.model.accepts and self.settings.sites == ()
        if given is None and atoms and may and draw.request in self.empty:
            return draw_space_group(atoms, draw.seed)
        return given

    def fitted(self, request: CompositionRequest) -> CompositionRequest:
        """See `ModelSamples`; without a place in the space group nothing is drawn."""
        try:
            return super().fitted(request)
        except UserError:
            return replace(request, sizes=())

    def plan(self, earlier: Crystals) -> None:
        """Share out the draws by what the library has proposed for each composition."""
        known = np.zeros(len(self.requests), dtype=np.int64)
        if len(earlier):
            known += np.bincount(earlier.properties["request"], minlength=len(self.requests))
        self.empty = {position for position, have in enumerate(known.tolist()) if not have}
        left = left_to_model(self.requests, known.tolist())
        self.draw_for([self.fitted(request) for request in left])


def left_to_model(
    requests: Sequence[CompositionRequest], known: Sequence[int]
) -> list[CompositionRequest]:
    """Request a share of each composition, or as many samples as proposals are missing.

    Args:
        requests: the compositions.
        known: how many candidates each has already.

    Returns:
        The compositions in the same order; one without any samples has no sizes.
    """
    found = []
    for request, have in zip(requests, known, strict=True):
        wanted = max(request.count - have, -int(-SHARE * request.count // 1))
        found.append(replace(request, sizes=_fewer(request.sizes, wanted)))
    return found


def _fewer(sizes: Sequence[tuple[int, int]], wanted: int) -> tuple[tuple[int, int], ...]:
    """Distribute `wanted` samples over the cell sizes in turn, the largest share first."""
    given = dict.fromkeys((unit for unit, _ in sizes), 0)
    left = dict(sizes)
    while wanted > 0 and any(left.values()):
        # The size that is furthest behind its share is next.
        unit = max(left, key=lambda u: (left[u] > 0, dict(sizes)[u] / (given[u] + 1)))
        given[unit] += 1
        left[unit] -= 1
        wanted -= 1
    return tuple((unit, n) for unit, n in given.items() if n)
