import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from fake_model import FakeModel, use
from places import TESTS
from sets import random_crystals, rocksalt

from crysgen.checkpoints import ModelInfo
from crysgen.cli import first_run, main
from crysgen.cli.noise import parse_steps
from crysgen.columns import COLUMNS
from crysmetrics.errors import UserError
from crysmetrics.io import read, write


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(monkeypatch, tmp_path):
    return use(monkeypatch, tmp_path, FakeModel())


def run(*args: str, status: int = 0):
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == status, result.output
    return result


def sample(model, *args, status=0):
    quick = ("--model", model, "--no-energies", "--workers", "1", "--device", "cpu")
    if "--method" not in args:
        quick += ("--method", "diffusion")
    return run("sample", *args, *quick, status=status)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from crysgen.cli import main\n"
        "for args in (['--help'], ['sample', '--help'], ['noise', '--help']):\n"
        "    try: main(args)\n"
        "    except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'pandas', 'scipy', 'pymatgen', 'numba', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "--composition FORMULA" in done.stdout


def test_every_command_has_help():
    assert {"sample", "train", "noise", "models"} <= set(main.list_commands(None))
    for command in main.list_commands(None):
        assert "Usage" in run(command, "--help").output


def test_sample(model, tmp_path):
    result = sample(
        model, "--composition", "Li2O", "-n", "5", "-o", "out", "--formula-units", "1,2"
    )
    assert "Li2O: 5 structures (3 of 3 atoms, 2 of 6 atoms)." in result.stderr
    assert "5 structures are in out" in result.stdout
    table = pd.read_csv("out/samples.csv")
    assert tuple(table.columns) == tuple(COLUMNS)
    assert len(read("out")) == 5
    again = sample(model, "--composition", "Li2O", "-n", "5", "-o", "out", status=2)
    assert "finished run" in again.stderr
    sample(model, "--composition", "Li2O", "-n", "3", "-o", "out", "--overwrite", "--quiet")
    assert len(read("out")) == 3


def test_quiet_and_json(model):
    args = ("--composition", "Li2O", "--composition", "Ca(OH)2", "-n", "2", "-o", "out")
    result = sample(model, *args, "--quiet", "--json", "-")
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["schema"] == "crysgen/1"
    assert document["result"]["structures"] == 4
    assert [s["rank"] for s in document["samples"]] == [1, 2, 1, 2]
    assert document["samples"][0]["predicted_formation_energy_per_atom"] is None
    result = sample(model, *args, "--overwrite", "--json", "-")
    json.loads(result.stdout)
    assert "2 compositions, 4 structures." in result.stderr
    assert "4 structures are in out" in result.stderr
    sample(model, *args, "--overwrite", "--json", "run.json")
    assert json.loads(Path("run.json").read_text())["output"] == "out"
    args = ("--composition", "Li2O", "-o", "new", "--json", "run.json")
    assert "run.json exists" in sample(model, *args, status=2).stderr
    assert not Path("new").exists()


def test_default_folders(model):
    sample(model, "--composition", "Li2O", "-n", "1")
    sample(model, "--composition", "Li2O", "-n", "1", "--seed", "7")
    sample(model, "--composition", "Li2O", "-n", "1")
    Path("oxides.txt").write_text("MgO\nCaO\nSrO\nBaO\nZnO\n")
    sample(model, "--compositions", "oxides.txt", "-n", "1")
    args = [a for t in ("MgO", "CaO", "SrO", "BaO") for a in ("--composition", t)]
    sample(model, *args, "-n", "1")
    sample(model, "--system", "Li-O", "-n", "1", "--max-atoms", "4")
    assert {p.name for p in Path().iterdir() if p.is_dir()} == {
        *("Li2O-seed0", "Li2O-seed7", "Li2O-seed0-2", "oxides-seed0"),
        *("MgO-CaO-SrO-and-1-more-seed0", "Li-O-seed0"),
    }


def test_interrupted(monkeypatch, tmp_path):
    given = use(monkeypatch, tmp_path, FakeModel(stop_at=2))
    args = ("--composition", "Li2O", "-n", "4", "--batch-size", "1")
    sample(given, *args, status=1)  # the status is 130 where a program catches signals
    use(monkeypatch, tmp_path, FakeModel())
    result = sample(given, *args)  # the default folder is found again
    assert "Going on in Li2O-seed0: 1 of 4 are done." in result.stderr
    assert len(read("Li2O-seed0")) == 4


def test_compositions_of_structures(model, tmp_path):
    write(random_crystals(6, 1), tmp_path / "ref")
    sample(model, "--compositions", "ref", "-n", "1", "-o", "out")
    reference, made = read("ref"), read("out")
    assert made.ids == reference.ids
    assert (made.element_counts == reference.element_counts).all()
    assert pd.read_csv("out/samples.csv").ref_id.tolist() == list(reference.ids)


def test_systems(model):
    result = sample(model, "--system", "Na-Cl", "--max-atoms", "4", "-n", "2", "-o", "out")
    assert "Na-Cl: 5 compositions, 10 structures." in result.stderr
    assert pd.read_csv("out/samples.csv").formula[0] == "NaCl"
    few = ("--max-compositions", "2", "--subsystems")
    result = sample(model, "--system", "Na-Cl", *few, "-n", "1", "-o", "few")
    assert "2 compositions" in result.stderr
    units = ("--formula-units", "2", "--max-atoms", "8")
    sample(model, "--system", "Na-Cl", *units, "-n", "1", "-o", "double")
    assert set(pd.read_csv("double/samples.csv").num_atoms) == {4, 6, 8}


def test_large_cells_are_allowed_with_a_warning(model):
    args = ("--composition", "LiFePO4", "--formula-units", "4", "-n", "1", "-o", "out")
    assert "--max-atoms" in sample(model, *args, status=2).stderr
    result = sample(model, *args, "--max-atoms", "28", "--quiet")
    assert "Warning: cells of up to 28 atoms" in result.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "has no fake.json that says what it is"),
        (["--composition", "Li2O", "--system", "Li-O"], "one of --composition"),
        (["--composition", "nacl"], "did you mean NaCl?"),
        (["--composition", "Fe0.5Ni0.5"], "write FeNi"),
        (["--composition", "C6H12O6", "--max-atoms", "20"], "--max-atoms"),
        (["--composition", "Li2O", "--formula-units", "x"], "--formula-units"),
        (["--composition", "Li2O", "--subsystems"], "go with --system"),
        (["--composition", "Li2O", "--model", "nonsense"], "no model 'nonsense'"),
        (["--composition", "Li2O", "--device", "tpu"], "tpu"),
        (["--composition", "Li2O", "--json", "EXISTS"], "--overwrite"),
        (["--composition", "Li2O", "-o", "EXISTS"], "is a file"),
        (["--composition", "Li2O", "-o", "FOREIGN", "--overwrite"], "not replaced"),
        (["--compositions", "nowhere"], "does not exist"),
        (["--compositions", "EXISTS"], "line 1"),
        (["--system", "Li-Xx", "-n", "1"], "'Xx' is none"),
        (["--system", "Li-O"], "127 compositions of up to 20 atoms; say with -n"),
        (["--system", "Li-Fe-O", "-n", "1", "--max-atoms", "2"], "--max-atoms"),
    ],
)
def test_errors_of_users_are_one_sentence_and_status_2(model, tmp_path, args, says):
    (tmp_path / "exists").write_text("nonsense")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("precious")
    names = {"EXISTS": "exists", "FOREIGN": "foreign"}
    given = [names.get(a, a) for a in args]
    result = run("sample", "--model", model, "--no-energies", *given, status=2)
    assert says in result.stderr
    assert "Traceback" not in result.output
    sentences = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(sentences) == 1
    assert result.stdout == ""
    assert not list(tmp_path.glob("Li*"))


def test_numbers_that_are_none_are_usage_errors(model):
    for args in (["-n", "0"], ["--batch-size", "0"], ["--batch-size", "x"], ["--steps", "0"]):
        assert "Usage" in run("sample", "--composition", "Li2O", *args, status=2).stderr


# --- noise and models --------------------------------------------------------------------------


def test_noise(model, tmp_path):
    crystals = random_crystals(5, 2)
    write(crystals, tmp_path / "ref")
    (tmp_path / "ref" / "bad.cif").write_text("")
    result = run("noise", "ref", "--step", "3", "-o", "out", "--model", model)
    assert "left out: bad.cif: is empty" in result.stderr
    noisy, calm = read("out"), read("ref")
    assert noisy.ids == calm.ids
    assert (noisy.atomic_numbers == calm.atomic_numbers).all()
    assert abs(noisy.frac_coords - calm.frac_coords).max() > 0.01
    # The same noise for each crystal, whatever else is noised and in what batches.
    write(calm[[1, 3]], tmp_path / "two.npz")
    run("noise", "two.npz", "--step", "3", "-o", "two.out.npz", "--model", model)
    run("noise", "ref", "--step", "3", "-o", "all.npz", "--model", model, "--batch-size", "2")
    both, every = read("two.out.npz"), read("all.npz")
    assert both.content_hashes() == every[[1, 3]].content_hashes()
    other = run("noise", "ref", "--step", "3", "-o", "out", "--model", model, status=2)
    assert "--overwrite" in other.stderr


def test_noise_at_several_steps(model, tmp_path):
    write(rocksalt(), tmp_path / "ref.npz")
    args = ("noise", "ref.npz", "--step", "10,0", "--step", "5", "-o", "out", "--model", model)
    assert "3 steps" in run(*args).stdout
    assert sorted(p.name for p in Path("out").iterdir()) == ["step-00", "step-05", "step-10"]
    still = read("out/step-00")
    assert abs(still.frac_coords - read("ref.npz").frac_coords).max() < 1e-9
    run(*args, "--overwrite", "--quiet")
    (tmp_path / "out" / "mine.txt").write_text("x")
    assert "other things" in run(*args, "--overwrite", status=2).stderr
    beyond = run("noise", "ref.npz", "--step", "11", "-o", "x", "--model", model, status=2)
    assert "has 10 steps; 11 is beyond" in beyond.stderr
    assert not Path("x").exists()


def test_steps():
    assert parse_steps(["10, 0", "5", "5"]) == [0, 5, 10]
    for text in ("", "x", "-1", "1.5", "1,,2"):
        with pytest.raises(UserError, match="--step"):
            parse_steps([text])


def test_models(monkeypatch, tmp_path):
    monkeypatch.setattr("crysgen.checkpoints.known_models", lambda: [])
    assert "no models" in run("models").stdout
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"x" * 2_000_000)
    card = {"kind": "gemsdiff", "data": {"train": 19803}}
    known = [ModelInfo("mine", path, card)]
    monkeypatch.setattr("crysgen.checkpoints.known_models", lambda: known)
    listed = run("models").stdout
    for text in ("mine", "gemsdiff", "2.0", "19,803 structures", str(tmp_path)):
        assert text in listed
    assert json.loads(run("models", "mine").stdout) == card
    path.with_suffix(".md").write_text("# A card\n")
    assert run("models", "mine").stdout == "# A card\n"
    rows = json.loads(run("models", "--json", "-").stdout)["models"]
    assert rows == [{"name": "mine", "path": str(path), "card": card}]
    assert "no model 'other'" in run("models", "other", status=2).stderr


# --- the first run -----------------------------------------------------------------------------


def test_first_runs_of_a_few_crystals_compile_nothing(tmp_path):
    """The same numbers, and no compiled kernel on disk."""
    code = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(TESTS)!r})\n"
        "from crysgen.cli.first_run import interpret_small_work\n"
        "print(interpret_small_work(10))\n"
        "from sets import rocksalt\n"
        "from crysmetrics.features.alignn.extractor import formation_energies\n"
        "from crysmetrics.geometry import min_distances\n"
        "salt = rocksalt()\n"
        "energy = formation_energies(salt, device='cpu')[0]\n"
        "print(float(min_distances(salt)[0]), float(energy[0]))\n"
    )
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    environment.pop("NUMBA_DISABLE_JIT")
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    switched, numbers = done.stdout.splitlines()
    assert done.stderr == ""
    assert switched == "True"
    assert not (tmp_path / "numba").exists()
    from crysmetrics.features.alignn.extractor import formation_energies
    from crysmetrics.geometry import min_distances

    salt = rocksalt()
    wanted = min_distances(salt)[0], formation_energies(salt, device="cpu")[0][0]
    assert [float(n) for n in numbers.split()] == pytest.approx(wanted, abs=1e-5)


def test_the_first_command_compiles_nothing(tmp_path):
    """Newcomers wait for crystals, not for kernels."""
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    environment.pop("NUMBA_DISABLE_JIT", None)
    code = "from crysgen.entry import main; main()"
    command = [sys.executable, "-c", code, "sample", "--composition", "NaCl", "-n", "2"]
    command += ["--method", "retrieval", "--cache", "off", "-o", str(tmp_path / "salt")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "salt").glob("*.cif"))) == 2
    assert not (tmp_path / "numba").exists()


def test_compiled_code_is_used_where_it_is_there_or_pays(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    modules = {k: v for k, v in sys.modules.items() if k != "numba"}
    monkeypatch.setattr(sys, "modules", modules)
    assert not first_run.interpret_small_work(first_run.SMALL + 1)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "_graph_kernel._x-1.py311.nbi").write_text("")
    assert not first_run.interpret_small_work(10)
    assert "NUMBA_DISABLE_JIT" not in os.environ
