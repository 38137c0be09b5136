"""Choose how many formula units cells hold: as given, or as real compounds of that type do.

A reduced formula does not say how large the primitive cell is: of the AB2 compounds a quarter hold
one formula unit, half of them two, another quarter four. The table counts that, among the compounds
from the Materials Project in the training data, by the amounts in order of electronegativity and
the most electronegative element (Li2O and Na2O are of the type `2-1 O`, TiO2 of `1-2 O`). Rare
types lean on all formulas with the same amounts in any order. On the validation structures the
right size gets the largest share in 70 % (0.65 nats; by the amounts in any order 60 % and 0.79).

Run as a program it makes the table anew:
`python -m crysgen.compositions.formula_units build --data DIR`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from crysgen.compositions.formulas import Formula
from crysmetrics.errors import UserError
from crysmetrics.io.elements import SYMBOLS

MAX_ATOMS = 20
"""Number of atoms of a cell unless more are allowed: what the shipped models were trained on."""
TABLE = "formula_units.json"
"""Name of the table of cell sizes."""
SOURCES = ("mp20_val", "mp20_extra", "mpts52_val", "mpts52_test", "mp")
"""Sources of the data that are counted. OQMD, Alexandria and JARVIS hold mostly hypothetical
crystals in small cells; without them the table says more about the validation structures."""

_PRIOR_OF_AMOUNTS = 8.0
"""Number of compounds that formulas of similar length weigh as; best on `val`."""
_PRIOR_OF_TYPE = 2.0
"""Number of compounds that formulas with the same amounts weigh as; best on `val`."""
_SIMILAR = 1.3
"""Ratio of numbers of atoms up to which formulas are of similar length."""
_LIKELY = 0.05
"""Share of compounds from which on a cell size gets a sample, where there are enough."""
_NEGLIGIBLE = 0.01
"""Share of compounds below which a cell size is left out."""


def parse_formula_units(text: str) -> tuple[int, ...] | None:
    """Parse `--formula-units`: None for `auto`, else distinct numbers in ascending order.

    Raises:
        UserError: if the text is neither.
    """
    if text.strip() == "auto":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,4}", part) for part in parts):
        raise UserError(f"--formula-units takes auto or numbers such as 1,2,4; not {text!r}.")
    return tuple(sorted({int(part) for part in parts}))


def share_out(
    formula: Formula, count: int, units: Sequence[int] | None, max_atoms: int = MAX_ATOMS
) -> dict[int, int]:
    """Share out `count` samples among cell sizes.

    Shares are proportional, with largest remainders, and the same in every run. Every size that
    is likely (one real compound in twenty) gets a sample, where there are enough.

    Args:
        formula: as written; a cell holds a whole number of it.
        count: samples, at least 1.
        units: formula units in the cell, which share alike; None for those of real compounds.
        max_atoms: of a cell.

    Returns:
        Formula units -> number of samples, larger shares first; no zeros.

    Raises:
        UserError: if a cell would have more atoms than allowed.
    """
    if formula.num_atoms > max_atoms:
        raise UserError(
            f"{formula} has {formula.num_atoms} atoms, more than the {max_atoms} of a cell; "
            f"raise --max-atoms to allow it."
        )
    if units is None:
        weights = likelihoods(formula, max_atoms)
    else:
        largest = max(units) * formula.num_atoms
        if largest > max_atoms:
            raise UserError(
                f"{max(units)} formula units of {formula} are {largest} atoms, more than the "
                f"{max_atoms} of a cell; raise --max-atoms to allow it."
            )
        weights = dict.fromkeys(units, 1 / len(units))
    return _largest_remainders(weights, count)


def likelihoods(formula: Formula, max_atoms: int = MAX_ATOMS) -> dict[int, float]:
    """Estimate the share of real compounds of that type by formula units in the primitive cell.

    Rare types lean on formulas with the same amounts, and those on formulas of similar length.
    Shares below a hundredth are left out.

    Args:
        formula: as written: of Hg2Cl2 only even numbers of HgCl count.
        max_atoms: of a cell; at least one formula unit is always possible.
    """
    reduced, factor = formula.reduced, formula.units
    sizes = range(factor, max(max_atoms // reduced.num_atoms, factor) + 1, factor)
    similar = _similar(reduced.num_atoms)
    # Half a compound more for each size, for lengths where there are few.
    shares = _mixed({}, {z: similar.get(z, 0) + 0.5 for z in sizes}, 1.0)
    shares = _mixed(_by_amounts().get(formula.anonymous, {}), shares, _PRIOR_OF_AMOUNTS)
    shares = _mixed(_table().get(_type_of(formula), {}), shares, _PRIOR_OF_TYPE)
    shares = {z // factor: share for z, share in shares.items()}
    kept = {k: p for k, p in shares.items() if p >= _NEGLIGIBLE}
    ordered = sorted(kept, key=lambda k: (-kept[k], k))
    return {k: kept[k] / sum(kept.values()) for k in ordered}


def type_frequency(formula: Formula, max_atoms: int = MAX_ATOMS) -> tuple[int, int]:
    """Count real compounds of its type, and those with its amounts in any order.

    Those in primitive cells of up to `max_atoms` atoms are counted.
    """
    most = max_atoms // formula.reduced.num_atoms
    own: Mapping[int, int] = _table().get(_type_of(formula), {})
    others: Mapping[int, int] = _by_amounts().get(formula.anonymous, {})
    return _up_to(most, own), _up_to(most, others)


def _up_to(most: int, sizes: Mapping[int, int]) -> int:
    return sum(n for z, n in sizes.items() if z <= most)


def _type_of(formula: Formula) -> str:
    """Name the type of a formula in the table: `2-1 O`; all elements by themselves are `1`.

    (An element's own crystals are few, and its commonest one may be missing from training data.)
    """
    amounts = "-".join(map(str, formula.reduced.amounts))
    return f"{amounts} {SYMBOLS[formula.elements[-1]]}" if len(formula.elements) > 1 else amounts


def _mixed(
    counts: Mapping[int, float], expected: Mapping[int, float], weight: float
) -> dict[int, float]:
    """Mix counts with `weight` counts spread as is expected; shares sum to 1."""
    total = sum(expected.values())
    raw = {z: counts.get(z, 0) + weight * share / total for z, share in expected.items()}
    return {z: value / sum(raw.values()) for z, value in raw.items()}


def _largest_remainders(weights: Mapping[int, float], count: int) -> dict[int, int]:
    order = sorted(weights, key=lambda k: (-weights[k], k))
    given = {k: int(count * weights[k] + 1e-9) for k in order}
    left = count - sum(given.values())
    by_remainder = sorted(order, key=lambda k: (-(count * weights[k] - given[k]), order.index(k)))
    for k in by_remainder[:left]:
        given[k] += 1
    for k in order[:count]:  # each likely size takes one from the richest, which can spare it
        if given[k] == 0 and weights[k] >= _LIKELY:
            richest = max(order, key=lambda j: given[j])
            if given[richest] > 1:
                given[richest] -= 1
                given[k] = 1
    return {k: n for k, n in given.items() if n}


@cache
def _table() -> dict[str, dict[int, int]]:
    """Read the table: type -> formula units in the primitive cell -> number of compounds."""
    text = files("crysgen.compositions").joinpath(TABLE).read_text(encoding="utf-8")
    types: dict[str, dict[str, int]] = json.loads(text)["types"]
    return {kind: {int(z): n for z, n in sizes.items()} for kind, sizes in types.items()}


@cache
def _by_amounts() -> dict[tuple[int, ...], Counter[int]]:
    """Sum the table by anonymous formula: amounts in ascending order."""
    found: dict[tuple[int, ...], Counter[int]] = {}
    for kind, sizes in _table().items():
        amounts = tuple(sorted(map(int, kind.partition(" ")[0].split("-"))))
        found.setdefault(amounts, Counter()).update(sizes)
    return found


@cache
def _similar(num_atoms: int) -> Counter[int]:
    """Count compounds by formula units, of all formulas of similar length."""
    found: Counter[int] = Counter()
    for amounts, sizes in _by_amounts().items():
        if num_atoms / _SIMILAR <= sum(amounts) <= num_atoms * _SIMILAR:
            found.update(sizes)
    return found


# --- making the table ------------------------------------------------------------------------


def count_types(cells: Iterable[Formula]) -> dict[str, dict[str, int]]:
    """Count types of formulas, from those of primitive cells.

    Polymorphs in cells of one size count once: carbon, say, is no more elements than iron.
    """
    counts: dict[str, Counter[int]] = {}
    for cell in set(cells):
        counts.setdefault(_type_of(cell), Counter())[cell.units] += 1
    return {
        kind: {str(z): counts[kind][z] for z in sorted(counts[kind])} for kind in sorted(counts)
    }


def build(data: Path, path: Path) -> int:
    """Make the table from the `train` structures of this project's data.

    Args:
        data: the folder with `splits.csv.gz`.
        path: of the JSON.

    Returns:
        The number of compounds and cell sizes counted.

    Raises:
        UserError: if this is not the data folder.
    """
    from crysgen.training.data import SPLIT, project_data
    from crysmetrics.io.atomic import atomic_file

    crystals = project_data(data, max_atoms=1000)
    marked = crystals.properties[SPLIT]
    cells = [
        Formula.of_atoms(crystal.atomic_numbers)
        for crystal, mark in zip(crystals, marked, strict=True)
        if mark == "train" and crystal.ids[0].partition("/")[0] in SOURCES
    ]
    types = count_types(cells)
    table = {
        "made_by": "python -m crysgen.compositions.formula_units build",
        "source": "Materials Project, by way of MP-20 (CDVAE), MPTS-52 and CIF files; CC BY 4.0",
        "structures": len(cells),
        "types": types,
    }
    # A line for each type: changes of the table can be read.
    text = json.dumps(table, indent=1)
    text = re.sub(r"\{\s+((?:\"\d+\": \d+,?\s*)+)\}", _on_one_line, text)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return sum(sum(sizes.values()) for sizes in types.values())


def _on_one_line(match: re.Match[str]) -> str:
    return "{" + re.sub(r"\s+", " ", match.group(1)).strip() + "}"


def main() -> None:
    """Make the table of cell sizes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build", help="from this project's data")
    command.add_argument("--data", type=Path, required=True, help="with splits.csv.gz")
    default = Path(str(files("crysgen.compositions"))) / TABLE
    command.add_argument("-o", "--output", type=Path, default=default)
    arguments = parser.parse_args()
    count = build(arguments.data, arguments.output)
    print(f"{count:,} cells of distinct compounds counted in {arguments.output}")


if __name__ == "__main__":
    main()
