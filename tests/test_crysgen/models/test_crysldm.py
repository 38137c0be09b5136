"""CrysLDM: symmetries of both stages, and its process against the paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_crysldm import BOTH, CONFIG, FLOW, FORMS, crystals_of, model_of, seeded, turns

from crysgen.graphs import map_tensors
from crysgen.models.crysldm_config import CrysLDMConfig, diffusion
from crysgen.models.crysldm_latents import AUTOENCODER, DIFFUSION
from crysgen.models.crysldm_networks import Latents
from crysgen.models.crysldm_process import WayBack
from crysgen.training.batch import Batch


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
