"""The command `relax` and its folder: nothing twice, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import one

from crysmetrics import relaxation
from crysmetrics.cli import main
from crysmetrics.io import Crystals, read
from crysmetrics.potentials import registry
from crysmetrics.potentials.base import AsePotential
from crysmetrics.relaxation import folder as folders


class Pairs(AsePotential):
    """Argon by Lennard-Jones."""

    name, title, elements, sha256 = "pairs 1", "Pairs", frozenset({18}), "3" * 64

    def calculator(self, crystal: Crystals) -> object:
        from ase.calculators.lj import LennardJones

        return LennardJones(sigma=3.4, epsilon=0.0103, rc=8.0, smooth=True)


@pytest.fixture
def argon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five cells of argon, and one of salt, which the potential does not know."""
    pytest.importorskip("torch")
    monkeypatch.setitem(registry.POTENTIALS, "pairs", f"{__name__}:Pairs")
    monkeypatch.setitem(relaxation.ATOMS_TOGETHER, "cpu", 2)
    cell = 0.5 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    cells = [one([18], [[0, 0, 0]], a * cell, f"Ar {a}") for a in (5.0, 5.2, 5.4, 5.6, 5.8)]
    salt = one([11, 17], [[0, 0, 0], [0.5] * 3], 5.0, "salt")
    Crystals.concatenate([*cells, salt]).with_failures([("lost.cif", "is empty")]).save(
        tmp_path / "argon.npz"
    )
    return tmp_path / "argon.npz"


def test_a_killed_run_goes_on_and_gives_what_one_run_gives(
    argon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ["relax", str(argon), "--potential", "pairs", "--workers", "1", "--device", "cpu"]
    whole = CliRunner().invoke(main, [*base, "-o", str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    assert "5 of 7 structures relaxed" in whole.stdout
    relaxed: list[str] = []
    keep = Crystals.save

    def killed(self: Crystals, path: Path) -> None:
        keep(self, path)
        relaxed.extend(self.ids)
        if len(relaxed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Crystals, "save", killed)
    call = [*base, "-o", str(tmp_path / "parts")]
    assert CliRunner().invoke(main, call).exit_code != 0
    assert not (tmp_path / "parts" / folders.TABLE).exists()
    other = CliRunner().invoke(main, [*call, "--max-steps", "7"])
    assert other.exit_code == 2
    assert "unfinished work of another call" in other.output
    again = CliRunner().invoke(main, call)
    assert again.exit_code == 0, again.output
    assert len(relaxed) == len(set(relaxed)) == 6
    first, second = (tmp_path / name for name in ("whole", "parts"))
    names = sorted(path.name for path in first.iterdir())
    assert sorted(path.name for path in second.iterdir()) == names
    assert len(names) == 5 + 2
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_table_has_every_structure_once(argon: Path, tmp_path: Path) -> None:
    call = ["relax", str(argon), "--potential", "pairs", "--workers", "1"]
    call += ["--force-tol", "0.001", "-o"]
    done = CliRunner().invoke(main, [*call, str(tmp_path / "out")])
    assert "not relaxed: salt: could not be relaxed: Pairs knows no Na" in done.stderr
    table = pd.read_csv(tmp_path / "out" / folders.TABLE)
    cells = [f"Ar {a}" for a in (5.0, 5.2, 5.4, 5.6, 5.8)]
    assert sorted(table.id) == [*cells, "lost.cif", "salt"]
    good = table[table.converged]
    assert len(good) == 5
    assert (good.energy_per_atom <= good.start_energy_per_atom).all()
    assert np.ptp(good.volume_per_atom) < 1
    assert (good.rmsd < 1e-6).all()
    record = json.loads((tmp_path / "out" / folders.RECORD).read_text())
    assert (record["relaxed"], record["failed"]) == (5, 2)
    assert len(read(tmp_path / "out")) == 5
    kept = CliRunner().invoke(main, [*call, str(tmp_path / "out")])
    assert kept.exit_code == 2
    assert "holds relaxed structures" in kept.output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    refused = CliRunner().invoke(main, [*call, str(tmp_path / "mine"), "--overwrite"])
    assert refused.exit_code == 2
    assert "holds other things" in refused.output
    anew = CliRunner().invoke(main, [*call, str(tmp_path / "out"), "--overwrite", "--fixed-cell"])
    assert anew.exit_code == 0, anew.output
    assert (pd.read_csv(tmp_path / "out" / folders.TABLE).steps.dropna() == 0).all()
