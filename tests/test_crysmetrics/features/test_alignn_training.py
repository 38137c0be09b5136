"""Training: packed data, exact resuming, schedules, and the end with a model card."""

import hashlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from places import ROOT
from safetensors.torch import load_file, save
from sets import random_crystals

from crysmetrics import training_state
from crysmetrics.errors import InputError
from crysmetrics.features.alignn.extractor import formation_energies
from crysmetrics.features.alignn.training.__main__ import main
from crysmetrics.features.alignn.training.data import TARGET, load_packed, packed_from, save_packed
from crysmetrics.features.alignn.training.trainer import Settings, Trainer, open_run
from crysmetrics.features.alignn.weights import load_weights
from crysmetrics.io import Crystals, write
from crysmetrics.training_state import STATE

SETTINGS = Settings(steps=8, batch_pairs=1500, seed=3, costly=1000)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    crystals = random_crystals(24, seed=4, atoms=(1, 3))
    energies = np.random.default_rng(0).normal(-1, 0.5, len(crystals))
    crystals = Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords,
        crystals.lattices,
        crystals.num_atoms,
        crystals.ids,
        {TARGET: energies},
    )
    split = (np.arange(len(crystals)) % 6 == 0).astype(int)
    path = tmp_path_factory.mktemp("data") / "packed.npz"
    save_packed(packed_from(crystals, split, {"source": "random"}), path)
    return path


def test_packed_data_survive(packed):
    first = load_packed(packed)
    assert first.origin == {"source": "random", "fold": 1e-3}
    again = packed.with_name("again.npz")
    save_packed(first, again)
    second = load_packed(again)
    for name in first.graphs.__dataclass_fields__:
        np.testing.assert_array_equal(
            getattr(first.graphs, name), getattr(second.graphs, name), err_msg=name
        )
    again.write_bytes(b"nonsense")
    with pytest.raises(InputError):
        load_packed(again)


def test_killed_and_resumed_is_the_same_run(packed, tmp_path):
    data = load_packed(packed)
    whole = Trainer(data, SETTINGS, tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    whole.run()
    (tmp_path / "parts").mkdir()
    Trainer(data, SETTINGS, tmp_path / "parts").run(stop_after=3)
    open_run(tmp_path / "parts", data).run(stop_after=2)
    parts = open_run(tmp_path / "parts", data)
    parts.run()
    assert (parts.step, parts.epoch, parts.batch) == (whole.step, whole.epoch, whole.batch)
    found = parts._tensors()
    for kind, tensors in whole._tensors().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, found[kind][name]), (kind, name)
    assert {p.suffix for p in (tmp_path / "parts").iterdir()} == {".safetensors", ".json", ".csv"}
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) == 4
    assert max(p.stat().st_size for p in (tmp_path / "parts").iterdir()) < 16 * 1024**2


def test_a_checkpoint_that_breaks_off_leaves_the_one_before(packed, tmp_path, monkeypatch):
    data = load_packed(packed)
    Trainer(data, SETTINGS, tmp_path).run(stop_after=1)
    run = open_run(tmp_path, data)
    run.run(stop_after=1)

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    # The tensors are there, the state that names them is not.
    monkeypatch.setattr(training_state.json, "dumps", broken)
    with pytest.raises(KeyboardInterrupt):
        run.run(stop_after=1)
    monkeypatch.undo()
    assert open_run(tmp_path, data).step == 2


def test_the_average_of_the_weights_forgets_them_slowly(packed, tmp_path):
    run = Trainer(load_packed(packed), SETTINGS, tmp_path)
    names = ("fc.weight", "alignn_layers.0.node_update.bn_nodes.running_var")
    expected = {name: run.network.state_dict()[name].clone() for name in names}
    for step in range(4):
        run.run(stop_after=1)
        for name, value in expected.items():
            decay = min(SETTINGS.ema, (1 + step) / (10 + step))
            value.lerp_(run.network.state_dict()[name], 1 - decay)
    for name, value in expected.items():
        torch.testing.assert_close(run.average.module.state_dict()[name], value)


def test_a_run_that_begins_with_weights_begins_with_their_energies(packed, tmp_path, capsys):
    data = load_packed(packed)
    first = Trainer(data, SETTINGS, tmp_path / "first")
    first.run()
    state = first.final_network().state_dict()
    path = tmp_path / "first.safetensors"
    path.write_bytes(save(state, metadata={"format": "pt", "graph_rule": "published"}))
    second = Trainer(data, SETTINGS, tmp_path / "second", init=state)
    rows = data.rows("train")
    np.testing.assert_allclose(second.predict(rows), first.predict(rows), atol=1e-5)
    args = ["train", str(packed), "--out", str(tmp_path / "run"), "--steps", "1", "--device", "cpu"]
    capsys.readouterr()
    assert main([*args, "--init", str(path), "--precision", "highest"]) == 0
    error = np.abs(first.predict(data.rows("val")) - data.targets[data.rows("val")]).mean()
    assert f"{error:.5f}" in capsys.readouterr().out.splitlines()[0]
    settings = open_run(tmp_path / "run", data).settings
    assert settings.init == hashlib.sha256(path.read_bytes()).hexdigest()
    args[3] = str(tmp_path / "other")
    assert main([*args, "--init", str(tmp_path / "none.safetensors")]) == 2
    path.write_bytes(b"nonsense")
    assert main([*args, "--init", str(path)]) == 2


def test_the_learning_rate_follows_the_budget(packed, tmp_path):
    run = Trainer(load_packed(packed), Settings(minutes=10, warmup=0.1), tmp_path)
    rates = []
    for minutes in (0, 0.5, 1, 5.5, 10):
        run.seconds = 60 * minutes
        rates.append(run.learning_rate / run.settings.learning_rate)
    np.testing.assert_allclose(rates, [0.04, 0.52, 1, 0.5, 1e-4], atol=1e-9)


def test_costly_structures_are_taken_less_often(packed, tmp_path):
    data = load_packed(packed)
    settings = Settings(steps=1, costly=300, batch_pairs=1000)
    run = Trainer(data, settings, tmp_path)
    pairs = data.graphs.num_pairs
    seen = np.zeros(len(pairs))
    for epoch in range(300):
        batches = run._order(epoch)
        seen[np.concatenate(batches)] += 1
        assert sorted(np.concatenate(batches)) == sorted(set(np.concatenate(batches)))
    expected = np.minimum(1, 300 / pairs[run.train_rows]) ** 2
    np.testing.assert_allclose(seen[run.train_rows] / 300, expected, atol=0.12)
    assert not seen[run.val_rows].any()


def test_from_the_command_line_to_the_card(packed, tmp_path, capsys):
    run, shipped = tmp_path / "run", tmp_path / "weights"
    small = ["--steps", "3", "--batch-pairs", "4000", "--device", "cpu", "--threads", "1"]
    assert main(["train", str(packed), "--out", str(run), *small, "--precision", "highest"]) == 0
    assert main(["train", str(packed), "--out", str(run), *small]) == 2
    assert main(["train", str(packed), "--out", str(tmp_path / "none"), "--resume"]) == 2
    assert main(["pack", "--data", str(tmp_path), "-o", str(tmp_path / "packed.npz")]) == 2
    assert json.loads((run / STATE).read_text())["step"] == 3
    test = random_crystals(5, seed=8)
    test = Crystals(
        test.atomic_numbers,
        test.frac_coords,
        test.lattices,
        test.num_atoms,
        test.ids,
        {TARGET: np.linspace(-2, 0, 5)},
    )
    write(test, tmp_path / "cifs")
    rows = {
        "material_id": test.ids,
        "cif": [(tmp_path / "cifs" / f"{name}.cif").read_text() for name in test.ids],
        TARGET: test.properties[TARGET],
    }
    (tmp_path / "data" / "mp20").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "mp20" / "test.csv.gz", index=False)
    finish = ["finish", str(run), str(packed), "--data", str(tmp_path / "data"), "--name", "trial"]
    assert main([*finish, "--folder", str(shipped)]) == 0
    assert main([*finish, "--folder", str(shipped)]) == 2  # what is there never changes
    card = json.loads((shipped / "trial.json").read_text())
    data = (shipped / "trial.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    energies, _ = formation_energies(test, weights=shipped / "trial.safetensors")
    error = np.abs(energies - test.properties[TARGET]).mean()
    assert card["mean_absolute_error"]["mp20_test"]["error"] == pytest.approx(error, abs=1e-4)
    assert (
        sum(x["n"] for x in card["mean_absolute_error"]["mp20_test"]["by_elements"].values()) == 5
    )
    assert card["training"]["init"] == {"weights": "random"}
    assert card["architecture"]["graph_rule"] == "cell_independent"
    assert load_weights(shipped / "trial.safetensors").rule == "cell_independent"
    names = set(load_file(shipped / "trial.safetensors"))
    assert names == set(Trainer(load_packed(packed), SETTINGS, run).network.state_dict())
    capsys.readouterr()


def test_training_needs_no_crystals():
    """Nothing is imported that a bare machine with PyTorch, NumPy and safetensors lacks."""
    import subprocess

    code = (
        "import sys, crysmetrics.features.alignn.training.__main__ as t; "
        "bad = {'numba', 'pymatgen', 'gemmi', 'pandas', 'ase', 'scipy', 'joblib', 'spglib'}; "
        "assert not bad & set(sys.modules), bad & set(sys.modules)"
    )
    root = ROOT
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
