"""Do probabilities hold? Brier score, calibration error, and the reliability diagram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BINS = 10
"""Bins of equal width between 0 and 1."""


def reliability(
    probabilities: NDArray[np.float64], is_right: NDArray[np.bool_], bins: int = BINS
) -> pd.DataFrame:
    """One row for each bin that is not empty: number, mean probability, share that is right with
    its standard error."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows = []
    for k in np.unique(place):
        here = place == k
        share, n = float(is_right[here].mean()), int(here.sum())
        rows.append(
            {
                "from": k / bins,
                "n": n,
                "probability": float(probabilities[here].mean()),
                "right": share,
                "± right": np.sqrt(share * (1 - share) / n),
            }
        )
    return pd.DataFrame(rows)


def calibration(
    probabilities: NDArray[np.float64], is_right: NDArray[np.bool_]
) -> dict[str, float]:
    """Brier score; expected calibration error (Naeini et al., AAAI 2015): the mean difference of
    probability and share over bins, weighted by their numbers; and what that error would be by
    chance alone, were the probabilities exact."""
    table = reliability(probabilities, is_right)
    error = float((table.n * (table.probability - table.right).abs()).sum() / table.n.sum())
    rng = np.random.default_rng(0)
    chance = []
    for _ in range(200):
        drawn = reliability(probabilities, rng.random(len(probabilities)) < probabilities)
        chance.append((drawn.n * (drawn.probability - drawn.right).abs()).sum() / drawn.n.sum())
    return {
        "n": len(probabilities),
        "probability": float(probabilities.mean()),
        "right": float(is_right.mean()),
        "Brier": float(((probabilities - is_right) ** 2).mean()),
        "calibration error": error,
        "by chance": float(np.mean(chance)),
    }


def diagram(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw the share that is right against the probability, one line for each table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(4.5, 4.5))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, table in tables.items():
        axes.errorbar(table.probability, table.right, table["± right"], marker="o", label=name)
    axes.set(xlabel="probability", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
