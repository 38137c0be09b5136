"""Requests: compositions, how many samples of each, and every single draw.

A composition is either a formula, whose cell sizes are chosen
(`crysgen.compositions.formula_units`), or the exact cell composition of a given structure. The
draws of one composition in one cell size are numbered, and a draw's seed follows from the run's
seed, that cell and that number: not from what else is asked for, in which order, or on which
machine.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysgen.compositions.formula_units import MAX_ATOMS, likelihoods, share_out
from crysgen.compositions.formulas import Formula, parse_formula
from crysgen.models.targets import Target
from crysmetrics.errors import InputError, UserError

if TYPE_CHECKING:
    from crysgen.proposers.base import Method
    from crysgen.settings import SamplingSettings
    from crysmetrics.io import Crystals

FREE_LABEL = "crystal"
"""Beginning of the names of files where the model chooses compositions."""

LARGE_ATOMS = 64
"""Number of atoms of the largest cells of known prototypes, where no other limit is given."""
UNKNOWN_SIZE = 20
"""Number of atoms assumed for a cell whose size the model chooses."""
COMMON = 0.1
"""Share of the compounds of a type that have cells of a size from which on these are looked at."""
SEED_BITS = 53
"""Length of seeds: whole numbers that every reader of JSON and CSV holds exactly."""


@dataclass(frozen=True)
class CompositionRequest:
    """A composition, and how many samples of it are wanted in which cells.

    Attributes:
        formula: as written; of a given structure, the whole cell; without elements where the model
            chooses them.
        sizes: (formula units in the cell, number of samples), the likeliest size first.
        ref_id: the structure whose cell is meant; "" for a formula.
        all_units: every cell size that may be proposed, also where there are too few samples for
            each; those of `sizes` if empty.
        num_atoms: of a cell whose elements the model chooses; None to leave that to it, too.
        any_cell: whether known structures are given whatever their number of atoms.
        large_units: more cell sizes, beyond those of models, that known prototypes may have.
    """

    formula: Formula
    sizes: tuple[tuple[int, int], ...]
    ref_id: str = ""
    all_units: tuple[int, ...] = ()
    num_atoms: int | None = None
    any_cell: bool = False
    large_units: tuple[int, ...] = ()

    @property
    def units(self) -> tuple[int, ...]:
        """Cell sizes that may be proposed, in formula units."""
        return self.all_units or tuple(unit for unit, _ in self.sizes)

    @property
    def count(self) -> int:
        """Number of samples over all cell sizes."""
        return sum(n for _, n in self.sizes)

    @property
    def is_exact(self) -> bool:
        """Whether the cell of a given structure is meant."""
        return bool(self.ref_id)

    @property
    def is_free(self) -> bool:
        """Whether the model chooses the composition."""
        return not self.formula.elements

    @property
    def label(self) -> str:
        """Beginning of the names of its files."""
        return self.ref_id or self.formula.text or FREE_LABEL


@dataclass(frozen=True)
class Draw:
    """One structure for a model to make.

    Attributes:
        number: distinct among all draws of a run.
        request: position of its request among all.
        target: for the model, with the seed of its noise.
        index: number of the draw among those with the same cell and base seed.
        base_seed: seed of the run.
    """

    number: int
    request: int
    target: Target
    index: int
    base_seed: int

    @property
    def seed(self) -> int:
        """Seed of its noise."""
        return self.target.seed

    def again(self, attempt: int) -> Draw:
        """Repeat the draw with another seed, after an invalid crystal came out."""
        # Atoms that the model chooses are counted as element 0.
        atoms = self.target.atomic_numbers or (0,) * (self.target.num_atoms or 0)
        seed = derived_seed(self.base_seed, atoms, self.index, attempt)
        return replace(self, target=replace(self.target, seed=seed, failed=attempt))


def derived_seed(
    seed: int, atomic_numbers: Sequence[int], index: int | str, attempt: int = 0
) -> int:
    """Derive a seed below 2^53 from these alone; the order of atoms plays no part."""
    counts = sorted(Counter(map(int, atomic_numbers)).items())
    text = json.dumps([seed, counts, index, attempt])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def draws(requests: Sequence[CompositionRequest], seed: int) -> list[Draw]:
    """List every structure to be made: request after request, size after size."""
    found: list[Draw] = []
    used: Counter[tuple[int, ...]] = Counter()
    for position, request in enumerate(requests):
        for units, count in request.sizes:
            atoms = request.formula.times(units).atoms or (0,) * (request.num_atoms or 0)
            cell = tuple(sorted(atoms))
            for _ in range(count):
                index = used[cell]
                used[cell] += 1
                target = Target(derived_seed(seed, atoms, index), atoms)
                if request.is_free:
                    target = Target(target.seed, None, request.num_atoms)
                found.append(Draw(len(found), position, target, index, seed))
    return found


def ask_formulas(
    formulas: Sequence[Formula],
    count: int,
    units: Sequence[int] | None = None,
    max_atoms: int | None = None,
) -> list[CompositionRequest]:
    """Request `count` samples of each formula; one that is named twice gets twice as many.

    Args:
        formulas: as written.
        count: samples of each.
        units: formula units in the cell; None for those that real compounds have.
        max_atoms: of a cell; by default 20, or one formula unit where that is more.

    Raises:
        UserError: if a cell would have more atoms than allowed.
    """
    found = []
    for formula, times in Counter(formulas).items():
        most = max(MAX_ATOMS, formula.num_atoms) if max_atoms is None else max_atoms
        request = CompositionRequest(
            formula,
            tuple(share_out(formula, times * count, units, most).items()),
            all_units=tuple(likelihoods(formula, most) if units is None else units),
            any_cell=units is None,
        )
        if units is None and max_atoms is None:
            request = replace(request, large_units=_large_units(request))
        found.append(request)
    return found


def _large_units(request: CompositionRequest) -> tuple[int, ...]:
    """List the cell sizes beyond those of models that are common among compounds of the type."""
    common = likelihoods(request.formula, max(LARGE_ATOMS, request.formula.num_atoms))
    return tuple(
        unit for unit, share in common.items() if share >= COMMON and unit not in request.units
    )


def ask_free(count: int, num_atoms: int | None = None) -> list[CompositionRequest]:
    """Request `count` crystals whose composition the model chooses.

    Args:
        count: of crystals.
        num_atoms: of a cell; None to leave that to the model, too.
    """
    return [CompositionRequest(Formula((), ()), ((1, count),), num_atoms=num_atoms)]


def ask_cells(cells: Sequence[Sequence[int]]) -> list[CompositionRequest]:
    """Request a crystal of each cell's atomic numbers; equal ones are one request."""
    counts = Counter(tuple(sorted(cell)) for cell in cells)
    return [
        CompositionRequest(Formula.of_atoms(atoms), ((1, count),))
        for atoms, count in counts.items()
    ]


def read_structures(
    path: str | Path,
    workers: int | None = None,
    id_column: str | None = None,
    cif_column: str | None = None,
) -> Crystals:
    """Read structures of anything that `crysmetrics.io.read` takes, or of a named reference.

    Args:
        path: of the structures, or a reference's name.
        workers: processes at most.
        id_column: of a table or JSON; None for the usual names.
        cif_column: the column of structures; None for the usual names.
    """
    from crysmetrics.io import read

    named = _reference(path)
    if named is None:
        return read(path, id_column=id_column, cif_column=cif_column, workers=workers)
    from crysmetrics import references

    return references.load(str(path), named).crystals


def _reference(path: str | Path) -> Path | None:
    """Find the file of a named reference; an existing path wins."""
    if Path(path).exists():
        return None
    from crysmetrics import references

    return references.find(str(path))


def ask_structures(
    path: str | Path,
    count: int,
    max_atoms: int | None = None,
    id_column: str | None = None,
    cif_column: str | None = None,
) -> list[CompositionRequest]:
    """Request `count` samples of the exact cell of each structure; ids become `ref_id`.

    Args:
        path: see `read_structures`.
        count: samples of each.
        max_atoms: of a cell.
        id_column: see `read_structures`.
        cif_column: see `read_structures`.

    Raises:
        InputError: if it holds no structure, or some can't be read: a benchmark must not lose
            its difficult cases unnoticed.
        UserError: if a cell has more atoms than allowed.
    """
    max_atoms = MAX_ATOMS if max_atoms is None else max_atoms
    crystals = read_structures(path, id_column=id_column, cif_column=cif_column)
    if crystals.failures:
        first, more = crystals.failures[0], len(crystals.failures)
        raise InputError(
            f"{more} of the {crystals.num_total:,} structures of {path} can't be read, so their "
            f"compositions are unknown; {first.file} {first.reason}."
        )
    large = [i for i, n in enumerate(crystals.num_atoms) if n > max_atoms]
    if large:
        raise UserError(
            f"{len(large)} of the {len(crystals):,} structures of {path} have more than "
            f"{max_atoms} atoms ({crystals.ids[large[0]]} has {crystals.num_atoms[large[0]]}); "
            "raise --max-atoms to allow them."
        )
    return ask_crystals(crystals, count)


def ask_crystals(crystals: Crystals, count: int) -> list[CompositionRequest]:
    """Request `count` samples of the exact cell of each structure; ids become `ref_id`."""
    offsets = crystals.offsets
    return [
        CompositionRequest(
            Formula.of_atoms(crystals.atomic_numbers[offsets[i] : offsets[i + 1]]),
            ((1, count),),
            structure_id,
        )
        for i, structure_id in enumerate(crystals.ids)
    ]


def read_formulas(path: str | Path) -> list[Formula]:
    """Read formulas from a text file, one a line; text behind a # is a comment.

    Raises:
        InputError: naming the line, if one is no formula, or the file can't be read.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is neither text nor a known format of structures.") from error
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from error
    formulas = []
    for number, line in enumerate(text.splitlines(), 1):
        formula = line.partition("#")[0].strip()
        if not formula:
            continue
        try:
            formulas.append(parse_formula(formula))
        except UserError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    if not formulas:
        raise InputError(f"{path} holds no formula.")
    return formulas


def ask_path(
    path: str | Path,
    count: int,
    units: Sequence[int] | None = None,
    max_atoms: int | None = None,
    id_column: str | None = None,
    cif_column: str | None = None,
) -> list[CompositionRequest]:
    """Request what `--compositions` names: structures, whose cells are meant, or formulas.

    A file whose name ends in `.txt` is a text; of others name and first bytes decide.

    Raises:
        UserError: see `ask_structures`, `read_formulas` and `ask_formulas`.
    """
    from crysmetrics.io.reading import takes

    is_text = Path(path).suffix.lower() == ".txt"
    if not is_text and (_reference(path) is not None or takes(path)):
        if units is not None:
            raise UserError(
                f"--formula-units goes with formulas; the cells of {path} are taken as they are."
            )
        return ask_structures(path, count, max_atoms, id_column, cif_column)
    return ask_formulas(read_formulas(path), count, units, max_atoms)


def digest(requests: Sequence[CompositionRequest]) -> str:
    """Hash requests (SHA-256), so that an interrupted run knows them again."""
    rows = [
        [a.ref_id, a.formula.elements, a.formula.amounts, a.sizes, *[a.num_atoms] * a.is_free]
        for a in requests
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def request_record(
    requests: Sequence[CompositionRequest], methods: Sequence[Method], settings: SamplingSettings
) -> dict[str, Any]:
    """Record what must be equal for an interrupted run to be continued.

    Raises:
        UserError: if a model or a package that is asked for is missing.
    """
    chosen = settings.to_json()
    chosen.pop("model")  # the same weights may be named in several ways; their hash decides
    identities = {method.name: method.identity() for method in methods}
    if settings.relax:
        from crysmetrics.relaxation import identity

        identities["relaxation"] = {
            potential: identity(potential, settings.dispersion) for potential in settings.potentials
        }
    return {
        "compositions": {
            "number": len(requests),
            "samples": sum(request.count for request in requests),
            "sha256": digest(requests),
        },
        "settings": chosen,
        "methods": identities,
    }
