"""Turn the features of proposals into their order, by one linear model.

Supporting entries say how likely one template is against the others. They say nothing of
decorations, and too little of a template's own doubts, so that a small softmax regression over all
proposals of a composition, fitted on crystals taken out of the library in turn, gives the order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.proposals.proposal import Proposal
from crysmetrics.space_group_settings import point_group_order

_FLOOR = 1e-6
"""Added to shares before logarithms are taken."""

MOST_ABOVE = 0.06
"""Distance above the hull in eV/atom beyond which a known structure becomes no less likely."""

FITTED = "calibration.json"
"""Name of the file that `training.fit_calibration` writes."""
WEIGHTS: dict[str, dict[str, float]] = json.loads(
    files("crysgen.retrieval.data").joinpath(FITTED).read_text(encoding="utf-8")
)
"""Weight of each feature: `cell` where the exact cell is wanted, of which there may be any
polymorph; `formula` where cell sizes compete, for the ground state."""
FEATURES = tuple(WEIGHTS["cell"])
"""Names of the features, in the order of tables."""
SIMPLICITY = ("log_num_atoms", "log_symmetry")
"""Features by which simple structures come first where a formula is asked for. Their weights are
not fitted to the crystals of the library, among which simple ones are no more likely, but chosen on
well-known crystals (`benchmarks/csp/textbook.py --crystals tuning`), as those are asked for more
often: with their formulas left out, the first proposal is right for 41 of 62 of them instead of 37,
and for 0.748 instead of 0.755 of 587 compounds on the hull that the networks have not seen."""


def features(proposal: Proposal) -> dict[str, float]:
    """Compute the inputs of the regression for a proposal, in the order of FEATURES."""
    given = proposal.features
    decorated = given.is_decorated
    closest, mean_contact = contacts(proposal)
    hull = given.e_above_hull
    return {
        "share": float(np.log(given.share + _FLOOR)),
        "first_share": float(np.log(given.first_share + _FLOOR)),
        "effective_support": float(np.log(given.effective_support)),
        "num_supporting": float(np.log(given.num_supporting)),
        "nearest": given.nearest / 5,
        "above_hull": 0.0 if np.isnan(hull) else min(hull, 0.3) * 5,
        "hull_unknown": float(np.isnan(hull)),
        "space_group": float(np.log(proposal.space_group)),
        "is_multiple": float(given.multiple > 1),
        "is_decorated": float(decorated),
        "parent_score": float(np.log(given.parent_score + _FLOOR)) if decorated else 0.0,
        "element_similarity": given.element_similarity if decorated else 0.0,
        "pattern": float(given.pattern) if decorated else 0.0,
        "num_patterns": float(np.log(given.num_patterns)) if decorated else 0.0,
        "closest_contact": closest,
        "too_close": min(closest - 0.75, 0.0),
        "mean_contact": mean_contact,
        "is_merged": float(given.is_merged),
        "stable_weight": float(np.log(given.stable_weight + _FLOOR)),
        "volume_disagreement": given.volume_disagreement,
        "user_entry": float(given.user_entry),
        "known_above_hull": min(given.known_above_hull, MOST_ABOVE),
        "plausibility": given.plausibility,
        "log_num_atoms": float(np.log(proposal.num_atoms)),
        "log_symmetry": float(np.log(point_group_order(proposal.space_group))),
    }


def contacts(proposal: Proposal) -> tuple[float, float]:
    """Compute the shortest distance, and the mean of each atom's, over sums of covalent radii."""
    from ase.data import covalent_radii

    from crysmetrics.geometry import pair_distances

    radii = covalent_radii[proposal.atomic_numbers]
    distances = pair_distances(proposal.lattice, proposal.frac_coords)
    nearest = (distances / (radii[:, None] + radii[None])).min(axis=1)
    return float(nearest.min()), float(nearest.mean())


def logits_of(table: NDArray[Any], by_formula: bool = False) -> NDArray[np.float64]:
    """Compute logits (n,) from rows (n, f) of features in the order of FEATURES."""
    weights = WEIGHTS["formula" if by_formula else "cell"]
    found: NDArray[np.float64] = table.astype(np.float64) @ [weights[name] for name in FEATURES]
    return found


def fit(
    tables: Sequence[NDArray[np.float64]],
    is_match: Sequence[NDArray[np.bool_]],
    around: NDArray[np.float64],
    penalty: float = 0.03,
    hopeless: float = 0.005,
    kept: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Fit weights (f,) that give matching proposals the largest share, by BFGS.

    Args:
        tables: (n, f) features of the proposals of each composition.
        is_match: (n,) which of them are right.
        around: (f,) weights that are good already.
        penalty: on squared differences from these, of normalised features; 0.03 is best in
            cross-validation.
        hopeless: share below which being right makes no difference.
        kept: (f,) which weights stay as they are; none by default.
    """
    from scipy.optimize import minimize

    used = [(x, y) for x, y in zip(tables, is_match, strict=True) if y.any()]
    spread = np.vstack(tables).std(axis=0)
    # Weights of features that never differ stay.
    free = spread > _FLOOR
    spread = np.where(free, spread, 1.0)
    if kept is not None:
        free &= ~kept
    start = around * spread

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, slope = 0.0, np.zeros_like(weights)
        for x, y in used:
            scaled = x / spread
            values = scaled @ weights
            shares = np.exp(values - values.max())
            shares /= shares.sum()
            hit = float(shares[y].sum())
            total -= np.log((1 - hopeless) * hit + hopeless)
            factor = (1 - hopeless) / ((1 - hopeless) * hit + hopeless)
            slope -= factor * ((shares * y) @ scaled - hit * (shares @ scaled))
        n = len(used)
        moved = weights - start
        return (
            total / n + penalty * float(moved @ moved),
            (slope / n + 2 * penalty * moved) * free,
        )

    found: NDArray[np.float64] = minimize(loss, start, jac=True, method="BFGS").x / spread
    return found
