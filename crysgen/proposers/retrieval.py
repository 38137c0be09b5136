"""Propose known structures with the elements of a request in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crysgen.proposers.base import Method, predicted
from crysgen.requests import CompositionRequest
from crysgen.wyckoff.sizes import fit_sizes
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, Failure

if TYPE_CHECKING:
    from crysgen.retrieval.library.library import Library
    from crysgen.retrieval.proposals.proposal import Proposal
    from crysgen.settings import Resources, SamplingSettings
    from crysmetrics.progress import Advance

MORE = 4
"""Number of proposals beyond those that are wanted, since some turn out to be one structure."""
POOL = 100
"""Number of proposals from which those to relax are taken."""
POOLS = (24, POOL)
"""Numbers of proposals, of which the first that is large enough is made."""
LOOKED_AT = 20
"""Number of the likeliest proposals that are relaxed, though fewer may be wanted."""
NAMED_GROUPS = 6
"""Space groups that a message names."""
EXPLORED = 4
"""Number of the most plausible of the other proposals that are relaxed as well."""


class Retrieval(Method):
    """See `crysgen.proposers.base.Method`; a piece is one request."""

    name = "retrieval"

    def __init__(
        self,
        requests: Sequence[CompositionRequest],
        settings: SamplingSettings,
        resources: Resources,
    ) -> None:
        self.requests, self.settings, self.resources = requests, settings, resources

    def identity(self) -> dict[str, Any]:
        """Hash the libraries and what was learned from them."""
        from crysgen.retrieval.library.library import library_files

        digest = hashlib.sha256()
        for path in library_files():
            digest.update(path.read_bytes())
        return {"library_sha256": digest.hexdigest()}

    def prepare(self) -> None:
        """Load the library."""
        _ = self.library

    def pieces(self) -> list[str]:
        """Name one piece for each composition."""
        return [str(position) for position in range(len(self.requests))]

    def request_of(self, piece: str) -> int:
        """See `Method`."""
        return int(piece)

    @cached_property
    def library(self) -> Library:
        """Library, read when it is first needed."""
        from crysgen.retrieval.library.library import Library

        return Library.load(everything=self.settings.library == "known")

    def total(self, pieces: Sequence[str]) -> int:
        """Count compositions."""
        return len(pieces)

    def run(self, pieces: Sequence[str], advance: Advance) -> Iterator[Crystals]:
        """Yield the candidates of one composition after the other."""
        for piece in pieces:
            yield self._candidates(piece)
            advance(1)

    def proposals(
        self, request: CompositionRequest, count: int, any_group: bool = False
    ) -> list[Proposal]:
        """Propose structures for a composition in all its cell sizes.

        Args:
            request: the composition.
            count: how many at most.
            any_group: whether the space group that is wanted does not count.
        """
        from crysgen.retrieval.propose import propose

        settings = self.settings
        return propose(
            self.library,
            request.formula.counts,
            count,
            units=self._units(request),
            exclude_ids=settings.exclude,
            space_group=None if any_group else settings.space_group,
            any_cell=request.any_cell,
        )

    def _number(self, request: CompositionRequest) -> int:
        """Say how many proposals are made, of which the best are kept.

        For users it is the same for few and many, so that order and scores are the same too.
        """
        least = request.count + MORE
        if self.settings.library == "benchmark":
            return least
        return next((n for n in POOLS if n >= least), least)

    def _why_none(self, request: CompositionRequest) -> str:
        """Say why nothing is proposed for a composition."""
        group = self.settings.space_group
        others = self.proposals(request, POOL, any_group=True) if group is not None else []
        if group is None or not others:
            hint = "; --method wyckoff places its atoms on Wyckoff positions"
            none = f"the library knows no structure that {request.formula} could have"
            return none + hint * (self.settings.method == "retrieval")
        groups = list(dict.fromkeys(p.space_group for p in others))
        named = ", ".join(map(str, groups[:NAMED_GROUPS]))
        if len(groups) > NAMED_GROUPS:
            named += f" and {len(groups) - NAMED_GROUPS} more"
        reason = (
            f"no structure that {request.formula} could have obeys space group {group}; those "
            f"proposed are of {named}, the likeliest first"
        )
        try:
            fit_sizes(request, group, self.settings.max_atoms)
        except UserError as error:  # no structure whatever could
            reason += f". {str(error).removesuffix('.')}"
        return reason

    def _units(self, request: CompositionRequest) -> tuple[int, ...]:
        """List the cell sizes that are proposed: of benchmarks those of models alone."""
        if self.settings.library == "benchmark":
            return request.units
        return request.units + request.large_units

    def _candidates(self, piece: str) -> Crystals:
        from crysgen.retrieval.proposals.proposal import to_crystals

        request = self.requests[int(piece)]
        if self.settings.relax:
            found = to_relax(
                self.proposals(request, max(POOL, request.count + MORE)), request.count
            )
        else:
            found = self.proposals(request, self._number(request))
        if not found:
            reason = self._why_none(request)
            return Crystals.empty([Failure(piece, reason)])
        count = len(found)
        properties = predicted(
            count,
            request=np.full(count, int(piece), dtype=np.int64),
            method=np.array([p.method for p in found]),
            prototype_id=np.array([p.template_id for p in found]),
            score=np.array([p.score for p in found]),
            probability=np.array([p.probability for p in found]),
            seed=np.full(count, self.settings.seed, dtype=np.int64),
            steps=np.zeros(count, dtype=np.int64),
            status=np.array([p.status for p in found]),
            tier=np.array([p.tier for p in found], dtype=np.int64),
        )
        return replace(to_crystals(found, f"{piece}/"), properties=properties)


def to_relax(proposals: Sequence[Proposal], count: int) -> list[Proposal]:
    """Pick what to relax for `count` structures: the likeliest, and some plausible others."""
    first = max(count, min(LOOKED_AT, 2 * count + 8))
    rest = sorted(proposals[first:], key=lambda p: -p.features.plausibility)
    return [*proposals[:first], *rest[:EXPLORED]]
