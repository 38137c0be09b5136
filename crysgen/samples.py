"""Candidates and samples described: symmetry, predicted energies, names of files, and the table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from crysgen.columns import COLUMNS
from crysgen.compositions.formulas import Formula
from crysgen.output import NothingMadeError
from crysgen.ranking.relaxing import DISAGREEMENT, RELAXATION, above_lowest
from crysgen.ranking.selection import Selection
from crysgen.requests import CompositionRequest
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.io import Crystals
from crysmetrics.relaxation import ENERGY

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from pymatgen.core import Structure

    from crysmetrics.symmetry import StandardCell

_KEPT = ("status", "method", "prototype_id", "seed", "steps")
"""Properties of candidates that are columns of the table."""
_OF_MODELS = ("diffusion", "wyckoff", "refine")
"""Methods whose crystals come from a model, and are symmetric by accident only."""
SAMPLE_TOLERANCE = 1.0
"""Å beyond which no atom of a model's sample is moved to make its symmetry exact: chosen on `val`
(benchmarks/RESULTS.md), where 0.3 and 1.0 lose the same few of the poorest matches."""
RELAXED_TOLERANCE = 0.1
"""The same after relaxation, where distortions are real."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Crystals that a run made.

    Attributes:
        crystals: request after request, the best of each first; ids are names of files without
            suffix.
        table: one row for each, with the columns of `samples.csv`.
        failures: one for each structure that could not be made: `formula`, `ref_id`, `reason`.
        redrawn: number of draws that were invalid and were repeated.
        notes: sentences that a reader of the result should know.

    It is a sequence of pymatgen structures, the best of each composition first, whose `properties`
    hold their rows of the table.

    >>> result = crysgen.generate("Li2O")                                 # doctest: +SKIP
    >>> len(result), result[0].get_space_group_info()                     # doctest: +SKIP
    """

    crystals: Crystals
    table: pd.DataFrame
    failures: list[dict[str, str]]
    redrawn: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.crystals)

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.structures)

    @overload
    def __getitem__(self, key: int) -> Structure: ...
    @overload
    def __getitem__(self, key: slice) -> list[Structure]: ...
    def __getitem__(self, key: int | slice) -> Structure | list[Structure]:
        return self.structures[key]

    @cached_property
    def structures(self) -> list[Structure]:
        """Structures of pymatgen, with their rows of the table as `properties`."""
        found = self.crystals.to_pymatgen()
        for structure, row in zip(found, self.table.to_dict("records"), strict=True):
            structure.properties.update({str(name): value for name, value in row.items()})
        return found

    @cached_property
    def atoms(self) -> list[Atoms]:
        """Atoms of ASE, with their rows of the table as `info`."""
        from ase import Atoms

        rows = self.table.to_dict("records")
        return [
            Atoms(
                numbers=crystal.atomic_numbers,
                cell=crystal.lattices[0],
                scaled_positions=crystal.frac_coords,
                pbc=True,
                info={str(name): value for name, value in row.items()},
            )
            for crystal, row in zip(self.crystals, rows, strict=True)
        ]

    def to_html(self) -> str:
        """Write the page of candidates: pictures, a 3D viewer, energies and reasons."""
        from crysgen.candidates_page import render

        return render(self)

    def _repr_html_(self) -> str:
        """Show the first candidates with their pictures in a notebook."""
        from crysgen.candidates_page import notebook_table

        return notebook_table(self)

    def summary(self) -> dict[str, Any]:
        """Count what was made, for the record of the run."""
        return {
            "structures": len(self.crystals),
            "redrawn": self.redrawn,
            "failures": self.failures,
            "notes": list(self.notes),
        }


def symmetric(
    candidates: Crystals, settings: SamplingSettings, tolerance: float = SAMPLE_TOLERANCE
) -> Crystals:
    """Make candidates symmetric as the settings have it, and keep those of the wanted space group.

    What has more symmetry than that obeys it too, and is put into its cell.

    Proposals of the library stay as they are in their own cells: they have the symmetry of the
    crystals they come from, and a tolerance for samples would take distortions that are real.

    Args:
        candidates: of all methods.
        settings: of the run.
        tolerance: Å beyond which no atom of a model's sample is moved in its own cell.

    Raises:
        NothingMadeError: if no candidate obeys that space group.
    """
    from crysmetrics.io.symmetrized import primitive, symmetrized, symmetrized_in_place

    given = _obeying(candidates, settings, tolerance)
    if settings.symmetrize is not False:
        of_models = np.isin(candidates.properties["method"], _OF_MODELS)
        of_models[list(given)] = False
        of_models &= not settings.gives_groups  # they have them, and are symmetric exactly
        candidates = symmetrized_in_place(candidates, tolerance, of_models)
    if settings.standard_cells:
        imposed = given | _more_symmetric(candidates, settings, given)
        candidates = symmetrized(candidates, settings.tolerance, imposed)
    if settings.space_group is not None:
        groups = stated_space_groups(candidates)
        kept = groups == settings.space_group
        if not kept.any():
            found = ", ".join(map(str, np.unique(groups).tolist()))
            raise NothingMadeError(
                f"None of {len(candidates)} candidates has space group {settings.space_group}; "
                f"they have {found}."
            )
        candidates = candidates[kept].with_failures(candidates.failures)
    return primitive(candidates) if settings.cell == "primitive" else candidates


def stated_space_groups(crystals: Crystals) -> NDArray[np.int64]:
    """Read space group numbers (B,) of crystals in conventional cells."""
    from crysmetrics.io.symmetrized import hall_numbers
    from crysmetrics.space_group_settings import setting_of

    numbers = [setting_of(hall).space_group for hall in hall_numbers(crystals)]
    return np.array(numbers, dtype=np.int64)


def _obeying(
    candidates: Crystals, settings: SamplingSettings, tolerance: float
) -> dict[int, StandardCell]:
    """Find the models' samples that stand in the wanted space group's cell and obey it already.

    They stay in it, also where they have more symmetry than that. Relaxation leaves them nearly so.
    """
    if settings.space_group is None:
        return {}
    from crysmetrics.space_groups.groups import space_group
    from crysmetrics.symmetrize import impose_setting
    from crysmetrics.symmetry import StandardCell, cells_of

    group, found = space_group(settings.space_group), {}
    cells = cells_of(candidates)
    reach = min(tolerance, RELAXED_TOLERANCE)
    for row in np.flatnonzero(np.isin(candidates.properties["method"], _OF_MODELS)).tolist():
        exact = impose_setting(cells[row], group.hall_number, reach)
        if exact is not None:
            found[row] = StandardCell(exact, group.number, group.hall_number)
    return found


def _more_symmetric(
    candidates: Crystals, settings: SamplingSettings, given: Mapping[int, StandardCell]
) -> dict[int, StandardCell]:
    """Find candidates whose space groups are supergroups of the wanted one, in the cells of that.

    Args:
        candidates: of all methods.
        settings: of the run.
        given: those that are not looked at.
    """
    if settings.space_group is None:
        return {}
    from crysmetrics.space_groups.subgroups import in_subgroup
    from crysmetrics.symmetry import cells_of, standard_cell

    found = {}
    for row, cell in enumerate(cells_of(candidates)):
        own = None if row in given else standard_cell(cell, settings.tolerance)
        if own is None:
            continue
        lower = own if own.space_group == settings.space_group else None
        found[row] = lower or in_subgroup(own, settings.space_group) or own
    return found


def space_group_numbers(crystals: Crystals, settings: SamplingSettings) -> NDArray[np.int64]:
    """Find space group numbers (B,): stated in files, or by the tolerance where these are in P1."""
    from crysmetrics.symmetry import space_groups

    if settings.conventional_cells:
        return stated_space_groups(crystals)
    return space_groups(crystals, settings.tolerance)


def formation_energies(
    crystals: Crystals, settings: SamplingSettings, resources: Resources
) -> NDArray[np.float64]:
    """Predict formation energies (B,) in eV/atom by ALIGNN; NaN where it fails or is not asked."""
    if not settings.energies:
        return np.full(len(crystals), np.nan)
    from crysmetrics.features.cache import open_cache
    from crysmetrics.features.extractor import Run
    from crysmetrics.features.sample import Sample
    from crysmetrics.metrics.alignn import energies

    how = Run(workers=resources.workers, cache=open_cache(resources.cache), device=resources.device)
    sample = Sample(crystals, "gen", run=how)
    values = energies(sample)
    for name, reason in sample.failed_features():
        log.info("no energy of %s: %s", name, reason)
    return values


def describe(
    candidates: Crystals,
    selection: Selection,
    requests: Sequence[CompositionRequest],
    settings: SamplingSettings,
) -> tuple[Crystals, pd.DataFrame]:
    """Name the selected candidates after their files, and make the table of them.

    Args:
        candidates: B.
        selection: of these.
        requests: compositions and how many samples of each.
        settings: of the run.
    """
    chosen = candidates[selection.rows].with_ids(_labels(candidates, selection, requests))
    measured = {
        "min_distance": selection.distances.round(5),
        "predicted_formation_energy_per_atom": selection.energies.round(6),
        "score": selection.scores.round(6),
        "probability": selection.probabilities.round(4),
        **_relaxed(candidates[selection.rows], settings),
        "rank": selection.ranks,
    }
    return chosen, _table(chosen, measured, requests, settings)


def _relaxed(crystals: Crystals, settings: SamplingSettings) -> dict[str, Any]:
    """Make the columns about relaxation, empty where there was none."""
    nothing = np.full(len(crystals), np.nan)
    given = crystals.properties
    energies = np.asarray(given.get(ENERGY, nothing), dtype=np.float64)
    names = ", ".join(settings.potentials) + ", D3" * settings.dispersion
    return {
        "relaxed_energy": energies.round(6),
        "relaxed_above_lowest": above_lowest(energies, given["request"]).round(6),
        "relaxed_disagreement": np.asarray(given.get(DISAGREEMENT, nothing)).round(6),
        "relaxation": given.get(RELAXATION, np.full(len(crystals), "")),
        "potential": np.where(np.isfinite(energies), names, ""),
    }


def _labels(
    candidates: Crystals, selection: Selection, requests: Sequence[CompositionRequest]
) -> list[str]:
    """Name files: `Li2O_0001`, the best first; just the id, if one of a structure is asked."""
    position = candidates.properties["request"][selection.rows].tolist()
    return [
        request.label if request.ref_id and request.count == 1 else f"{request.label}_{rank:04d}"
        for request, rank in zip((requests[p] for p in position), selection.ranks, strict=True)
    ]


def _table(
    crystals: Crystals,
    measured: Mapping[str, Any],
    requests: Sequence[CompositionRequest],
    settings: SamplingSettings,
) -> pd.DataFrame:
    """Make the rows of `samples.csv`; they describe the files as they are written."""
    import pandas as pd

    from crysgen.certificates import certificate_columns
    from crysgen.retrieval.library.names import prototype_names
    from crysgen.written_files import suffix_of
    from crysmetrics.io.file_names import file_names
    from crysmetrics.metrics.emd import densities

    columns = {
        "file": file_names(crystals.ids, suffix_of(settings.formats)),
        "formula": [Formula.of_atoms(c.atomic_numbers).reduced.text for c in crystals],
        "num_atoms": crystals.num_atoms,
        "space_group": space_group_numbers(crystals, settings),
        "density": densities(crystals).round(5),
        "volume_per_atom": (crystals.volumes / crystals.num_atoms).round(5),
        "ref_id": [requests[p].ref_id for p in crystals.properties["request"].tolist()],
        "prototype": prototype_names(crystals, settings.tolerance),
        **certificate_columns(crystals),
        **{name: crystals.properties[name] for name in _KEPT},
        **measured,
    }
    return pd.DataFrame({name: columns[name] for name in COLUMNS})
