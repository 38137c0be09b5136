"""CrysLDM: symmetries of both stages, its process against the paper, training and sampling."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from fake_gpu import Watch, on_fake_gpu, without_autocast
from sets import random_crystals

from crysgen.cli import main
from crysgen.graphs import map_tensors, tensors_of
from crysgen.graphs.stepwise import StepGraphs
from crysgen.models.base import Noises, Prepares, Stepwise, refuse_targets
from crysgen.models.crysldm import AUTOENCODER, DIFFUSION, CrysLDM
from crysgen.models.crysldm_config import CrysLDMConfig, diffusion
from crysgen.models.crysldm_networks import Latents
from crysgen.models.crysldm_process import WayBack
from crysgen.models.targets import Target
from crysgen.requests import Draw
from crysgen.sampling import plan_batches
from crysgen.training.batch import Batch, pad_atomic_numbers
from crysgen.training.configs import config_names, load_config
from crysgen.training.settings import TrainingSettings
from crysgen.training.trainer import Trainer

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")

SMALL = {"channels": 16, "layers": 1, "frequencies": 3}
CONFIG = CrysLDMConfig(
    autoencoder_settings=SMALL, denoiser_settings=SMALL, latent_channels=4, steps=12
)
FLOW = replace(
    CONFIG,
    denoiser_settings=SMALL | {"radial": 5, "alike": 3},
    cell_form="vector",
    standardize_latents=True,
    sample_latents=False,
    stoichiometry=True,
    latent_power=3.0,
    snr_cap=10.0,
    position_process="flow",
    coupling=True,
    corrector=0.0,
    anti_annealing=5.0,
)
FORMS = pytest.mark.parametrize("config", [CONFIG, FLOW], ids=["paper", "flow"])
BOTH = pytest.mark.parametrize("stage", [AUTOENCODER, DIFFUSION])


def crystals_of(count: int, seed: int = 1) -> Batch:
    return Batch.from_crystals(random_crystals(count, seed=seed), torch.float64)


def model_of(batch: Batch, config: CrysLDMConfig = CONFIG) -> CrysLDM:
    """Random weights, in double precision, that bend and move things visibly."""
    torch.manual_seed(0)
    model = CrysLDM(CrysLDM.fitted(config, batch)).double().eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.05 * torch.randn_like(weights)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turns(count: int, determinant: int) -> torch.Tensor:
    matrices = np.linalg.qr(np.random.default_rng(0).normal(size=(count, 3, 3)))[0]
    return torch.tensor(matrices * (determinant * np.linalg.det(matrices))[:, None, None])


def chemistry(batch: Batch) -> list[tuple[list[int], np.ndarray]]:
    return [
        (sorted(one.atomic_numbers.tolist()), one.lattices[0] @ one.lattices[0].T)
        for one in batch.to_crystals()
    ]


# --- symmetries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_latents_and_what_is_decoded_turn_with_the_crystal(determinant: int) -> None:
    batch = crystals_of(6)
    model, turn = model_of(batch), turns(6, determinant)
    plain = model.encoded(batch)
    turned = model.encoded(batch.with_geometry(batch.frac_coords, batch.lattices @ turn))
    assert (turned.atoms - plain.atoms).abs().max() < 1e-9
    assert (turned.cell - plain.cell @ turn).abs().max() < 1e-9
    assert plain.cell.abs().amax((1, 2)).min() > 0.1
    assert plain.atoms.std() > 0.01
    logits, cells = model.decoder(plain, batch.frac_coords, batch.mask)
    found, bent = model.decoder(turned, batch.frac_coords, batch.mask)
    assert ((found - logits) * batch.mask[..., None]).abs().max() < 1e-9
    assert (bent - cells @ turn).abs().max() < 1e-9


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_the_denoiser_turns_shifts_and_permutes_with_what_it_sees(determinant: int) -> None:
    batch = crystals_of(6)
    model, turn = model_of(batch), turns(6, determinant)
    noisy = model.encoded(batch)
    share = torch.linspace(0, 1, 6).double()
    told = batch.atomic_numbers * (torch.arange(6) % 2)[:, None]
    plain, moves = model.denoiser(noisy, batch.frac_coords, share, told, batch.mask)
    order = torch.randperm(batch.mask.shape[1], generator=seeded())
    seen = Latents(noisy.atoms[:, order], noisy.cell @ turn)
    shifted = (batch.frac_coords + torch.rand(6, 1, 3).double())[:, order]
    found, moved = model.denoiser(seen, shifted, share, told[:, order], batch.mask[:, order])
    there = batch.mask[:, order, None]
    assert ((found.atoms - plain.atoms[:, order]) * there).abs().max() < 1e-9
    assert (found.cell - plain.cell @ turn).abs().max() < 1e-9
    assert ((moved - moves[:, order]) * there).abs().max() < 1e-9
    assert moves.abs().max() > 0.01
    assert plain.cell.abs().max() > 0.01


@FORMS
@BOTH
@torch.no_grad()
def test_losses_do_not_depend_on_padding_or_the_orientation_of_crystals(
    stage: str, config: CrysLDMConfig
) -> None:
    """Noise is normal in every direction; with none of it losses are the same at once."""
    batch = crystals_of(4)
    model = model_of(batch, config)
    prepared = model.prepare(batch, seeded(), stage)
    plain = model.prepared_loss(prepared, stage)
    wider = map_tensors(
        lambda x: (
            x
            if x.ndim < 2 or x.shape[1:] in ((3, 3), (1, 6))
            else torch.cat([x, torch.zeros_like(x[:, :2])], 1)
        ),
        prepared,
    )
    for name, value in model.prepared_loss(wider, stage).items():
        assert float(value) == pytest.approx(float(plain[name]), rel=1e-9), name
    turn = turns(4, 1)
    turned = map_tensors(lambda x: x @ turn if x.shape[1:] == (3, 3) else x, prepared)
    for name, value in model.prepared_loss(turned, stage).items():
        assert float(value) == pytest.approx(float(plain[name]), rel=1e-9), name


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_vector_latents_and_all_that_follows_stay_when_the_crystal_turns(determinant: int) -> None:
    batch = crystals_of(6)
    model = model_of(batch, FLOW)
    model.begin_stage(DIFFUSION, [batch])
    order = torch.randperm(batch.mask.shape[1], generator=seeded())
    shifted = batch.frac_coords + torch.rand(6, 1, 3).double()
    turned = Batch(
        batch.atomic_numbers[:, order], shifted[:, order], batch.lattices @ turns(6, determinant)
    )
    there = batch.mask[:, order, None]
    plain, found = model.encoded(batch), model.encoded(turned)
    assert ((found.atoms - plain.atoms[:, order]) * there).abs().max() < 1e-9
    assert (found.cell - plain.cell).abs().max() < 1e-9
    assert plain.cell.std() > 0.1
    steps = torch.full((6,), 7)
    told = batch.atomic_numbers * (torch.arange(6) % 2)[:, None]
    velocities, moves = model.denoised(
        plain, batch.frac_coords, steps, told, batch.mask, batch.atomic_numbers
    )
    again, moved = model.denoised(
        found,
        turned.frac_coords,
        steps,
        told[:, order],
        batch.mask[:, order],
        turned.atomic_numbers,
    )
    assert ((again.atoms - velocities.atoms[:, order]) * there).abs().max() < 1e-9
    assert (again.cell - velocities.cell).abs().max() < 1e-9
    assert ((moved - moves[:, order]) * there).abs().max() < 1e-9
    assert moves.abs().max() > 0.01
    # The lattice is seen by its distances, too.
    wider = plain._replace(cell=plain.cell + 0.5)
    _, others = model.denoised(
        wider, batch.frac_coords, steps, told, batch.mask, batch.atomic_numbers
    )
    assert (others - moves).abs().max() > 1e-4


def test_latents_are_of_unit_size_after_the_first_stage_and_decoded_as_before() -> None:
    batch = crystals_of(30)
    for config in (FLOW, replace(CONFIG, standardize_latents=True)):
        model = model_of(batch, config)
        with torch.no_grad():
            model.encoder.atoms.weight *= 20
        before = model.decoded(model.encoded(batch), batch.frac_coords, batch.mask)
        parts = [batch[torch.arange(20)], batch[torch.arange(20, 30)]]
        model.begin_stage(AUTOENCODER, parts)
        assert float((model.scale.atoms_std - 1).abs().max()) == 0
        model.begin_stage(DIFFUSION, parts)
        latents = model.encoded(batch)
        assert (latents.atoms[batch.mask].std(0, correction=0) - 1).abs().max() < 1e-9
        assert float(latents.cell.square().mean()) == pytest.approx(1, abs=1e-9)
        after = model.decoded(latents, batch.frac_coords, batch.mask)
        assert torch.equal(after.atomic_numbers, before.atomic_numbers)
        torch.testing.assert_close(after.lattices, before.lattices)
        # They are weights: a saved model has them.
        assert {"scale.atoms_std", "scale.cell_mean"} <= set(model.state_dict())


# --- the process ---------------------------------------------------------------------------------


def latents(count: int, seed: int) -> Latents:
    generator = seeded(seed)
    shapes = ((count, 5, 4), (count, 3, 3))
    return Latents(*(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes))


def way_back(step: int, earlier: int, noise: Latents, moves: torch.Tensor) -> WayBack:
    return WayBack(torch.tensor(step), torch.tensor(earlier), noise, moves, moves)


def test_steps_are_those_of_algorithm_2() -> None:
    process = diffusion(replace(CONFIG, steps=10))
    t = 7
    betas = torch.linspace(1e-3, 0.2, 10, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    beta, now, then = betas[t - 1], alpha_bar[t - 1], alpha_bar[t - 2]
    clean, noise, fresh = latents(3, 0), latents(3, 1), latents(3, 2)
    steps = torch.full((3,), t)
    noisy = process.noised_latents(clean, steps, noise)
    velocities = process.velocities(clean, steps, noise)
    moves = torch.randn(3, 5, 3, dtype=torch.float64)
    moves = moves - moves.mean(1, keepdim=True)
    found = process.latents_before(noisy, velocities, way_back(t, t - 1, fresh, moves), 1.0)
    for z, e, new, mine in zip(noisy, noise, fresh, found, strict=True):
        mean = (z - beta / (1 - now).sqrt() * e) / (1 - beta).sqrt()
        wanted = mean + (beta * (1 - then) / (1 - now)).sqrt() * new
        assert (mine - wanted).abs().max() < 1e-9
    sigma = 0.005 * 100 ** (torch.arange(10, dtype=torch.float64) / 9)
    wide, narrow = sigma[t - 1], sigma[t - 2]
    frac, score = torch.rand(3, 5, 3).double(), torch.randn(3, 5, 3).double()
    mask = torch.ones(3, 5, dtype=torch.bool)
    way = way_back(t, t - 1, fresh, moves)
    mine = process.positions_before(frac, wide**2 * score, way, mask, 1.0)
    drift = (wide**2 - narrow**2) * score
    jitter = narrow * (wide**2 - narrow**2).sqrt() / wide * moves
    assert ((mine - frac - drift - jitter + 0.5) % 1 - 0.5).abs().max() < 1e-9


def test_noise_of_latents_can_come_after_that_of_positions() -> None:
    process = diffusion(replace(FLOW, steps=100, latent_power=3.0))
    steps = torch.tensor([10, 50, 100])
    signal, sigma = process.levels(steps, torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(sigma[:, 0, 0], (steps / 100).double() ** 3, atol=1e-12)
    assert torch.allclose(signal**2 + sigma**2, torch.ones(3, 1, 1).double())
    frac = torch.rand(3, 5, 3, generator=seeded()).double()
    numbers = torch.ones(3, 5, dtype=torch.long)
    noisy, wanted = process.noised_positions(frac, numbers, steps, torch.randn(3, 5, 3).double())
    path = wanted * process.sizes(steps, frac)
    back = process.positions_before(
        noisy, path, way_back(50, 0, latents(3, 0), path), numbers > 0, 1.0
    )
    assert ((back - frac + 0.5) % 1 - 0.5).abs().max() < 1e-9


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_true_predictions_lead_back_to_the_crystal(factor: float) -> None:
    process = diffusion(replace(CONFIG, steps=10))
    clean, noise = latents(3, 0), latents(3, 1)
    mask = torch.ones(3, 5, dtype=torch.bool)
    frac = torch.rand(3, 5, 3, generator=seeded()).double()
    now = process.noised_latents(clean, torch.full((3,), 10), noise)
    place = (frac + 0.2 * torch.randn(3, 5, 3, generator=seeded(1)).double()) % 1
    for t, s in ((10, 6), (6, 1), (1, 0)):
        steps = torch.full((3,), t)
        signal, sigma = process.levels(steps, frac)
        left = Latents(*((z - signal * c) / sigma for z, c in zip(now, clean, strict=True)))
        moves = torch.randn(3, 5, 3, generator=seeded(t)).double()
        way = way_back(t, s, latents(3, t), moves)
        velocities = process.velocities(clean, steps, left)
        now = process.latents_before(now, velocities, way, factor)
        path = (frac - place + 0.5) % 1 - 0.5
        place = process.positions_before(place, path, way, mask, factor)
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(now, clean, strict=True))
    assert ((place - frac + 0.5) % 1 - 0.5).abs().max() < 1e-9


# --- training ------------------------------------------------------------------------------------


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


@FORMS
def test_nothing_in_a_step_of_sampling_waits_for_the_device(
    config: CrysLDMConfig, monkeypatch
) -> None:
    model = model_of(crystals_of(4), config)
    state, way = model.begin([Target(0), Target(1, (3, 9)), Target(2, num_atoms=4)], 3)
    model.to("meta")
    state, inputs = on_fake_gpu(state), on_fake_gpu(way[0])
    without_autocast(monkeypatch)
    with Watch():
        after = model.step(state, inputs)
    assert after.frac_coords.shape == state.frac_coords.shape


@FORMS
def test_graphs_sample_what_the_model_samples(config: CrysLDMConfig) -> None:
    model = model_of(crystals_of(4), config)
    targets = [Target(0), Target(1, (3, 9)), Target(2, num_atoms=4)]
    wanted, found = model.sample(targets, 5), StepGraphs(model).sample(targets, 5)
    assert torch.equal(found.atomic_numbers, wanted.atomic_numbers)
    torch.testing.assert_close(found.frac_coords, wanted.frac_coords)
    torch.testing.assert_close(found.lattices, wanted.lattices)


def test_steps_of_each_part_are_spread_evenly() -> None:
    batch = crystals_of(24)
    prepared = CrysLDM(CONFIG).double().prepare(batch, seeded(), DIFFUSION, parts=2)
    for part in prepared.steps.chunk(2):
        assert sorted(part.tolist()) == list(range(1, 13))
    told = (prepared.told > 0).any(1)
    assert 0 < told.sum() < 24
    assert torch.equal(prepared.told[told], batch.atomic_numbers[told])


def test_protocols() -> None:
    model = CrysLDM(CONFIG)
    assert isinstance(model, Prepares)
    assert isinstance(model, Stepwise)
    assert isinstance(model, Noises)


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


# --- sampling ------------------------------------------------------------------------------------


def test_atoms_are_as_many_as_asked_or_as_in_the_training_data() -> None:
    batch = crystals_of(40, seed=2)
    model = model_of(batch, replace(CONFIG, steps=2))
    targets = [Target(seed) for seed in range(300)]
    counts = torch.bincount(model.sample(targets).num_atoms, minlength=9) / 300
    wanted = torch.bincount(batch.num_atoms, minlength=9) / 40
    assert (counts - wanted).abs().max() < 0.1
    assert counts[wanted == 0].sum() == 0
    some = [Target(0, num_atoms=7), Target(1, (8, 3, 3)), Target(2, (22, 8, 8, 20, 8))]
    made = model.sample(some)
    assert made.num_atoms.tolist() == [7, 3, 5]
    assert made.atomic_numbers[1, :3].tolist() == [8, 3, 3]
    assert made.atomic_numbers[2, :5].tolist() == [22, 8, 8, 20, 8]
    assert (torch.linalg.det(made.lattices) > 0).all()
    refuse_targets(model, [*targets, *some])


@FORMS
def test_a_seed_decides_a_crystal_in_whatever_batch(config: CrysLDMConfig) -> None:
    model = model_of(crystals_of(10), config)
    targets = [Target(seed, num_atoms=None if seed % 2 else 3) for seed in range(6)]
    whole = chemistry(model.sample(targets))
    for target, (atoms, metric) in zip(targets, whole, strict=True):
        ((mine, own),) = chemistry(model.sample([target]))
        assert mine == atoms
        assert np.allclose(own, metric, rtol=1e-6)
    assert len({str(atoms) for atoms, _ in whole}) > 2
    fewer = chemistry(model.sample(targets, steps=3))
    assert not np.allclose(fewer[0][1], whole[0][1])


@FORMS
def test_sampling_is_one_step_repeated_with_shapes_that_stay(config: CrysLDMConfig) -> None:
    model = model_of(crystals_of(10), config)
    targets = [Target(seed) for seed in range(4)]
    told: list[tuple[int, int]] = []
    wanted = model.sample(targets, 5, lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]
    state, way = model.begin(targets, 5)
    shapes = [tensor.shape for tensor in tensors_of(state)]
    first = [tensor.shape for tensor in tensors_of(way[0])]
    for inputs in way:
        assert [tensor.shape for tensor in tensors_of(inputs)] == first
        state = model.step(state, inputs)
        assert [tensor.shape for tensor in tensors_of(state)] == shapes
    made = model.finish(state)
    assert torch.equal(made.frac_coords, wanted.frac_coords)
    assert torch.equal(made.lattices, wanted.lattices)


@FORMS
def test_refinement_keeps_atoms_and_moves_with_its_strength(config: CrysLDMConfig) -> None:
    batch = crystals_of(5)
    model = model_of(batch, config)
    seeds = list(range(5))
    little, much = (model.refine(batch, seeds, share) for share in (0.1, 1.0))
    for made in (little, much):
        assert torch.equal(made.atomic_numbers, batch.atomic_numbers)
    moved = [
        (((made.frac_coords - batch.frac_coords + 0.5) % 1 - 0.5).abs() * batch.mask[..., None])
        for made in (little, much)
    ]
    assert moved[0].mean() < moved[1].mean() / 2
    with pytest.raises(ValueError, match="strength"):
        model.refine(batch, seeds, 0.0)


def test_without_corrector_and_noise_sampling_is_another() -> None:
    batch = crystals_of(5)
    targets = [Target(1, num_atoms=4)]
    plain = model_of(batch).sample(targets)
    for change in ({"corrector": 0.0}, {"latent_noise": 0.0}, {"position_noise": 0.0}):
        assert set(change) <= CrysLDM.sampling_settings
        other = model_of(batch, replace(CONFIG, **change)).sample(targets)
        same = torch.allclose(other.frac_coords, plain.frac_coords)
        assert not same or not torch.allclose(other.lattices, plain.lattices)


# --- configurations and commands -----------------------------------------------------------------


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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command over both stages."""
    folder = tmp_path_factory.mktemp("crysldm")
    random_crystals(30, seed=3).save(folder / "data.npz")
    model = {"autoencoder_settings": SMALL, "denoiser_settings": SMALL, "steps": 4}
    training = {"val_steps": 3, "batch_atoms": 60, "val_draws": 1}
    (folder / "config.json").write_text(json.dumps({"model": model, "training": training}))
    options = ["--config", str(folder / "config.json"), "--steps", "6", "--device", "cpu"]
    data = ["--data", str(folder / "data.npz"), "-o", str(folder / "run")]
    command("train", "crysldm", *data, *options, "--quiet")
    return folder / "run"


def command(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


def test_the_command_trains_both_stages(run: Path) -> None:
    stages = [line.split(",")[0] for line in (run / "log.csv").read_text().splitlines()[1:]]
    assert stages == ["autoencoder", "diffusion"]
    assert (run / "best.autoencoder.safetensors").is_file()


def test_crystals_of_the_model_s_choice_are_sampled_by_the_command(
    run: Path, tmp_path: Path
) -> None:
    base = ("sample", "--model", str(run), "--device", "cpu", "--quiet", "--workers", "1")
    command(*base, "-n", "5", "-o", str(tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert list(table["file"]) == [f"crystal_{i:04d}.cif" for i in range(1, 6)]
    assert table["formula"].nunique() > 1
    assert set(table["num_atoms"]) <= {2, 3, 4, 5, 6}
    # A folder without a name is named after the seed.
    with CliRunner().isolated_filesystem(tmp_path):
        command(*base, "-n", "3", "--num-atoms", "7")
        assert set(pd.read_csv(Path("crystals-seed0") / "samples.csv")["num_atoms"]) == {7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "retrieval"], "--method retrieval needs compositions"),
        (["--relax"], "crysmetrics relax"),
        (["--formula-units", "2"], "go with compositions"),
        (["--composition", "Li2O", "--num-atoms", "6"], "--num-atoms goes with no composition"),
    ],
)
def test_what_goes_with_compositions_alone_is_refused(
    options: list[str], message: str, run: Path, tmp_path: Path
) -> None:
    base = ["sample", "--model", str(run), "-n", "2", "-o", str(tmp_path / "out")]
    assert message in " ".join(command(*base, *options, status=2).split())
    assert not (tmp_path / "out").exists()


def test_without_a_model_a_composition_is_asked_for(tmp_path: Path) -> None:
    text = command("sample", "-n", "2", "-o", str(tmp_path / "out"), "--device", "cpu", status=2)
    assert "or name a --model" in " ".join(text.split())


def test_crystals_of_a_free_choice_are_batched_with_those_of_their_size() -> None:
    model = model_of(crystals_of(40, seed=2))
    draws = [Draw(i, 0, Target(i), 0, i) for i in range(200)]
    batches = plan_batches(draws, size_of=model.size_of)
    made = model.sample([draw.target for draw in draws], 1).num_atoms.tolist()
    assert [model.size_of(draw.target) for draw in draws] == made
    padded = sum(len(b) * max(made[draw.number] for draw in b) for b in batches)
    assert padded < 1.3 * sum(made)
    assert sorted(draw.number for batch in batches for draw in batch) == list(range(200))


def test_amplified_steps_do_not_lead_beyond_what_is_predicted() -> None:
    """However much a flow is hurried, its last step ends where the one before it pointed."""
    batch = crystals_of(5)
    first = []
    for a in (0.0, 1e5):
        model = model_of(batch, replace(FLOW, anti_annealing=a))
        state, way = model.begin([Target(i, num_atoms=4) for i in range(5)], 3)
        steps = way[-1].rows(5)[0]
        _, displacement = model._predicted(state, steps)
        after = model.step(state, way[-1]).frac_coords
        assert ((after - state.frac_coords - displacement + 0.5) % 1 - 0.5).abs().max() < 1e-9
        first.append(model.step(state, way[1]).frac_coords)
    assert not torch.allclose(*first)


def patterns(batch: Batch) -> list[tuple[int, ...]]:
    rows = [Counter(z for z in row if z) for row in batch.atomic_numbers.tolist()]
    return [tuple(sorted(row.values(), reverse=True)) for row in rows]


def test_which_atoms_are_of_one_element_is_as_frequent_as_in_the_training_data() -> None:
    atoms = [(3, 3, 8), (11, 17), (22, 22, 8, 8), (56, 8, 8, 1), (26, 26, 26, 26)]
    counts = [4, 3, 2, 1, 2]
    rows = [row for row, count in zip(atoms, counts, strict=True) for _ in range(count)]
    batch = Batch(
        pad_atomic_numbers(rows),
        torch.rand(12, 4, 3, generator=seeded()).double(),
        torch.eye(3).double().repeat(12, 1, 1) * 4,
    )
    model = model_of(batch, replace(FLOW, steps=2))
    assert model.config.formulas == {"1 1": 3, "2 1": 4, "2 1 1": 1, "2 2": 2, "4": 2}
    assert CrysLDMConfig.from_json(json.loads(json.dumps(model.config.to_json()))) == model.config
    groups = [model._groups(Target(seed)) for seed in range(600)]
    found = Counter(" ".join(map(str, sorted(Counter(g).values())[::-1])) for g in groups)
    for formula, count in model.config.formulas.items():
        assert abs(found[formula] / 600 - count / 12) < 0.07
    targets = [Target(seed) for seed in range(40)]
    made = model.sample(targets)
    # Two kinds of atoms may become one element, but none becomes two.
    for pattern, target in zip(patterns(made), targets, strict=True):
        group = Counter(model._groups(target))
        assert len(pattern) <= len(group)
        assert sum(pattern) == len(model._groups(target)) == model.size_of(target)
    assert max(map(len, patterns(made))) > 1
    # Of a size that the training data has, of a multiple of one, and of neither.
    assert {tuple(Counter(model._groups(Target(s, num_atoms=3))).values()) for s in range(9)} == {
        (2, 1)
    }
    eight = {tuple(Counter(model._groups(Target(s, num_atoms=8))).values()) for s in range(60)}
    assert eight == {(4, 4), (8,), (4, 2, 2)}
    assert model._groups(Target(0, num_atoms=7)) == (1,) * 7
    assert model._groups(Target(0, (8, 3, 3))) == (8, 3, 3)


def test_the_denoiser_is_told_which_atoms_are_of_one_element() -> None:
    batch = crystals_of(6)
    model = model_of(batch, FLOW)
    noisy, steps = model.encoded(batch), torch.full((6,), 7)
    told = torch.zeros_like(batch.atomic_numbers)
    one = batch.mask.long()
    each = one * torch.arange(1, one.shape[1] + 1)
    first, _ = model.denoised(noisy, batch.frac_coords, steps, told, batch.mask, one)
    other, _ = model.denoised(noisy, batch.frac_coords, steps, told, batch.mask, each)
    assert (first.atoms - other.atoms).abs().max() > 1e-4
    renamed, _ = model.denoised(noisy, batch.frac_coords, steps, told, batch.mask, 7 * each)
    assert torch.equal(renamed.atoms, other.atoms)
