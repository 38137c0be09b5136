"""How much of each method `--method auto` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crysgen.methods.retrieval import Retrieval
from crysgen.requests import Asked

SHARE = 0.25
"""Of the structures asked for, how many are also drawn from noise: a formula may have a structure
that no library knows."""


def left_to_diffusion(asked: Sequence[Asked], retrieval: Retrieval) -> list[Asked]:
    """What diffusion is asked for: a share, and all that the library has no proposal for.

    Positions are those of `asked`; a composition of which nothing is left has no sizes.
    """
    found = []
    for one in asked:
        known = len(retrieval.proposals(one, one.count))
        wanted = max(one.count - known, -int(-SHARE * one.count // 1))
        found.append(replace(one, sizes=_fewer(one.sizes, wanted)))
    return found


def _fewer(sizes: Sequence[tuple[int, int]], wanted: int) -> tuple[tuple[int, int], ...]:
    """The first `wanted` samples, taken from the sizes in turn, the largest share first."""
    given = dict.fromkeys((unit for unit, _ in sizes), 0)
    left = dict(sizes)
    while wanted > 0 and any(left.values()):
        # The size that is furthest behind its share is next.
        unit = max(left, key=lambda u: (left[u] > 0, dict(sizes)[u] / (given[u] + 1)))
        given[unit] += 1
        left[unit] -= 1
        wanted -= 1
    return tuple((unit, n) for unit, n in given.items() if n)
