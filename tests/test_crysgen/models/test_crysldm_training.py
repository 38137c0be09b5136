"""CrysLDM: what each stage trains, on any device, resumed, and its settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_gpu import Watch, on_fake_gpu, without_autocast
from sets import random_crystals
from small_crysldm import BOTH, CONFIG, FLOW, FORMS, crystals_of, model_of, seeded

from crysgen.graphs import tensors_of
from crysgen.models.crysldm import CrysLDM
from crysgen.models.crysldm_config import CrysLDMConfig
from crysgen.models.crysldm_latents import AUTOENCODER, DIFFUSION
from crysgen.training.batch import Batch
from crysgen.training.configs import config_names, load_config
from crysgen.training.settings import TrainingSettings
from crysgen.training.trainer import Trainer

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")


@FORMS
@BOTH
def test_nothing_in_training_waits_for_the_device(
    stage: str, config: CrysLDMConfig, monkeypatch
) -> None:
    batch = crystals_of(4)
    model = model_of(batch, config)
    prepared = model.prepare(batch, seeded(), stage)
    assert all(len(tensor) == len(batch) for tensor in tensors_of(prepared))
    model.to("meta")
    prepared = on_fake_gpu(prepared)
    without_autocast(monkeypatch)
    with Watch():
        model.prepared_loss(prepared, stage)["loss"].backward()


def test_steps_of_each_part_are_spread_evenly() -> None:
    batch = crystals_of(24)
    prepared = CrysLDM(CONFIG).double().prepare(batch, seeded(), DIFFUSION, parts=2)
    for part in prepared.steps.chunk(2):
        assert sorted(part.tolist()) == list(range(1, 13))
    told = (prepared.told > 0).any(1)
    assert 0 < told.sum() < 24
    assert torch.equal(prepared.told[told], batch.atomic_numbers[told])


@FORMS
def test_each_stage_trains_what_is_its_own(config: CrysLDMConfig) -> None:
    batch = crystals_of(4)
    model = model_of(batch, config)
    names = {stage: {id(p) for p in model.parameters_of(stage)} for stage in model.stages}
    assert names[AUTOENCODER] | names[DIFFUSION] == {id(p) for p in model.parameters()}
    assert not names[AUTOENCODER] & names[DIFFUSION]
    for stage, own in names.items():
        model.zero_grad()
        model.loss(batch, seeded(), stage)["loss"].backward()
        moved = {id(p) for p in model.parameters() if p.grad is not None and p.grad.any()}
        assert moved <= own
        assert len(moved) > 0.8 * len(own)


def test_an_overfitted_autoencoder_gives_back_crystals_and_latents_of_unit_size() -> None:
    batch = Batch.from_crystals(random_crystals(4, seed=1), torch.float32)
    torch.manual_seed(0)
    model = CrysLDM(CrysLDM.fitted(CONFIG, batch))
    optimizer = torch.optim.AdamW(model.parameters_of(AUTOENCODER), lr=2e-2)
    generator = seeded()
    for _ in range(100):
        losses = model.loss(batch, generator, AUTOENCODER)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    made = model.decoded(model.encoded(batch), batch.frac_coords, batch.mask)
    assert torch.equal(made.atomic_numbers, batch.atomic_numbers)
    lengths = made.lattices.norm(dim=-1) / batch.lattices.norm(dim=-1)
    assert (lengths - 1).abs().max() < 0.05
    assert float(losses["type_accuracy"]) == 1
    assert 0 < float(losses["lattice_error"]) < 0.3
    # `noise` at 0 steps is the same.
    again = model.noise(batch, 0, range(len(batch)))
    assert torch.equal(again.atomic_numbers, batch.atomic_numbers)
    torch.testing.assert_close(again.lattices.double(), made.lattices, rtol=1e-5, atol=1e-4)


def trainer(folder: Path, config: CrysLDMConfig) -> Trainer:
    crystals = random_crystals(24, seed=0)
    settings = TrainingSettings(
        steps=8, batch_atoms=40, val_steps=2, val_draws=1, stages={AUTOENCODER: {"share": 1.0}}
    )
    return Trainer(CrysLDM, config, settings, folder, crystals[:20], crystals[20:])


@pytest.fixture(scope="module", params=[CONFIG, FLOW], ids=["paper", "flow"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    found = trainer(tmp_path_factory.mktemp("whole"), request.param)
    found.given = request.param  # type: ignore[attr-defined]
    found.run()
    return found


@pytest.mark.parametrize("stop", [2, 6])
def test_a_run_resumed_in_either_stage_goes_on_bit_for_bit(
    tmp_path: Path, stop: int, whole: Trainer
) -> None:
    trainer(tmp_path, whole.given).run(stop_after=stop)  # type: ignore[attr-defined]
    resumed = trainer(tmp_path, whole.given)  # type: ignore[attr-defined]
    resumed.resume()
    assert resumed.step == stop
    assert resumed.stage == (AUTOENCODER if stop < 4 else DIFFUSION)
    resumed.run()
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_betas": [0.5, 0.1]}, "latent_betas"),
        ({"position_sigmas": [0.005, 2.0]}, "position_sigmas"),
        ({"told_share": 1.5}, "told_share must be from 0 to 1"),
        ({"denoiser_settings": {"depth": 2}}, "CSPNet has no setting 'depth'"),
        ({"autoencoder_settings": {"channels": 1024, "layers": 1024}}, "weights"),
        ({"atom_counts": [0, 0]}, "atom_counts"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"denoiser_settings": {"same": True}}, "stoichiometry"),
        ({"formulas": {"3 x": 2}}, "formulas"),
        ({"formulas": {"3 1": 0}}, "formulas"),
        ({"position_process": "flow"}, "corrector"),
        ({"coupling": True}, "coupling"),
        ({"anti_annealing": 1.0}, "anti_annealing"),
        ({"denoiser_settings": {"radial": 8}}, "vector"),
        ({"autoencoder_settings": {"radial": 8}}, "denoiser"),
        ({"latent_power": 0.0}, "latent_power"),
        ({"lattice_std": [1.0] * 5}, "lattice_std"),
    ],
)
def test_settings_that_can_not_be_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrysLDMConfig.from_json(settings)


def test_presets_are_models_of_the_size_they_say() -> None:
    assert config_names("crysldm") == ["default", "mp20", "paper", "perov5"]
    for name in config_names("crysldm"):
        config, settings = load_config("crysldm", name)
        assert 0 < settings.of_stage(AUTOENCODER, CrysLDM.stages).minutes < settings.minutes
        weights = sum(p.numel() for p in CrysLDM(replace(config, steps=1)).parameters())
        assert 2 * weights < 7e6  # bytes of a release
        assert CrysLDMConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
