import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_model import FakeModel, use
from places import TESTS
from sets import one, random_crystals, rocksalt

import crysgen
from crysgen import output
from crysgen.columns import COLUMNS
from crysgen.compositions.formulas import Formula, parse_formula
from crysgen.generation import run
from crysgen.output import (
    NothingMadeError,
    RunFolder,
    Store,
    open_run,
)
from crysgen.proposers.base import build_methods
from crysgen.requests import ask_formulas, ask_structures, draws, request_record
from crysgen.run_state import free_folder, state
from crysgen.sampling import ATTEMPTS
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals, read, write
from crysmetrics.io.symmetrized import symmetrized
from crysmetrics.symmetry import space_groups

RESOURCES = Resources(device="cpu", workers=1, batch_size=3, cache="off")


class Runs:
    """Runs of one request with a fake model."""

    def __init__(self, monkeypatch, tmp_path):
        self.monkeypatch, self.tmp_path = monkeypatch, tmp_path
        self.requests = ask_formulas([parse_formula("Li2O"), parse_formula("NaCl")], 6, (1, 2))

    def __call__(self, name, fake=None, overwrite=False, requests=None, **settings):
        requests = requests or self.requests
        given = use(self.monkeypatch, self.tmp_path, fake or FakeModel())
        base = {"model": given, "energies": False, "method": "diffusion"}
        chosen = SamplingSettings(**(base | settings))
        methods = build_methods(requests, chosen, RESOURCES)
        record = {"request": request_record(requests, methods, chosen)}
        with open_run(self.tmp_path / name, record, overwrite) as (folder, continued):
            return run(requests, methods, chosen, RESOURCES, folder), continued


@pytest.fixture
def runs(monkeypatch, tmp_path):
    return Runs(monkeypatch, tmp_path)


def content(folder):
    """Bytes of all files but the record, which holds a time."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "request.json"
    }


def test_folder_holds_what_was_asked(runs, tmp_path):
    result, continued = runs("out")
    assert not continued
    folder = tmp_path / "out"
    table = pd.read_csv(folder / "samples.csv")
    assert tuple(table.columns) == tuple(COLUMNS)
    assert {p.name for p in folder.iterdir()} == {
        *("samples.csv", "request.json", "candidates.html"),
        *table.file,
    }
    assert len(table) == 12
    for text in ("Li2O", "NaCl"):
        rows = table[table.formula == text]
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5, 6]
        assert rows.file.tolist() == [f"{text}_{k:04d}.cif" for k in range(1, 7)]
        assert sorted(rows.num_atoms.unique()) == [
            k * parse_formula(text).num_atoms for k in (1, 2)
        ]
    crystals = read(folder)
    for crystal in crystals:
        row = table[table.file == crystal.ids[0] + ".cif"].iloc[0]
        assert Formula.of_atoms(crystal.atomic_numbers).reduced.text == row.formula
        assert len(crystal.atomic_numbers) == row.num_atoms
        assert crystal.volumes[0] / row.num_atoms == pytest.approx(row.volume_per_atom, abs=1e-5)
    assert (table.method == "diffusion").all()
    assert table[["prototype_id", "score", "ref_id"]].isna().all().all()
    assert table.predicted_formation_energy_per_atom.isna().all()
    assert table.seed.is_unique
    record = json.loads((folder / "request.json").read_text())
    assert record["schema"] == "crysgen/1"
    assert record["result"]["structures"] == 12
    assert len(result.crystals) == 12


def test_same_request_gives_the_same_bytes(runs, tmp_path):
    runs("a"), runs("b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    runs("c", seed=1)
    assert content(tmp_path / "a") != content(tmp_path / "c")


@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_interrupted_run_goes_on(runs, tmp_path, call):
    runs("whole")
    with pytest.raises(KeyboardInterrupt):
        runs("out", FakeModel(stop_at=call))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["unfinished-run"]
    model = FakeModel()
    _, continued = runs("out", model)
    assert continued
    assert sum(map(len, model.calls)) == 12 - 3 * (call - 1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("files", [0, 5, 12, 13])
def test_a_run_killed_while_it_is_written_goes_on(runs, tmp_path, monkeypatch, files):
    runs("whole")
    written, real = [], output.atomic_file

    def failing(path):
        if Path(path).suffix in (".cif", ".csv"):
            if len(written) == files:
                raise KeyboardInterrupt
            written.append(path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(output, "atomic_file", failing)
        if files < 13:
            with pytest.raises(KeyboardInterrupt):
                runs("out")
        else:
            runs("out")
    if files < 13:
        assert not (tmp_path / "out" / "samples.csv").exists()
        model = FakeModel()
        runs("out", model)
        assert model.calls == []
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_other_settings_are_refused_and_named(runs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        runs("out", FakeModel(stop_at=2))
    with pytest.raises(UserError, match=r"another request \(seed was 0, is 1\).*--overwrite"):
        runs("out", seed=1)
    for texts, count, says in (
        (["MgO"], 5, "compositions: number was 2, is 1"),
        (["MgO", "CaO"], 5, "compositions: samples was 12, is 10"),
        (["MgO", "CaO"], 6, "other compositions"),
    ):
        requests = ask_formulas([parse_formula(t) for t in texts], count, (1, 2))
        with pytest.raises(UserError, match=says):
            runs("out", requests=requests)
    other = use(runs.monkeypatch, tmp_path, FakeModel(), "other")
    with pytest.raises(UserError, match="other diffusion"):
        runs("out", model=other)
    runs("out")
    with pytest.raises(UserError, match=r"finished run.*--overwrite"):
        runs("out")


def test_overwriting_keeps_the_old_until_the_new_is_complete(runs, tmp_path):
    runs("out")
    before = content(tmp_path / "out")
    notes = tmp_path / "out" / "notes.txt"
    notes.write_text("mine")
    requests = ask_formulas([parse_formula("MgO")], 4, (1,))
    with pytest.raises(KeyboardInterrupt):
        runs("out", FakeModel(stop_at=2), overwrite=True, requests=requests)
    now = content(tmp_path / "out")
    assert {k: now[k] for k in before} == before
    # The unfinished run goes on, with or without --overwrite.
    _, continued = runs("out", overwrite=True, requests=requests)
    assert continued
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        *("request.json", "samples.csv", "candidates.html"),
        "notes.txt",
        *(f"MgO_000{k}.cif" for k in "1234"),
    }
    assert notes.read_text() == "mine"


def test_foreign_folders_are_left_alone(runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds other things"):
            runs("out", overwrite=overwrite)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is a file"):
        runs("file", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="broken link"):
        runs("link")
    (tmp_path / "empty").mkdir()
    runs("empty")


def test_what_can_have_no_result_leaves_no_folder(runs, tmp_path):
    never = {d.again(k).seed for d in draws(runs.requests, 0) for k in range(ATTEMPTS)}
    with pytest.raises(NothingMadeError):
        runs("out", FakeModel(bad=never))
    with pytest.raises(NothingMadeError, match="space group 47; they have"):
        runs("deep/er", space_group=47)
    with pytest.raises(UserError, match="no place for 1 formula unit"):
        runs("deep/er", space_group=227)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "deep").exists()

    class Broken(FakeModel):
        def sample(self, *args):
            raise UserError("It is broken.")

    with pytest.raises(UserError, match="broken"):
        runs("out", Broken())
    assert not (tmp_path / "out").exists()
    # A finished run that was to be replaced stays as it was, and what an interrupted one made too.
    runs("out")
    before = content(tmp_path / "out")
    with pytest.raises(UserError, match="broken"):
        runs("out", Broken(), overwrite=True, seed=1)
    assert content(tmp_path / "out") == before
    with pytest.raises(KeyboardInterrupt):
        runs("half", FakeModel(stop_at=2))
    with pytest.raises(UserError, match="broken"):
        runs("half", Broken())
    runs("half")
    assert content(tmp_path / "half") == before


def test_damaged_runs_are_one_sentence(runs, tmp_path):
    runs("whole")
    with pytest.raises(KeyboardInterrupt):
        runs("out", FakeModel(stop_at=4))
    work = tmp_path / "out" / "unfinished-run"
    good = (work / "part-000002.npz").read_bytes()
    random_crystals(3, 2).save(tmp_path / "other.npz")
    other = (tmp_path / "other.npz").read_bytes()
    foreign = Crystals.load(work / "part-000002.npz")
    foreign = foreign.with_ids([f"diffusion-x{i}" for i in range(len(foreign))])
    foreign.save(tmp_path / "foreign.npz")
    damages = {
        b"": "part-000002.npz is no packed set of crystals",
        good[: len(good) // 2]: "part-000002.npz is no packed set of crystals",
        good[:200] + bytes(20) + good[220:]: "part-000002.npz is no packed set of crystals",
        other: "part-000002.npz is damaged: these are no candidates",
        (work / "part-000001.npz").read_bytes(): "it holds some candidates twice",
        (tmp_path / "foreign.npz").read_bytes(): "it holds diffusion-x0, which was never asked for",
    }
    for damage, says in damages.items():
        (work / "part-000002.npz").write_bytes(damage)
        with pytest.raises(InputError, match=says):
            runs("out")
    # Taken away, as the sentence says, it is made anew, and nothing else is lost or repeated.
    (work / "part-000002.npz").unlink()
    model = FakeModel()
    runs("out", model)
    assert sum(map(len, model.calls)) == 12 - 2 * 3
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[1]", '{"schema": "crysgen/1"', "\xff"])
def test_damaged_requests_are_one_sentence(runs, tmp_path, text):
    with pytest.raises(KeyboardInterrupt):
        runs("out", FakeModel(stop_at=2))
    (tmp_path / "out" / "unfinished-run" / "request.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"request\.json is damaged.*--overwrite"):
        runs("out")
    runs("out", overwrite=True)
    assert len(read(tmp_path / "out")) == 12
    (tmp_path / "out" / "request.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="holds other things"):
        runs("out")


@pytest.mark.parametrize("request_", [None, 5, "text", [1], {}, {"settings": 5, "methods": []}])
def test_unknown_requests_are_other_requests(runs, tmp_path, request_):
    work = tmp_path / "out" / "unfinished-run"
    work.mkdir(parents=True)
    (work / "request.json").write_text(json.dumps({"schema": "crysgen/1", "request": request_}))
    with pytest.raises(UserError, match="unfinished run of another request"):
        runs("out")


def test_two_runs_do_not_share_a_folder(runs, tmp_path):
    record = {"request": {}}
    with (
        open_run(tmp_path / "out", record),
        pytest.raises(UserError, match="Another run is writing"),
        open_run(tmp_path / "out", record),
    ):
        pass
    assert state(tmp_path / "out", record) == "continued"


def test_free_names(runs, tmp_path):
    base, record = str(tmp_path / "Li2O"), {"request": {"seed": 0}}
    assert free_folder(base, record) == Path(base)
    with open_run(Path(base), record):
        pass
    assert free_folder(base, record) == Path(base)  # unfinished, and the same
    assert free_folder(base, {"request": {"seed": 1}}) == Path(f"{base}-2")


def test_structures_give_files_their_ids(runs, tmp_path):
    salts = [rocksalt(5 + 0.1 * k, name=f"set/mp-{k}") for k in range(3)]
    write(Crystals.concatenate(salts), tmp_path / "ref.npz")
    runs("one", requests=ask_structures(tmp_path / "ref.npz", 1))
    table = pd.read_csv(tmp_path / "one" / "samples.csv")
    assert table.file.tolist() == [f"set/mp-{k}.cif" for k in range(3)]
    assert table.ref_id.tolist() == [f"set/mp-{k}" for k in range(3)]
    assert read(tmp_path / "one").ids == ("mp-0", "mp-1", "mp-2")
    runs("two", requests=ask_structures(tmp_path / "ref.npz", 2))
    table = pd.read_csv(tmp_path / "two" / "samples.csv")
    assert table.file.tolist()[:3] == [
        "set/mp-0_0001.cif",
        "set/mp-0_0002.cif",
        "set/mp-1_0001.cif",
    ]
    assert table["rank"].tolist() == [1, 2] * 3
    runs("one", requests=ask_structures(tmp_path / "ref.npz", 2), overwrite=True)
    assert len(read(tmp_path / "one")) == 6


def test_ranks_follow_energies_and_clashes_come_last(runs, tmp_path, monkeypatch):
    def energies(sample):
        return -sample.crystals.volumes / sample.crystals.num_atoms

    monkeypatch.setattr("crysmetrics.metrics.alignn.energies", energies)
    result, _ = runs("out", energies=True)
    for text in ("Li2O", "NaCl"):
        rows = result.table[result.table.formula == text]
        clashing = (rows.min_distance <= 0.5).tolist()
        assert clashing == sorted(clashing)
        for part in (rows[rows.min_distance <= 0.5], rows[rows.min_distance > 0.5]):
            assert part.predicted_formation_energy_per_atom.is_monotonic_increasing


def test_real_energies(runs):
    result, _ = runs("out", energies=True)
    values = result.table.predicted_formation_energy_per_atom
    assert values.notna().all()
    assert values.abs().max() < 20


def test_failures_are_named_and_counted(runs, tmp_path):
    wanted = draws(runs.requests, 0)
    never = {wanted[2].again(k).seed for k in range(ATTEMPTS)}
    result, _ = runs("out", FakeModel(bad=never | {wanted[7].seed}))
    assert len(result.table) == 11
    assert result.redrawn == 1
    (failure,) = result.failures
    assert failure["formula"] == "Li2O"
    record = json.loads((tmp_path / "out" / "request.json").read_text())
    assert record["result"]["failures"] == result.failures
    everything = {d.again(k).seed for d in wanted for k in range(ATTEMPTS)}
    with pytest.raises(UserError, match="No crystal could be made"):
        runs("none", FakeModel(bad=everything))


def test_store_in_memory_and_python_interface(monkeypatch, tmp_path):
    given = use(monkeypatch, tmp_path, FakeModel())
    settings = crysgen.SamplingSettings(model=given, energies=False, method="diffusion")
    result = crysgen.generate(["Li2O"], count=5, settings=settings, resources=RESOURCES)
    assert len(result.crystals) == 5
    assert result.table["rank"].tolist() == [1, 2, 3, 4, 5]
    one_string = crysgen.generate("Li2O", count=5, settings=settings, resources=RESOURCES)
    assert one_string.crystals.content_hashes() == result.crystals.content_hashes()
    for compositions, count in (([], 5), (["Li2O"], 0)):
        with pytest.raises(UserError):
            crysgen.generate(compositions, count, settings=settings, resources=RESOURCES)
    store = Store()
    store.add("diffusion", result.crystals.with_ids(["0", "1/a", "1/b", "2", "3"]))
    assert store.done == {f"diffusion-{k}" for k in range(4)}


# --- symmetry --------------------------------------------------------------------------------


def shaken(amount, seed=0):
    """Conventional rock salt with noise, and a crystal without symmetry."""
    rng = np.random.default_rng(seed)
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) + rng.normal(0, amount / 5, (2, 3))
    salt = rocksalt()
    cell = salt.lattices[0] + rng.normal(0, amount, (3, 3))
    triclinic = one([3, 3, 8], rng.random((3, 3)), 4 * (np.eye(3) + 0.1 * rng.random((3, 3))), "t")
    return Crystals.concatenate([one([11, 17], frac, cell, "salt"), triclinic])


def test_symmetry_is_found_and_made_exact():
    crystals = shaken(0.01)
    assert space_groups(crystals, 0.1).tolist() == [225, 1]
    assert space_groups(crystals, 1e-4)[0] < 16
    exact = symmetrized(crystals, 0.1)
    assert exact.ids == crystals.ids
    assert exact.num_atoms.tolist() == [8, 3]
    assert space_groups(exact, 1e-5).tolist() == [225, 1]
    assert exact.lattices[0][0, 0] == pytest.approx(5.64, abs=0.05)
    np.testing.assert_array_equal(exact[1].frac_coords, crystals[1].frac_coords)


class Salt(FakeModel):
    """Model of rock salt with noise, in primitive cells."""

    def sample(self, targets, steps=None, on_step=None):
        made = super().sample(targets, steps, on_step)
        near = shaken(0.01)[0]
        for i in range(len(targets)):
            made.frac_coords[i, :2] += -made.frac_coords[i, :2] + near.frac_coords
            made.lattices[i] = made.lattices[i] * 0 + near.lattices[0]
        return made


@pytest.mark.parametrize(("symmetrize", "groups"), [(None, [225, 225]), (False, [1, 1])])
def test_samples_of_models_are_symmetric_in_their_own_cells_unless_they_must_not_be(
    runs, tmp_path, symmetrize, groups
):
    requests = ask_formulas([parse_formula("NaCl")], 2, (1,))
    runs("out", Salt(), requests=requests, symmetrize=symmetrize)
    made = read(tmp_path / "out")
    assert made.num_atoms.tolist() == [2, 2]
    assert space_groups(made, 0.001).tolist() == groups


def test_symmetrised_files_hold_their_space_group(runs, tmp_path):
    requests = ask_formulas([parse_formula("NaCl")], 2, (1,))
    runs("out", Salt(), requests=requests, symmetrize=True)
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    text = (tmp_path / "out" / "NaCl_0001.cif").read_text()
    assert "Fm-3m" in text
    assert table.space_group.tolist() == [225, 225]
    assert table.num_atoms.tolist() == [8, 8]
    again = read(tmp_path / "out")
    assert [Formula.of_atoms(c.atomic_numbers).reduced.text for c in again] == ["NaCl", "NaCl"]
    assert again.volumes[0] / 8 == pytest.approx(table.volume_per_atom[0], abs=1e-4)


# --- killed ----------------------------------------------------------------------------------

SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from fake_model import FakeModel
import crysgen.checkpoints
class Slow(FakeModel):
    def sample(self, *args):
        made = super().sample(*args)
        time.sleep(0.2)
        return made
crysgen.checkpoints.load_model = lambda name=None, device="cpu": Slow()
from crysgen.cli import main
main(sys.argv[1:])
"""


def test_kill_at_any_moment_loses_nothing(tmp_path):
    (tmp_path / "fake.safetensors").write_bytes(b"weights")
    code = SLOW.format(tests=str(TESTS))
    command = [sys.executable, "-c", code, "sample", "--composition", "Li2O", "-n", "12"]
    command += ["--method", "diffusion"]
    command += ["--model", "fake.safetensors", "--batch-size", "1", "--no-energies", "--quiet"]
    command += ["--workers", "1", "--cache", "off", "-o", "out"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    work = tmp_path / "out" / "unfinished-run"
    deadline = time.monotonic() + 120
    while len(list(work.glob("part-*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(work.glob("part-*.npz")))
    assert 3 <= done < 12
    assert len(RunFolder(tmp_path / "out").candidates()) == done
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    with (tmp_path / "out" / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert len(read(tmp_path / "out")) == 12
    assert not work.exists()
