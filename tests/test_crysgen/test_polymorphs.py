"""Phase tables: distinct structures by energy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner
from sets import one, rocksalt

from crysgen.cli import main
from crysgen.polymorphs import phase_table
from crysgen.samples import Result
from crysmetrics.io import Crystals

NAN = float("nan")


def result(relaxed: list[float], ends: list[str]) -> Result:
    crystals = Crystals.concatenate(
        [
            rocksalt(5.6, "a"),
            one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], 3.5, "b"),
            rocksalt(5.7, "c"),
        ]
    )
    table = pd.DataFrame(
        {
            "formula": "NaCl",
            "file": ["a.cif", "b.cif", "c.cif"],
            "rank": [1, 2, 3],
            "num_atoms": crystals.num_atoms,
            "space_group": [225, 221, 225],
            "prototype": "",
            "status": "predicted",
            "volume_per_atom": 20.0,
            "probability": [0.7, 0.2, 0.1],
            "predicted_formation_energy_per_atom": [-2.0, -2.1, -1.9],
            "relaxed_energy": relaxed,
            "relaxation": ends,
            "potential": ["chgnet" if np.isfinite(energy) else "" for energy in relaxed],
        }
    )
    return Result(crystals, table, [], 0)


def test_equal_structures_are_one_row_with_the_lowest_energy() -> None:
    found = phase_table(result([-3.4, -3.3, -3.41], ["to the end", "stopped early", "to the end"]))
    assert found["file"].tolist() == ["c.cif", "b.cif"]
    np.testing.assert_allclose(found["above_lowest"], [0, 0.11])
    assert found["is_bound"].tolist() == [False, True]
    assert set(found["energy_by"]) == {"chgnet"}


def test_without_relaxation_predicted_energies_count() -> None:
    found = phase_table(result([NAN] * 3, [""] * 3))
    assert found["file"].tolist() == ["b.cif", "a.cif"]
    np.testing.assert_allclose(found["above_lowest"], [0, 0.1])
    assert set(found["energy_by"]) == {"ALIGNN"}


def test_the_command_prints_a_phase_table(tmp_path: Path) -> None:
    args = ["sample", "--composition", "ZnS", "-n", "4", "--method", "retrieval", "--polymorphs"]
    ran = CliRunner().invoke(
        main, [*args, "--workers", "1", "-o", str(tmp_path / "out"), "--json", str(tmp_path / "j")]
    )
    assert ran.exit_code == 0, ran.output
    assert "meV/atom" in ran.output
    phases = json.loads((tmp_path / "j").read_text())["polymorphs"]
    assert phases[0]["above_lowest"] == 0
    assert {216, 186} <= {phase["space_group"] for phase in phases}
