"""Phase tables: the distinct structures of each formula, the one of lowest energy first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crysgen.ranking.merge import same_structures

if TYPE_CHECKING:
    import pandas as pd

    from crysgen.samples import Result

RELAXED, PREDICTED = "relaxed", "ALIGNN"
"""Origins of energies where no potential is named: relaxation, and the prediction for the structure
as it stands."""
KEPT = ("file", "num_atoms", "space_group", "prototype", "status", "volume_per_atom", "probability")
"""Columns of the table of samples that phase tables have too."""


def phase_table(result: Result) -> pd.DataFrame:
    """List the distinct structures of each formula, the one of lowest energy first.

    Of structures that match by pymatgen's default tolerances the one of lowest energy stands for
    all. Where any structure of a formula was relaxed, relaxed energies count, otherwise predicted
    formation energies; those without come last, the likeliest first.

    Args:
        result: of a run.

    Returns:
        One row for each, formula after formula: `formula`, `above_lowest` (eV/atom above the lowest
        of the formula; NaN where there is no energy), `is_bound` (whether relaxation was stopped
        before its end, so that the energy is an upper bound), `energy_by` (whose energy it is), and
        the columns KEPT of the table of samples.
    """
    import pandas as pd

    parts = []
    for formula in dict.fromkeys(result.table["formula"]):
        rows = np.flatnonzero(result.table["formula"] == formula)
        part = result.table.iloc[rows]
        relaxed = part["relaxed_energy"].to_numpy(dtype=np.float64)
        is_relaxed = bool(np.isfinite(relaxed).any())
        predicted = part["predicted_formation_energy_per_atom"].to_numpy(dtype=np.float64)
        energies = relaxed if is_relaxed else predicted
        filled = np.nan_to_num(energies, nan=np.inf)
        labels = same_structures(result.crystals[rows])
        order = np.lexsort((part["rank"].to_numpy(), filled))
        first = list({int(labels[k]): k for k in order[::-1].tolist()}.values())[::-1]
        known = np.isfinite(energies)
        lowest = energies[known].min() if known.any() else np.nan
        origin = part["potential"].where(part["potential"] != "", RELAXED).to_numpy()
        table = pd.DataFrame(
            {
                "formula": formula,
                "above_lowest": (energies - lowest).round(6),
                "is_bound": part["relaxation"].isin(("stopped early", "not to the end")).to_numpy(),
                "energy_by": np.where(known, origin if is_relaxed else PREDICTED, ""),
                **{name: part[name].to_numpy() for name in KEPT},
            }
        )
        parts.append(table.iloc[first])
    return pd.concat(parts, ignore_index=True)
