"""The script for a GPU, on a CPU: its parts, and as slow tests every step of it, tiny."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from places import ROOT, TESTS
from sets import random_crystals

from crysgen.checkpoints import load_model
from crysgen.training.data import SPLIT, canonical
from crysmetrics.io import Crystals

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_samples
import gpu_tables
import gpu_training

RUNS = sorted((ROOT / "benchmarks" / "gpu_runs").glob("*.toml"))
PLAN = """
deadline = 60
[[runs]]
name = "one"
seconds = 30
model = { network_settings = { channels = 16, layers = 1, heads = 2, radial = 6, k = 8 } }
[[samples]]
set = "val"
settings = { position_noise = 0.5 }
"""


@pytest.fixture
def packed(tmp_path):
    crystals = canonical(random_crystals(24, seed=1))
    marks = np.array(["train"] * 16 + ["val"] * (len(crystals) - 16))
    path = tmp_path / "packed.npz"
    replace(crystals, properties={SPLIT: marks}).save(path)
    return path


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_the_files_of_runs_say_what_the_script_knows(path):
    plan = gpu_training.read_plan(path)
    assert plan["runs"]
    spent = sum(run["seconds"] for run in plan["runs"])
    assert spent + plan["reserve"] <= plan["deadline"] <= 600
    for request in plan["samples"]:
        assert request["set"] in ("val", "test", "free")
        assert set(request.get("runs", [])) <= {run["name"] for run in plan["runs"]}


@pytest.mark.parametrize(
    "wrong", ["seconds = 30\nsecond = 3", 'seconds = 30\nmodel = { coupling = "yes" }']
)
def test_what_a_file_can_t_mean_is_refused_before_a_card_is_paid_for(wrong, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(PLAN.replace("seconds = 30", wrong, 1).split("model = { network")[0])
    with pytest.raises((SystemExit, ValueError), match=r"second|coupling"):
        gpu_training.read_plan(path)


def test_a_run_comes_back_as_small_files(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_samples, "LARGEST_FILE", 20_000)
    monkeypatch.setattr(
        gpu_training, "TINY", tomllib.loads(PLAN)["runs"][0]["model"]["network_settings"]
    )
    monkeypatch.setattr(gpu_training, "FEWEST_SECONDS", 0.0)
    plan = tmp_path / "run.toml"
    plan.write_text(PLAN)
    out = tmp_path / "out"
    given = argparse.Namespace(
        data=packed, test=None, exchanges=None, output=out, check=True, profile=False
    )
    campaign = gpu_training.Campaign(gpu_training.read_plan(plan), given)
    campaign.reserve = campaign.deadline - campaign.spent - 1.5  # of training
    campaign.run()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["runs"]["one"]["graphs"] is True
    assert summary["runs"]["one"]["steps"] > 0
    assert summary["not_done"] == []
    parts = sorted(out.glob("one.zip.*"))
    assert len(parts) > 1
    assert all(path.stat().st_size <= 20_000 for path in parts)
    whole = io.BytesIO(b"".join(path.read_bytes() for path in parts))
    with zipfile.ZipFile(whole) as archive:
        assert sorted(archive.namelist()) == ["one.json", "one.log.csv", "one.safetensors"]
        archive.extractall(tmp_path / "one")
    model = load_model(tmp_path / "one" / "one.safetensors")
    assert model.config.network_settings["channels"] == 16
    [(name, made)] = gpu_tables.brought_back(out)
    assert name == "one-val-position_noise0.5-seed0.npz"
    held = Crystals.load(packed)
    assert set(made.ids) <= set(held.ids[16:])


def test_a_slow_run_ends_and_the_others_go_on(tmp_path):
    run = object.__new__(gpu_training.Watched)
    run.rows, run.limits = [], {"crystals_per_second": 100.0, "val_loss": 3.0}
    row = {"stage": "model", "per_second": "50", "val": "2"}
    run.folder, run._show = tmp_path, False
    run.fabric = argparse.Namespace(loggers=[])
    with pytest.raises(gpu_training.Aborted, match="slow"):
        run._log(dict(row))
    run.rows = []
    with pytest.raises(gpu_training.Aborted, match="learning"):
        run._log({**row, "per_second": "500", "val": "nan"})
    run.rows = []
    run._log({**row, "per_second": "500"})


def test_samples_are_cut_into_small_zips(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_samples, "LARGEST_FILE", 4000)
    (tmp_path / "samples1.zip").write_bytes(b"of an earlier run")
    store = gpu_samples.Store(tmp_path)
    for i in range(4):
        store.add(f"{i}.npz", random_crystals(5, seed=i))
    assert [name for name, _ in gpu_tables.brought_back(tmp_path)] == [f"{i}.npz" for i in range(4)]
    assert all(path.stat().st_size <= 4500 for path in tmp_path.glob("*.zip"))


def test_training_needs_no_compiler_and_no_search_for_symmetry():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import gpu_training\n"
        "print(sorted({'numba', 'pymatgen', 'spglib', 'moyopy', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


@pytest.mark.slow
def test_everything_runs_on_a_machine_with_little_installed(packed, tmp_path):
    """As on a card: PyTorch, NumPy, safetensors and lightning-fabric alone, then the tables."""
    out = tmp_path / "out"
    script = ROOT / "benchmarks" / "gpu_training.py"
    plan = ROOT / "benchmarks" / "gpu_runs" / "v2.toml"
    command = [TESTS / "bare_machine.py", script, plan, packed, "--test", packed, "-o", out]
    done = subprocess.run(
        [sys.executable, *map(str, command), "--check"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tables = ROOT / "benchmarks" / "gpu_tables.py"
    command = [tables, out, packed, "--test", packed, "--metrics", "match_rate,struct_validity"]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| v2") >= 6
    assert torch.__version__ in done.stdout
