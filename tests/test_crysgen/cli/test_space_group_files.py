"""Files of `crysgen sample --space-group`: composition and group, as others read them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import spglib
from ase.io import read
from click.testing import CliRunner
from pymatgen.core import Composition

from crysgen.cli import main
from crysmetrics.space_groups.groups import space_group

PAIRS = [  # two of each crystal family
    ("CaCO3", 1), ("SiO2", 2), ("LiCoO2", 12), ("ZrO2", 14), ("GaFeO3", 33), ("CaTiO3", 62),
    ("TiO2", 136), ("CuFeS2", 122), ("Al2O3", 167), ("ZnS", 186), ("MgAl2O4", 227), ("FeS2", 205),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", ["adaptive-cell", "gemsdiff", "crysldm"])
@pytest.mark.parametrize(("formula", "number"), PAIRS)
def test_every_file_has_the_composition_and_the_group_asked_for(
    model: str, formula: str, number: int, tmp_path: Path
) -> None:
    group = ["--space-group", str(number), "--method", "diffusion", "-n", "4"]
    options = ["--model", model, "--workers", "1", "--device", "cpu", "--no-energies", "--quiet"]
    command = ["sample", "--composition", formula, *group, *options, "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "out").glob("*.cif"))
    result = json.loads((tmp_path / "out" / "request.json").read_text())["result"]
    assert files
    # Atoms may fall on top of each other five times; that is said, and nothing is written.
    assert len(files) + len(result["failures"]) == 4
    for path in files:
        text = path.read_text()
        assert int(re.search(r"Int_Tables_number\s+(\d+)", text)[1]) == number
        atoms = read(path)
        assert (
            Composition(str(atoms.symbols)).reduced_formula == Composition(formula).reduced_formula
        )
        cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        found = [spglib.get_symmetry_dataset(cell, symprec) for symprec in (0.0005, 0.001, 0.002)]
        # moyo and spglib may differ where more symmetry is at the edge of the tolerance.
        certified = int(re.search(r"# space group (\d+)", text)[1])
        assert certified in {one.number for one in found}
        # More symmetry may also be a smaller cell: operations of the cell as it is written count.
        asked = len(space_group(number).rotations)
        assert len(found[1].rotations) % asked == 0
