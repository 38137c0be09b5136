"""Training runs: resumed exactly, checkpoints that hold what they say, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from sets import one, random_crystals, rocksalt

from crysgen.checkpoints import find_model, load_model, save_model
from crysgen.cli import main
from crysgen.models import MODELS, model_class
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.models.targets import Target
from crysgen.training.configs import config_names, load_config
from crysgen.training.data import (
    SPLIT,
    BatchOrder,
    DeviceCrystals,
    canonical,
    plausible,
    training_sets,
)
from crysgen.training.settings import TrainingSettings
from crysgen.training.trainer import Trainer
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")

CONFIG = GemsDiffConfig(
    network="pairformer",
    network_settings={"channels": 16, "layers": 1, "heads": 2, "radial": 6},
    standardize_lattice=True,
    cell_decoder="residual",
    lattice_loss="vector",
    position_loss="scaled",
)
SETTINGS = TrainingSettings(steps=8, batch_atoms=40, val_steps=4, val_draws=1, warmup_steps=2)


def trainer(folder: Path, settings: TrainingSettings = SETTINGS, seed: int = 0) -> Trainer:
    crystals = random_crystals(24, seed=seed)
    return Trainer(GemsDiff, CONFIG, settings, folder, crystals[:20], crystals[20:])


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()
    broken = trainer(tmp_path / "broken")
    broken.run(stop_after=3)
    resumed = trainer(tmp_path / "broken")
    resumed.resume()
    assert resumed.step == 3
    resumed.run()
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name
    assert whole.best == resumed.best
    for kind in ("average", "exp_avg_sq"):
        names = [next((tmp_path / run).glob(f"{kind}-*")) for run in ("whole", "broken")]
        first, second = (load_file(name) for name in names)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.run(stop_after=2)
    hidden = {name for name, p in run.model.named_parameters() if p.ndim == 2}
    hidden = {name for name in hidden if name.startswith("network.blocks")}
    assert hidden
    squares = load_file(next(tmp_path.glob("exp_avg_sq-*")))
    firsts = load_file(next(tmp_path.glob("exp_avg-*")))
    names = {name for name, _ in run.model.named_parameters()}
    assert set(firsts) == names
    assert set(squares) == names - hidden
    alone = trainer(tmp_path / "adamw", replace(SETTINGS, muon=0.0))
    alone.run(stop_after=1)
    assert set(load_file(next((tmp_path / "adamw").glob("exp_avg_sq-*")))) == names


def test_a_run_is_not_continued_with_other_data_or_another_model(tmp_path: Path) -> None:
    trainer(tmp_path).run(stop_after=1)
    with pytest.raises(UserError, match="other data"):
        trainer(tmp_path, seed=1).resume()
    with pytest.raises(UserError, match="no checkpoint"):
        trainer(tmp_path / "empty").resume()


def test_the_best_model_loads_and_samples(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.run()
    model = load_model(tmp_path)
    assert model.config == run.config
    card = json.loads((tmp_path / "best.json").read_text())
    assert card["progress"]["steps"] in (4, 8)
    assert card["data"]["train"] == 20
    sampled = model.sample([Target(0, (3, 3, 8))], steps=4)
    assert torch.isfinite(sampled.lattices).all()
    assert (tmp_path / "log.csv").read_text().count("\n") == 3


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    path = tmp_path / "model.safetensors"
    save_model(run.model, path, {}, dtype=torch.bfloat16)
    assert load_model(path).config == run.config
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="not the file"):
        load_model(path)
    path.write_bytes(b"pickle?")
    with pytest.raises(InputError, match="safetensors"):
        load_model(path)
    save_file({"other": torch.zeros(1)}, path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"sha256": None}))
    with pytest.raises(InputError, match="does not fit"):
        load_model(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="has no"):
        load_model(path)
    with pytest.raises(UserError, match="There is no model 'nothing'"):
        find_model("nothing")


def test_a_kind_names_its_newest_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crysgen.checkpoints.SHIPPED", tmp_path)
    monkeypatch.setattr("crysgen.checkpoints.user_models", lambda: tmp_path / "none")
    model = trainer(tmp_path / "run").model
    for name in ("one-v9", "one-v10", "another"):
        save_model(model, tmp_path / f"{name}.safetensors", {})
    assert find_model(model.kind).stem == "one-v10"
    assert find_model("one-v9").stem == "one-v9"
    with pytest.raises(UserError, match="There is no model 'crysldm'"):
        find_model("crysldm")


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in MODELS for name in config_names(kind)]
)
def test_shipped_configurations_are_valid(kind: str, name: str) -> None:
    config, settings = load_config(kind, name, {"seed": 7})
    assert settings.seed == 7
    assert model_class(kind)(config).num_steps > 0


def test_every_kind_of_model_has_a_default_configuration() -> None:
    assert all("default" in config_names(kind) for kind in MODELS)


BAD_CONFIGURATIONS = {
    "[1]": "must hold an object",
    '{"other": {}}': "must hold the objects",
    '{"model": [1]}': "settings must be an object",
    '{"model": {"depth": 3}}': "unknown settings: depth",
    '{"training": {"speed": 3}}': "unknown settings: speed",
    "{": "no configuration",
    '{"model": ' + "[" * 200_000: "nested too deeply",
    '{"model": {"network_settings": {"k": ' + "[" * 400 + "]" * 400 + "}}}": "plain value",
    '{"model": {"steps": ' + "9" * 400 + "}}": "steps must be below",
    '{"model": {"steps": ' + "9" * 5000 + "}}": "no configuration",
    '{"model": {"steps": 99999999}}': "steps must be from 1 to",
    '{"model": {"steps": -4}}': "steps must be from 1 to",
    '{"model": {"steps": 10.5}}': "steps must be a whole number",
    '{"model": {"position_sigma": NaN}}': "position_sigma must be finite",
    '{"model": {"position_sigma": 1e999}}': "position_sigma must be finite",
    '{"model": {"lattice_power": "four"}}': "lattice_power must be a number",
    '{"model": {"lattice_power": -1}}': "lattice_power must be above 0",
    '{"model": {"lattice_betas": [0.5]}}': "lattice_betas must be 2 numbers",
    '{"model": {"lattice_betas": [0.5, 0.1]}}': "lattice_betas must be two numbers that rise",
    '{"model": {"lattice_std": [0, 1, 1, 1, 1, 1]}}': "lattice_std must be above 0",
    '{"model": {"lattice_mean": [0]}}': "lattice_mean must be 6 numbers",
    '{"model": {"shortest_path": 1}}': "shortest_path must be true or false",
    '{"model": {"cell_decoder": "none"}}': "cell_decoder must be one of identity",
    '{"model": {"network": "transformer"}}': "no network 'transformer'",
    '{"model": {"network_settings": {"edge_channels": -8}}}': "edge_channels must be from 1",
    '{"model": {"network_settings": {"layers": 1' + "0" * 399 + "}}}": "layers must be below",
    '{"model": {"network_settings": {"channels": NaN}}}': "channels must be finite",
    '{"training": {"minutes": 0}}': "minutes must be above 0",
    '{"training": {"minutes": 1e308}}': "minutes must be above 0 and at most",
    '{"training": {"batch_atoms": true}}': "batch_atoms must be a whole number",
    '{"training": {"ema": 1}}': "ema must be",
    '{"training": {"stages": {"model": {"minutes": 3}}}}': "belongs to the whole run",
    '{"training": {"stages": {"other": {"share": 3}}}}': "no stage 'other'",
    '{"training": {"stages": {"model": {"share": -1}}}}': "share must be above 0",
}


@pytest.mark.parametrize("content", BAD_CONFIGURATIONS, ids=lambda text: text[:60])
def test_bad_configurations_are_explained(content: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(UserError, match=BAD_CONFIGURATIONS[content]) as caught:
        load_config("gemsdiff", path)
    assert len(str(caught.value)) < 400


def test_configurations_that_are_not_there_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="known for gemsdiff are default"):
        load_config("gemsdiff", "nothing")
    with pytest.raises(UserError, match="known for gemsdiff are default"):
        load_config("gemsdiff", "../gemsdiff/default")
    with pytest.raises(UserError, match="no kind of model 'nothing'"):
        load_config("nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no text"):
        load_config("gemsdiff", tmp_path / "binary")


def test_bad_numbers_on_the_command_line_end_with_a_sentence(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"model": {"network_settings": {"k": -1}}}')
    command = ["train", "gemsdiff", "--data", str(tmp_path), "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*command, "--config", str(config)])
    assert result.exit_code == 2
    assert "k must be from 1 to 1024, not -1" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_batches_hold_every_crystal_once_and_fit() -> None:
    counts = np.random.default_rng(0).integers(1, 21, 500)
    order = BatchOrder(counts, 100, seed=1)
    batches = order.epoch(3)
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(b) * counts[b].max() <= 100 for b in batches)
    assert all((a == b).all() for a, b in zip(batches, order.epoch(3), strict=True))
    others = order.epoch(4)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(batches, others, strict=False))


def test_crystals_are_brought_to_primitive_right_handed_niggli_cells() -> None:
    salt = rocksalt()
    cube = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    frac = np.concatenate([cube, (cube + 0.5) % 1])
    conventional = one([11] * 4 + [17] * 4, frac.tolist(), 5.64, "conventional")
    left = one([11, 17], salt.frac_coords.tolist(), salt.lattices[0][::-1], "left")
    left = left.with_ids(["left"])
    cells = canonical(Crystals.concatenate([salt, conventional, left]))
    assert not cells.failures
    assert cells.num_atoms.tolist() == [2, 2, 2]
    assert (np.linalg.det(cells.lattices) > 0).all()
    assert np.allclose(cells.volumes, 5.64**3 / 4)
    flat = canonical(one([3], [[0, 0, 0]], [[3, 0, 0], [6, 0, 0], [0, 0, 3]], "flat"))
    assert len(flat) == 0
    assert flat.failures[0].file == "flat"
    huge = plausible(one([3], [[0, 0, 0]], 30.0, "huge"))
    assert len(huge) == 0
    assert "per atom" in huge.failures[0].reason


def test_marked_crystals_are_divided_by_their_mark(tmp_path: Path) -> None:
    crystals = random_crystals(10)
    marks = np.array(["train"] * 8 + ["val"] * 2)
    packed = Crystals(
        crystals.atomic_numbers, crystals.frac_coords, crystals.lattices, crystals.num_atoms,
        crystals.ids, {SPLIT: marks},
    )  # fmt: skip
    packed.save(tmp_path / "p.npz")
    train, val = training_sets([tmp_path / "p.npz"], None, 20)
    assert (len(train), len(val)) == (8, 2)
    train, val = training_sets([tmp_path / "p.npz"], tmp_path / "p.npz", 20)
    assert (len(train), len(val)) == (8, 10)
    with pytest.raises(UserError, match="no crystals of at most 1 atoms"):
        training_sets([tmp_path / "p.npz"], None, 1)


def test_batches_of_a_device_are_the_crystals_themselves() -> None:
    crystals = random_crystals(6)
    held = DeviceCrystals(crystals, "cpu")
    back = held.batch(np.array([4, 1])).to_crystals()
    assert np.allclose(back.lattices, crystals[[4, 1]].lattices, atol=1e-5)
    assert np.array_equal(back.atomic_numbers, crystals[[4, 1]].atomic_numbers)


def test_numbers_that_a_model_learns_from_come_with_the_crystals(tmp_path: Path) -> None:
    crystals = random_crystals(12)
    energies = np.linspace(-3.0, 1.0, 12)
    replace(crystals, properties={"energy": energies}).save(tmp_path / "p.npz")
    train, val = training_sets([tmp_path / "p.npz"], None, 20)
    held = DeviceCrystals(Crystals.concatenate([train, val]), "cpu", ("energy",))
    assert sorted(held.all.properties["energy"].tolist()) == pytest.approx(energies)
    names = [*train.ids, *val.ids]
    found = held.batch(np.array([3, 1])).properties["energy"].tolist()
    assert found == pytest.approx([energies[crystals.ids.index(names[i])] for i in (3, 1)])
    assert (
        held.batch(np.array([0])).to("cpu", torch.float64).properties["energy"].dtype.itemsize == 8
    )
    for values in (energies * np.nan, np.array(["a"] * 12)):
        wrong = replace(crystals, properties={"energy": values})
        with pytest.raises(UserError, match="property energy of every crystal"):
            DeviceCrystals(wrong, "cpu", ("energy",))
    with pytest.raises(UserError, match="property band_gap"):
        DeviceCrystals(crystals, "cpu", ("band_gap",))


def test_the_command_trains_refuses_and_resumes(tmp_path: Path) -> None:
    from crysgen.cli.train import train as command

    random_crystals(30).save(tmp_path / "data.npz")
    config = tmp_path / "config.json"
    small = {"model": CONFIG.to_json(), "training": {"batch_atoms": 40, "val_steps": 2}}
    config.write_text(json.dumps(small))
    base = ["gemsdiff", "--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "run")]
    options = [*base, "--config", str(config), "--steps", "4", "--device", "cpu"]
    first = CliRunner().invoke(command, options)
    assert first.exit_code == 0, first.output
    assert (tmp_path / "run" / "best.safetensors").is_file()
    again = CliRunner().invoke(command, options)
    assert again.exit_code == 2
    assert "--resume" in again.output
    resumed = CliRunner().invoke(command, [*options, "--steps", "6", "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 6
    missing = CliRunner().invoke(command, [*options[:2], str(tmp_path / "no"), *options[3:]])
    assert missing.exit_code == 2
