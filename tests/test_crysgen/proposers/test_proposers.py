"""Where candidates come from: known structures, noise, and both, through the command."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from crysgen.cli import main
from crysgen.compositions.formulas import Formula, parse_formula
from crysgen.proposers.auto import left_to_model
from crysgen.requests import ask_formulas
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.propose import propose
from crysmetrics.geometry import min_distances
from crysmetrics.io import read
from crysmetrics.metrics.emd import densities
from crysmetrics.space_groups.subgroups import is_subgroup
from crysmetrics.symmetry import space_groups


def sample(folder: Path, *args: str, status: int = 0) -> pd.DataFrame | str:
    base = ["sample", "-o", str(folder), "--no-energies", "--quiet", "--workers", "1"]
    result = CliRunner().invoke(main, [*base, "--device", "cpu", "--cache", "off", *args])
    assert result.exit_code == status, result.output
    if status:
        return result.output
    return pd.read_csv(folder / "samples.csv", keep_default_na=False)


def test_salt_has_its_structure_and_says_from_where(tmp_path: Path) -> None:
    args = ("--composition", "NaCl", "-n", "3", "--method", "retrieval")
    table = sample(tmp_path / "a", *args)
    assert table.space_group[0] == 225
    assert 2.0 < table.density[0] < 2.4
    assert table.prototype[0] == "B1, rock salt"
    assert table.status[0].startswith("known (mp-22862, on the hull")
    assert set(table.method) <= {"retrieval", "merging", "decoration"}
    assert (table.prototype_id != "").all()
    assert table["rank"].tolist() == [1, 2, 3]
    assert table.score.is_monotonic_decreasing
    made = read(tmp_path / "a", workers=1)
    assert {tuple(sorted(set(c.atomic_numbers.tolist()))) for c in made} == {(11, 17)}
    other = sample(tmp_path / "b", *args, "--exclude", ",".join(table.prototype_id))
    assert not set(other.prototype_id) & set(table.prototype_id)


def test_only_the_asked_space_group_comes(tmp_path: Path) -> None:
    args = ("--composition", "NaCl", "-n", "3", "--method", "retrieval")
    table = sample(tmp_path / "a", *args, "--space-group", "F-43m")
    assert set(table.space_group) == {216}
    assert "F -4 3 m" in (tmp_path / "a" / table.file[0]).read_text().replace("F-43m", "F -4 3 m")
    assert "no space group 'F-99m'" in sample(
        tmp_path / "b", *args, "--space-group", "F-99m", status=2
    )
    assert "from 1 to 230" in sample(tmp_path / "c", *args, "--space-group", "231", status=2)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--symmetrize",),
        ("--symmetrize", "--tolerance", "0.8"),
        ("--space-group", "P4/mmm", "--tolerance", "0.3"),
    ],
)
def test_the_table_describes_every_file_as_it_was_written(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    compositions = ("Li2O", "CaTiO3", "MgAl")
    requests = [part for text in compositions for part in ("--composition", text)]
    table = sample(tmp_path / "a", *requests, "-n", "6", "--method", "retrieval", *args)
    made = read(tmp_path / "a", workers=1)
    assert len(made) == len(table)
    crystals = {f"{name}.cif": made[i] for i, name in enumerate(made.ids)}
    tolerance = float(args[-1]) if "--tolerance" in args else 0.1
    for row in table.itertuples():
        crystal = crystals[row.file]
        text = (tmp_path / "a" / row.file).read_text()
        stated = int(re.search(r"Int_Tables_number\s+(\d+)", text)[1])
        assert stated == (row.space_group if args else 1)
        found = int(space_groups(crystal, tolerance)[0])
        is_given = "--space-group" in args
        assert is_subgroup(row.space_group, of=found) if is_given else found == row.space_group
        assert crystal.num_atoms[0] == row.num_atoms
        assert Formula.of_atoms(crystal.atomic_numbers).reduced.text == row.formula
        assert densities(crystal)[0] == pytest.approx(row.density, abs=2e-5)
        assert crystal.volumes[0] / row.num_atoms == pytest.approx(row.volume_per_atom, abs=2e-5)
        assert min_distances(crystal)[0] == pytest.approx(row.min_distance, abs=2e-5)
    if "--space-group" in args:
        assert set(table.space_group) == {123}


def test_refinement_stays_near_what_it_began_with(tmp_path: Path) -> None:
    args = ("--composition", "NaCl", "-n", "2", "--formula-units", "1", "--method", "refine")
    table = sample(tmp_path / "a", *args)
    assert (table.method == "refine").all()
    assert table.score.is_monotonic_decreasing
    assert (table.prototype_id != "").all()
    assert (table.min_distance > 2).all()
    began = sample(tmp_path / "b", *args[:-1], "retrieval")
    volumes = dict(zip(began.prototype_id, began.volume_per_atom, strict=True))
    wanted = [volumes[name] for name in table.prototype_id]
    assert list(table.volume_per_atom) == pytest.approx(wanted, rel=1e-3)  # then made symmetric


def test_auto_leaves_to_diffusion_a_share_and_what_no_library_knows() -> None:
    requests = ask_formulas([parse_formula("NaCl"), parse_formula("Na7Cl2F3S")], 8)
    left = left_to_model(requests, [12, 5])
    assert [rest.count for rest in left] == [2, 3]
    for one, rest in zip(requests, left, strict=True):
        assert {unit for unit, _ in rest.sizes} <= {unit for unit, _ in one.sizes}


class Counted:
    """Calls of `Library.load` and `propose`, and the pieces on disk at each proposal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> None:
        self.loads, self.kept, self.work = 0, [], Path()
        load = Library.load

        def counted_load(*args: Any, **given: Any) -> Library:
            self.loads += 1
            return load(*args, **given)

        def counted_propose(library: Library, *args: Any, **given: Any) -> Any:
            self.kept.append(len(list(self.work.glob("part-*.npz"))))
            if len(self.kept) == stop_at:
                raise KeyboardInterrupt
            return propose(library, *args, **given)

        monkeypatch.setattr(Library, "load", counted_load)
        monkeypatch.setattr("crysgen.retrieval.propose.propose", counted_propose)


AUTO = ("--composition", "NaCl", "--composition", "Na7Cl2F3S", "--composition", "MgO", "-n", "4")


def test_each_composition_is_proposed_once_and_kept_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first that only the model has comes after the library's likelier ones.
    args = (*AUTO, "-n", "16", "--steps", "3")
    counted = Counted(monkeypatch)
    counted.work = tmp_path / "a" / "unfinished-run"
    whole = sample(tmp_path / "a", *args)
    assert (counted.loads, counted.kept) == (1, [0, 1, 2])
    assert set(whole.method) >= {"retrieval", "diffusion"}
    # Interrupted, it goes on with what is missing, to the same end.
    monkeypatch.undo()
    counted = Counted(monkeypatch, stop_at=3)
    sample(tmp_path / "b", *args, status=1)  # 130 where a program catches signals
    monkeypatch.undo()
    counted = Counted(monkeypatch)
    again = sample(tmp_path / "b", *args)
    assert (counted.loads, len(counted.kept)) == (1, 1)
    pd.testing.assert_frame_equal(again, whole)
    for name in whole.file:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_nothing_is_computed_before_the_output_folder_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*args: Any, **given: Any) -> Any:
        raise AssertionError("too early")

    for place in ("crysgen.compositions.systems.compositions", "crysgen.requests.read_structures"):
        monkeypatch.setattr(place, computed)
    monkeypatch.setattr(Library, "load", computed)
    monkeypatch.setattr("crysgen.checkpoints.load_model", computed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "request.json").write_text('{"schema": "crysgen/1"}')
    for name, says in (("full", "holds other things"), ("done", "holds a finished run")):
        for what in (("--composition", "NaCl"), ("--system", "Li-O"), ("--compositions", "mp20")):
            assert says in str(sample(tmp_path / name, *what, "-n", "1", status=2))


def test_a_run_that_is_killed_while_it_proposes_goes_on(tmp_path: Path) -> None:
    code = "import sys; from crysgen.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "sample", *AUTO, "--method", "retrieval", "--quiet"]
    command += ["--no-energies", "--workers", "1", "--cache", "off", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path)
    work = tmp_path / "out" / "unfinished-run"
    deadline = time.monotonic() + 120
    while not list(work.glob("part-*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list(work.glob("part-*.npz"))
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    other = sample(tmp_path / "whole", *AUTO, "--method", "retrieval")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out" / "samples.csv", keep_default_na=False), other
    )


@pytest.mark.parametrize("formula", ["Na7Cl2F3S", "XeAuLi3"])
def test_formulas_nobody_has_made_get_candidates(tmp_path: Path, formula: str) -> None:
    table = sample(tmp_path / "a", "--composition", formula, "-n", "2", "--steps", "10")
    assert len(table) == 2
    assert np.isfinite(table.volume_per_atom).all()
