"""Turn shares of proposals into probabilities that hold.

`scoring.calibration` orders the proposals of a composition, and its shares are of what was
proposed: too sure, as often nothing of it is right, and unsure where many proposals are nearly the
same structure. Two logistic regressions over share, place and a few other features, one of first
proposals and one of the others, say how likely each is to match the right structure, by the
tolerances of match rates. They are fitted to crystals taken out of the library in turn
(`training.fit_probability`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.proposals.proposal import Proposal
from crysgen.retrieval.scoring.calibration import FEATURES, features, logits_of

FITTED = "probability.json"
"""Name of the file that `training.fit_probability` writes."""
WEIGHTS: dict[str, dict[str, dict[str, float]]] = json.loads(
    files("crysgen.retrieval.data").joinpath(FITTED).read_text(encoding="utf-8")
)
"""Weight of each input for the `first` proposal and the `later` ones: `cell` where the exact cell
is wanted, `formula` where cell sizes compete."""
TAKEN = ("plausibility", "closest_contact", "is_decorated", "nearest", "num_supporting")
"""Features of the order that are inputs as well."""
INPUTS = (
    *("constant", "share", "log_share", "first_share", "num_proposals", "num_atoms", "place"),
    *TAKEN,
)
"""Names of the inputs, in the order of tables."""
FALLING = 1 - 1e-6
"""Factor from one probability to the next, at most: those of later places are no higher."""
_LEAST, _MOST = 1e-6, 1 - 1e-4
"""Range of shares whose log odds are taken."""


def inputs(
    logits: NDArray[np.float64], table: NDArray[np.float64], num_atoms: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compute the inputs (n, f) of the regression, in the order of INPUTS.

    Args:
        logits: (n,) of the proposals of one composition, falling.
        table: (n, F) of `scoring.calibration.features`, in the same order.
        num_atoms: (n,) of each proposal.
    """
    shares = np.exp(logits - logits.max())
    shares = np.clip(shares / shares.sum(), _LEAST, _MOST)
    odds = np.log(shares / (1 - shares))
    n = len(shares)
    constant = np.ones(n)
    own = [
        constant,
        odds,
        np.log(shares),
        odds[0] * constant,
        np.log(n) * constant,
        np.log(num_atoms),
        np.log1p(np.arange(n)),
    ]
    return np.column_stack([*own, table[:, [FEATURES.index(name) for name in TAKEN]]])


def probabilities(table: NDArray[np.float64], by_formula: bool = False) -> NDArray[np.float64]:
    """Compute probabilities (n,), which never rise, from inputs (n, f) in the order of INPUTS."""
    from scipy.optimize import isotonic_regression

    weights = WEIGHTS["formula" if by_formula else "cell"]
    first, later = (np.array([weights[of][name] for name in INPUTS]) for of in ("first", "later"))
    odds = np.concatenate([table[:1] @ first, table[1:] @ later])
    found = 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
    # Means over neighbouring places, as the lowest of them would be too low on average.
    if len(found) > 1:
        found[1:] = isotonic_regression(found[1:], increasing=False).x
    falling = FALLING ** np.arange(len(found))
    never_rising: NDArray[np.float64] = np.minimum.accumulate(found / falling) * falling
    return never_rising


def calibrated(proposals: Sequence[Proposal], by_formula: bool = False) -> list[Proposal]:
    """Sort proposals, the likeliest first; give them shares as scores, and probabilities.

    Args:
        proposals: of one composition.
        by_formula: whether cell sizes compete.
    """
    if not proposals:
        return []
    table = np.array([list(features(proposal).values()) for proposal in proposals])
    logits = logits_of(table, by_formula)
    order = np.argsort(-logits, kind="stable")
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    sizes = np.array([proposal.num_atoms for proposal in proposals])
    found = probabilities(inputs(logits[order], table[order], sizes[order]), by_formula)
    return [
        replace(proposals[k], score=float(shares[k]), probability=float(chance))
        for k, chance in zip(order.tolist(), found, strict=True)
    ]
