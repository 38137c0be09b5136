"""Explore a chemical system: sample its compositions, relax, and look for what the hull lacks.

Compositions are taken from the most plausible on. Their crystals are proposed by
`crysgen.generation`, relaxed by each potential, and compared with the hull of known phases
(`crysmetrics.above_hull`), then with one another. Each composition that is finished stays in the
folder, so that a later call, or one with more time, goes on where this one stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysgen.compositions.formulas import Formula
from crysgen.compositions.systems import compositions
from crysgen.generation import generate
from crysgen.output import NothingMadeError
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.above_hull import StabilitySettings, stability
from crysmetrics.device import torch_device
from crysmetrics.errors import InputError, UserError
from crysmetrics.hull import ConvexHull
from crysmetrics.hull.diagram import FoundPhase, hull_diagram, hull_with
from crysmetrics.hull.table import (
    SHIPPED,
    HullTable,
    amounts_of,
    formula,
    load_hull,
    reduced,
)
from crysmetrics.io import Crystals
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.csv_files import write_csv
from crysmetrics.io.json_files import write_json
from crysmetrics.io.writing import cif_texts
from crysmetrics.locking import locked
from crysmetrics.parallel import cpu_count, in_processes
from crysmetrics.progress import task
from crysmetrics.relaxation import MOST_PROCESSES, DeadlinePassed

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "crysgen-explore/2"
"""Name and version of the format of records."""
TABLE, RECORD = "candidates.csv", "explore.json"
"""Names of the table of candidates and of the record."""
_AHEAD = 2
"""Compositions that are proposed for each process before they are relaxed."""
_PIECES = "pieces"
_SHOWN = 0.1
"""eV/atom above the hull up to which candidates are written as CIF."""


@dataclass(frozen=True)
class ExploreSettings:
    """What decides the results of an exploration.

    Attributes:
        system: atomic numbers.
        count: structures of each composition.
        max_atoms: of a cell.
        method: a name of `crysgen.proposers.base.METHODS`.
        seed: of all draws.
        stability: potentials, and known phases.
        model: name or path of the model of methods that use one; None for the default.
    """

    system: tuple[int, ...]
    count: int = 4
    max_atoms: int = 12
    method: str = "retrieval"
    seed: int = 0
    stability: StabilitySettings = StabilitySettings()  # noqa: RUF009 (frozen)
    model: str | None = None

    def request(self) -> dict[str, Any]:
        """Say what must be equal for an exploration to be continued."""
        own = {k: v for k, v in asdict(self).items() if k != "stability" and v is not None}
        request = {**own, "stability": self.stability.identity()}
        plain: dict[str, Any] = json.loads(json.dumps(request))
        return plain


def explore(
    settings: ExploreSettings, folder: Path, *, resources: Resources, minutes: float | None = None
) -> pd.DataFrame:
    """Explore a chemical system into a folder, or go on there.

    Args:
        settings: what is explored, and how.
        folder: new, or of the same exploration.
        resources: workers and device.
        minutes: after which what is not finished is given up, and done again by a later call; None
            for all compositions.

    Returns:
        Candidates, the lowest above the hull first; see `_candidates` for the columns.

    Raises:
        UserError: if the system makes no sense, or the folder holds something else.
    """
    deadline = None if minutes is None else time.time() + 60 * minutes
    formulas = [
        f
        for f in compositions(settings.system, settings.max_atoms, subsystems=True)
        if len(f.elements) > 1
    ]
    with _open(folder, settings) as pieces:
        with task("Exploring", len(formulas)) as advance:
            missing = [i for i in range(len(formulas)) if not _piece_path(pieces, i).exists()]
            advance(len(formulas) - len(missing))
            for number, relaxed in _relaxed(formulas, missing, settings, resources, deadline):
                relaxed.save(_piece_path(pieces, number))
                advance(1)
        paths = sorted(pieces.glob("*.npz"))
        found = Crystals.concatenate([Crystals.empty(), *map(Crystals.load, paths)][bool(paths) :])
        return _finish(found, settings, folder, len(paths), len(formulas))


def _piece_path(pieces: Path, number: int) -> Path:
    return pieces / f"{number:05d}.npz"


def _relaxed(
    formulas: Sequence[Formula],
    missing: Sequence[int],
    settings: ExploreSettings,
    resources: Resources,
    deadline: float | None,
) -> Iterator[tuple[int, Crystals]]:
    """Propose and relax crystals of some compositions; yields each that ends before the deadline.

    Compositions are relaxed side by side, each in a process of its own, so that results don't
    depend on how many there are.
    """
    count = min(cpu_count(resources.workers), MOST_PROCESSES)
    count = count if torch_device(resources.device) == "cpu" else 1
    ahead = 1 if count == 1 else _AHEAD * count

    def late() -> bool:
        return deadline is not None and time.time() >= deadline

    for start in range(0, len(missing), ahead):
        jobs = []
        for number in missing[start : start + ahead]:
            if late():
                break
            proposed = _proposed(formulas[number], settings, resources)
            jobs.append((number, proposed, settings.stability, resources.device, deadline))
        for found in in_processes(_relax, jobs, count, in_order=False):
            if found is not None:
                yield found
        if late():
            return


def _relax(
    number: int,
    proposed: Crystals,
    settings: StabilitySettings,
    device: str,
    deadline: float | None,
) -> tuple[int, Crystals] | None:
    """Relax crystals of one composition and compare them with known phases; None if too late."""
    if not len(proposed):
        return number, proposed
    limited = replace(settings.relaxation, deadline=deadline)
    try:
        found = stability(proposed, replace(settings, relaxation=limited), device=device)
    except DeadlinePassed:
        return None
    properties = {
        "above_known": found.e_above_hull,
        **{f"formation_{name}": energies for name, energies in found.formation.items()},
    }
    kept = np.flatnonzero(np.isfinite(found.e_above_hull))
    relaxed = _bare(found.relaxed, proposed.ids, properties)
    return number, relaxed[kept] if len(kept) else Crystals.empty()


def _proposed(asked: Formula, settings: ExploreSettings, resources: Resources) -> Crystals:
    """Propose crystals of one composition; empty if there are none."""
    sampling = SamplingSettings(
        method=settings.method,
        model=settings.model,
        seed=settings.seed,
        max_atoms=settings.max_atoms,
        energies=False,
    )
    try:
        crystals = generate(
            asked.text, settings.count, settings=sampling, resources=resources
        ).crystals
    except NothingMadeError:  # no known structure has such a formula, most often
        return Crystals.empty()
    return _bare(crystals, [f"{asked.text}_{i:02d}" for i in range(1, len(crystals) + 1)])


def _bare(
    crystals: Crystals, names: Sequence[str], properties: Mapping[str, Any] | None = None
) -> Crystals:
    """Crystals under other names, with these properties alone."""
    return Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords,
        crystals.lattices,
        crystals.num_atoms,
        tuple(names),
        dict(properties or {}),
    )


def _finish(
    found: Crystals, settings: ExploreSettings, folder: Path, done: int, total: int
) -> pd.DataFrame:
    """Write candidates, figures and record of all that is there."""
    from crysmetrics.reporting.hull_plots import save_diagram

    table = load_hull(settings.stability.hull or SHIPPED)
    names = settings.stability.potentials
    phases = _found_phases(found, names[0])
    diagram = hull_diagram(table, settings.system, phases)
    candidates = _candidates(found, table, names, hull_with(table, settings.system, phases))
    row = {name: i for i, name in enumerate(found.ids)}
    shown = [name for name in candidates["name"] if name in row]
    near = candidates[candidates.e_above_hull <= _SHOWN]["name"].tolist()
    (folder / "structures").mkdir(exist_ok=True)
    for name, text in cif_texts(found[[row[n] for n in shown if n in set(near)]]):
        with atomic_file(folder / "structures" / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_file(folder / TABLE) as temporary:
        write_csv(candidates, temporary)
    size = len(settings.system)
    if size <= 4:
        save_diagram(diagram, folder / "hull.html")
        if size < 4:
            save_diagram(diagram, folder / "hull.png")
    result = {
        **{"compositions": done, "of": total, "candidates": len(candidates)},
        "on_hull": [{"formula": p.formula, "phase": p.name} for p in diagram.on_hull()],
    }
    write_json({"schema": SCHEMA, "request": settings.request(), "result": result}, folder / RECORD)
    return candidates


def _found_phases(found: Crystals, potential: str) -> list[FoundPhase]:
    energies = found.properties.get(f"formation_{potential}", np.zeros(0)).tolist()
    amounts = [amounts_of(crystal.atomic_numbers) for crystal in found]
    return [FoundPhase(*row) for row in zip(found.ids, amounts, energies, strict=True)]


def _candidates(
    found: Crystals, table: HullTable, potentials: Sequence[str], hull: ConvexHull
) -> pd.DataFrame:
    """Compare what was found with known phases and with one another; the lowest first.

    Energies are in eV/atom. `e_above_known` is that above the hull of known phases, negative where
    something new may be stable; `e_above_hull` that above `hull`, of known and found phases.
    """
    import pandas as pd

    from crysmetrics.symmetry import find_space_groups

    amounts = [amounts_of(crystal.atomic_numbers) for crystal in found]
    energies = found.properties.get(f"formation_{potentials[0]}", np.zeros(0))
    groups = find_space_groups(found).numbers if len(found) else np.zeros(0)
    rows = []
    for i, composition in enumerate(amounts):
        rows.append(
            {
                "name": found.ids[i],
                "formula": formula(composition),
                "num_atoms": int(found.num_atoms[i]),
                "space_group": int(groups[i]) if np.isfinite(groups[i]) else 0,
                "e_above_hull": hull.e_above_hull(composition, float(energies[i])),
                "e_above_known": float(found.properties["above_known"][i]),
                **{
                    f"formation_energy_{name}": float(found.properties[f"formation_{name}"][i])
                    for name in potentials
                },
                "known_composition": reduced(composition) in table.known,
                "competing_phases": table.competing(composition),
            }
        )
    columns = ["name", "formula", "num_atoms", "space_group", "e_above_hull", "e_above_known"]
    made = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    made = made.sort_values(["e_above_hull", "name"], ignore_index=True)
    energies_of = [name for name in made.columns if name.startswith(("e_above", "formation"))]
    made[energies_of] = made[energies_of].round(4) + 0.0  # without negative zeros
    return made


@contextmanager
def _open(folder: Path, settings: ExploreSettings) -> Iterator[Path]:
    """Open the folder of an exploration, new or to be continued; locked within this block."""
    request = {"schema": SCHEMA, **settings.request()}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, where a folder should be written.")
    path = folder / _PIECES / "request.json"
    if folder.exists() and any(folder.iterdir()) and not path.exists():
        raise UserError(f"{folder} holds other things than an exploration; not replaced.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}).") from error
    with locked(path.parent / "lock", f"Another process is writing to {folder}."):
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(f"{path} is damaged; take {folder} away.") from error
            if before != request:
                raise UserError(f"{folder} holds another exploration; choose another name.")
        else:
            write_json(request, path)
        yield path.parent
