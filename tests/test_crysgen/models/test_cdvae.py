"""CDVAE: noise, targets, types, invariances, training, Algorithm 1 and its faster ways."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from fake_gpu import Watch, on_fake_gpu, without_autocast
from sets import random_crystals
from small_cdvae import CSP, SETTINGS, batch_of, config, model_of

from crysgen.models.base import Encodes, Prepares, Stepwise
from crysgen.models.cdvae import CDVAE
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.models.cdvae_process import (
    NoiseLevels,
    drawn_types,
    move_sizes,
    noised_types,
    plan,
    shortest_moves,
)
from crysgen.models.cdvae_training import AUTOENCODER, PRIOR
from crysgen.training.batch import Batch
from crysgen.training.configs import config_names, load_config
from crysgen.training.data import canonical

ENERGY = "formation_energy_per_atom"


def rotation():
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())
    return q * torch.linalg.det(q)


# --- noise ---------------------------------------------------------------------------------------


def test_the_levels_of_noise_are_those_of_appendix_d4():
    chosen = CDVAEConfig(encoder_settings=CSP, decoder_settings=CSP)
    levels = NoiseLevels(chosen.levels, chosen.position_sigmas, chosen.type_sigmas)
    assert len(levels) == 50
    for values, least, most in ((levels.positions, 0.01, 10.0), (levels.types, 0.01, 5.0)):
        assert torch.allclose(values[[0, -1]], torch.tensor([least, most]))
        ratios = values[1:] / values[:-1]
        assert torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-4)
    assert levels.at(1.0) == pytest.approx((10.0, 5.0))
    assert levels.positions_at(torch.tensor(0.5)).item() == pytest.approx(levels.at(0.5)[0])


def test_the_target_is_the_shortest_displacement_over_all_images():
    batch = batch_of(4)
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(batch.frac_coords.shape, generator=generator).double()
    found = shortest_moves(start, batch.frac_coords, batch.lattices)
    images = torch.tensor(list(itertools.product(range(-3, 4), repeat=3))).double()
    every = (batch.frac_coords - start)[:, :, None] + images
    best = (every @ batch.lattices[:, None]).norm(dim=-1).amin(-1)
    assert torch.allclose(found.norm(dim=-1), best)
    # And it ends where the clean atom is, in some cell.
    end = start + torch.linalg.solve(batch.lattices.mT, found.mT).mT
    away = end - batch.frac_coords
    assert torch.allclose(away, away.round(), atol=1e-9)


@pytest.mark.parametrize("centred", [False, True])
def test_a_perfect_score_at_little_noise_is_a_harmonic_force(centred):
    """Appendix A: α_j s_X = -k (X~ - X) with k = ε / σ_L²."""
    batch = batch_of(5)
    chosen = config(sampler="langevin", steps_per_level=2, centred=centred)
    levels = NoiseLevels(chosen.levels, chosen.position_sigmas, chosen.type_sigmas).double()
    noise = torch.randn(batch.frac_coords.shape, generator=torch.Generator().manual_seed(0))
    numbers = list(plan(levels, chosen, 100))
    for level in (0, 3, 10):
        rows = torch.full((len(batch),), level)
        noisy, moves = levels.noised(
            batch.frac_coords, batch.lattices, batch.mask, rows, noise.double(), centred
        )
        of_level = numbers[2 * (49 - level)]
        force = of_level.gain * moves
        away = noisy - batch.frac_coords
        away = (away - away.round()) @ batch.lattices  # X~ - X: atoms cross no boundary
        away = away * batch.mask[..., None]
        k = chosen.step_size / chosen.position_sigmas[1] ** 2
        assert torch.allclose(force, -k * away, rtol=1e-4, atol=1e-9)


def test_moves_are_as_large_as_is_said():
    batch = batch_of(40, seed=5)
    levels = NoiseLevels(50, (10.0, 0.01), (5.0, 0.01)).double()
    noise = torch.randn(batch.frac_coords.shape, generator=torch.Generator().manual_seed(0))
    for level in (0, 25, 49):
        rows = torch.full((len(batch),), level)
        found = levels.noised(
            batch.frac_coords, batch.lattices, batch.mask, rows, noise.double(), False
        )
        size = move_sizes(levels.positions[rows], batch.lattices)
        relative = (found.moves / size)[batch.mask].square().mean().sqrt()
        assert 0.7 < relative < 1.4


def test_noised_types_are_the_mixture_of_true_ones_and_the_composition():
    shares = torch.zeros(1, 118)
    shares[0, [7, 25]] = torch.tensor([0.75, 0.25])
    numbers = torch.full((1, 40_000), 3)
    numbers[0, -100:] = 0
    uniform = torch.rand((1, 40_000, 2), generator=torch.Generator().manual_seed(0))
    found = noised_types(numbers, shares, torch.tensor([3.0]), uniform)[0]
    assert (found[-100:] == 0).all()
    counts = torch.bincount(found[:-100], minlength=119) / 39_900
    expected = {3: 1 / 4, 8: 3 / 4 * 0.75, 26: 3 / 4 * 0.25}
    for z, share in expected.items():
        assert counts[z].item() == pytest.approx(share, abs=0.01)
    assert set(found[:-100].tolist()) == set(expected)


def test_drawn_types_follow_the_chances_of_each_atom():
    chances = torch.zeros(1, 2, 118)
    chances[0, 0, 4], chances[0, 1, 117] = 1.0, 1.0
    for value in (0.0, 0.5, 0.999999):
        found = drawn_types(chances, torch.full((1, 2), value))
        assert found.tolist() == [[5, 118]]


def test_a_way_back_visits_all_levels_from_the_most_noise_to_none():
    levels = NoiseLevels(50, (10.0, 0.01), (5.0, 0.01))
    langevin = list(plan(levels, config(sampler="langevin", steps_per_level=100), 5000))
    assert len(langevin) == 5000
    assert len({step.share for step in langevin}) == 50
    # Algorithm 1 with ε = 1e-4: α = ε (σ / σ_L)², and the decoder gives σ s.
    first = langevin[0]
    assert first.gain == pytest.approx(1e-4 * (10 / 0.01) ** 2 / 10)
    assert first.jitter == pytest.approx((2 * 1e-4 * (10 / 0.01) ** 2) ** 0.5)
    for sampler in ("renoised", "ancestral", "deterministic"):
        for count in (1, 7, 100):
            steps = list(plan(levels, config(sampler=sampler), count))
            assert len(steps) == count
            assert steps[-1].jitter == 0
            assert steps[-1].type_sigma == 0
        # Where the decoder is right, noise of width σ becomes noise of the width that follows.
        sigmas = [levels.at(step.share)[0] for step in steps]
        for step, now, then in zip(steps, sigmas, sigmas[1:], strict=False):
            assert (now - step.gain) ** 2 + step.jitter**2 == pytest.approx(then**2)
            assert (step.gain == now) == (sampler == "renoised")
    assert all(step.jitter == 0 for step in steps)
    few = list(plan(levels, config(sampler="langevin"), 20))
    assert len({step.share for step in few}) == 20


# --- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", list(SETTINGS))
def test_the_encoder_knows_no_order_no_place_and_no_direction(encoder):
    batch = batch_of(4)
    model = model_of(batch, encoder=encoder)
    z = model.encode(batch)
    assert z.std(0).min() > 1e-6  # crystals differ
    order = torch.tensor([2, 0, 1, *range(3, batch.frac_coords.shape[1])])
    padded = int(batch.num_atoms.min())
    assert padded >= 3
    moved = Batch(
        batch.atomic_numbers[:, order],
        (batch.frac_coords[:, order] + torch.tensor([0.3, 0.71, 0.11]).double()) % 1,
        batch.lattices @ rotation(),
    )
    assert torch.allclose(model.encode(moved), z, atol=1e-5)


@pytest.mark.parametrize("encoder", ["pairformer", "gemsnet", "dimenet"])
def test_the_encoder_knows_no_choice_of_cell_vectors(encoder):
    batch = batch_of(4)
    model = model_of(batch, encoder=encoder)
    change = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, -1, 1]]).double()
    other = Batch(
        batch.atomic_numbers,
        (batch.frac_coords @ torch.linalg.inv(change)) % 1,
        change @ batch.lattices,
    )
    assert torch.allclose(model.encode(other), model.encode(batch), atol=1e-5)


def test_the_paper_s_encoder_sees_a_supercell_as_the_crystal():
    batch = batch_of(3)
    model = model_of(batch, encoder="dimenet")
    mask = batch.mask.repeat(1, 2)
    frac = batch.frac_coords * torch.tensor([0.5, 1, 1]).double()
    doubled = Batch(
        batch.atomic_numbers.repeat(1, 2),
        torch.cat([frac, frac + torch.tensor([0.5, 0, 0]).double()], 1),
        batch.lattices * torch.tensor([2.0, 1, 1]).double()[:, None],
    )
    assert (doubled.mask == mask).all()
    order = doubled.atomic_numbers.eq(0).long().argsort(dim=1, stable=True)  # padding last
    doubled = Batch(
        doubled.atomic_numbers.gather(1, order),
        doubled.frac_coords.gather(1, order[..., None].expand(-1, -1, 3)),
        doubled.lattices,
    )
    assert torch.allclose(model.encode(doubled), model.encode(batch), atol=1e-5)


@pytest.mark.parametrize("decoder", ["cspnet", "pairformer", "gemsnet"])
def test_the_decoder_turns_with_the_crystal(decoder):
    batch = batch_of(4)
    model = model_of(batch, decoder=decoder)
    z = model.encode(batch)
    share = torch.full((len(batch),), 0.3).double()

    def denoised(numbers, frac, lattices):
        neighbours = model.decoder.search(frac, lattices, numbers > 0)
        return model.decoder(z, numbers, frac, lattices, share, neighbours)

    with torch.no_grad():
        moves, logits = denoised(batch.atomic_numbers, batch.frac_coords, batch.lattices)
        order = torch.tensor([1, 2, 0, *range(3, batch.frac_coords.shape[1])])
        turn = rotation()
        other_moves, other_logits = denoised(
            batch.atomic_numbers[:, order], batch.frac_coords[:, order] + 0.4, batch.lattices @ turn
        )
    mask = batch.mask[..., None]
    assert (moves * mask).abs().max() > 1e-4
    assert torch.allclose(other_moves * mask, (moves[:, order] @ turn) * mask, atol=1e-6)
    assert torch.allclose(other_logits * mask, logits[:, order] * mask, atol=1e-6)


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["cspnet", "pairformer"])
@pytest.mark.parametrize("encoder", ["cspnet", "dimenet"])
def test_every_weight_of_a_stage_is_trained_and_no_other(encoder, decoder):
    batch = Batch.from_crystals(canonical(random_crystals(6, seed=2)), torch.float32, (), (ENERGY,))
    batch.properties[ENERGY][:] = torch.tensor([-1.0, -2, -3, float("nan"), -0.5, 0.1])
    model = CDVAE(CDVAE.fitted(config(encoder, decoder), batch))
    assert isinstance(model, Prepares)
    assert isinstance(model, Stepwise)
    assert isinstance(model, Encodes)
    unused = ("strain", "volume", "coefficients", "late", "last.bias")
    for stage in (AUTOENCODER, PRIOR):
        model.zero_grad()
        losses = model.loss(batch, torch.Generator().manual_seed(0), stage)
        assert all(value.isfinite() for value in losses.values())
        losses["loss"].backward()
        own = {id(p) for p in model.parameters_of(stage)}
        for name, parameter in model.named_parameters():
            touched = parameter.grad is not None
            if id(parameter) not in own:
                assert not touched or stage == AUTOENCODER, name
            elif not any(word in name for word in unused) and "prior" not in name:
                assert touched, name


def test_crystals_without_the_property_teach_it_nothing():
    batch = Batch.from_crystals(canonical(random_crystals(4, seed=2)), torch.float32, (), (ENERGY,))
    assert batch.properties[ENERGY].isnan().all()
    bare = CDVAE(CDVAE.fitted(config(), batch))
    assert bare.config.property_std == 0
    assert bare.loss(batch, torch.Generator().manual_seed(0))["property"] == 0
    with pytest.raises(ValueError, match="without a property"):
        bare.property_of(torch.zeros(1, 12))
    batch.properties[ENERGY][:2] = torch.tensor([-1.0, -3.0])
    model = CDVAE(CDVAE.fitted(config(), batch))
    assert (model.config.property_mean, model.config.property_std) == (-2.0, 1.0)
    first = model.loss(batch, torch.Generator().manual_seed(0))["property"]
    some = Batch(
        batch.atomic_numbers, batch.frac_coords, batch.lattices, {ENERGY: batch.properties[ENERGY]}
    )
    some.properties[ENERGY][2] = float("inf")
    assert model.loss(some, torch.Generator().manual_seed(0))["property"] == first


@pytest.mark.parametrize("name", config_names("cdvae"))
def test_shipped_configurations_say_what_they_say(name):
    chosen, _ = load_config("cdvae", name)
    assert CDVAEConfig.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    assert (chosen.levels, chosen.type_sigmas, chosen.position_sigmas) == (
        50,
        (5, 0.01),
        (10, 0.01),
    )
    weights = (chosen.composition_weight, chosen.lattice_weight, chosen.count_weight)
    assert weights == (1, 10, 1)
    assert (chosen.position_weight, chosen.type_weight) == (10, 1)
    assert chosen.kl_weight == (0.03 if name == "carbon24" else 0.01)
    if name == "paper":
        assert (chosen.encoder, chosen.decoder) == ("dimenet", "gemsnet")
        assert chosen.decoder_settings["k"] == 20
        assert CDVAE(chosen).num_steps == 5000
        assert not CDVAE(chosen).has_static_shapes


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder": "crystalnet"},
        {"encoder_settings": {"chanels": 3}},
        {"decoder": "dimenet"},
        {"position_sigmas": [0.01, 10]},
        {"levels": 0},
        {"kl_weight": -1},
        {"sampler": "annealed"},
        {"formulas": {"3 x": 1}},
        {"formulas": {"30 1": 1}},
        {"lattice_std": [1, 1, 1, 0, 1, 1]},
    ],
)
def test_a_configuration_that_can_t_be_is_refused(wrong):
    with pytest.raises(
        ValueError, match=r"encoder|setting|decoder|sigmas|levels|kl|sampler|formulas|std"
    ):
        CDVAEConfig.from_json({"encoder_settings": CSP, "decoder_settings": CSP, **wrong})


@pytest.mark.parametrize("stage", [AUTOENCODER, PRIOR])
@pytest.mark.parametrize("decoder", ["cspnet", "pairformer"])
def test_nothing_in_training_waits_for_the_device(stage, decoder, monkeypatch):
    batch = batch_of()
    model = model_of(batch, decoder=decoder)
    prepared = on_fake_gpu(model.prepare(batch, torch.Generator().manual_seed(0), stage, 2))
    model.to("meta")
    without_autocast(monkeypatch)
    with Watch():
        model.prepared_loss(prepared, stage)["loss"].backward()
