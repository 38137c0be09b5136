"""Samples of CDVAE: from their seeds alone, by graphs, and within space groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_gpu import Watch, on_fake_gpu, without_autocast
from sets import random_crystals
from small_cdvae import batch_of, model_of

from crysgen.graphs.stepwise import StepGraphs
from crysgen.latent import encode, latent_targets
from crysgen.models.base import refuse_targets
from crysgen.models.targets import Target
from crysgen.networks.neighbours import without_waiting
from crysgen.training.batch import Batch
from crysgen.training.data import canonical
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import space_group
from crysmetrics.symmetrize import impose_setting
from crysmetrics.symmetry import Cell


@pytest.mark.parametrize("type_steps", ["drawn", "likeliest"])
@pytest.mark.parametrize("decoder", ["cspnet", "pairformer"])
def test_nothing_in_a_step_of_sampling_waits_for_the_device(decoder, type_steps, monkeypatch):
    model = model_of(decoder=decoder, type_steps=type_steps)
    state, way = model.begin([Target(0), Target(1, latent=(0.1,) * 12), Target(2)], 3)
    model.to("meta")
    state, inputs = on_fake_gpu(state), on_fake_gpu(way[0])
    without_autocast(monkeypatch)
    with Watch(), without_waiting():
        after = model.step(state, inputs)
    assert after.frac_coords.shape == state.frac_coords.shape


@pytest.mark.parametrize("sampler", ["renoised", "ancestral", "deterministic", "langevin"])
@pytest.mark.parametrize("type_steps", ["drawn", "likeliest"])
def test_samples_follow_from_their_seeds_alone(sampler, type_steps):
    model = model_of(sampler=sampler, type_steps=type_steps)
    targets = [Target(3), Target(5, num_atoms=4), Target(2**52 + 1)]
    told = []
    together = model.sample(targets, 6, lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]
    assert together.num_atoms[1] == 4
    assert together.num_atoms.tolist() == [model.size_of(target) for target in targets]
    assert (torch.linalg.det(together.lattices) > 0).all()
    for row, target in enumerate(targets):
        alone = model.sample([target], 6)
        count = int(alone.num_atoms[0])
        assert (alone.atomic_numbers[0] == together.atomic_numbers[row, :count]).all()
        assert (together.atomic_numbers[row, count:] == 0).all()
        away = alone.frac_coords[0] - together.frac_coords[row, :count]
        assert (away - away.round()).abs().max() < 1e-8
    assert not torch.equal(together.frac_coords[0, :2], together.frac_coords[2, :2])


@pytest.mark.parametrize("decoder", ["cspnet", "pairformer"])
def test_a_recorded_step_gives_what_sampling_gives(decoder):
    model = model_of(decoder=decoder, predicted_composition=True)
    targets = [Target(1, latent=(0.5,) * 12), Target(2), Target(3)]
    graphs = StepGraphs(model).sample(targets, 5)
    eager = model.sample(targets, 5)
    assert torch.equal(graphs.atomic_numbers, eager.atomic_numbers)
    assert torch.allclose(graphs.frac_coords, eager.frac_coords)


def test_several_decodings_of_one_latent_share_cell_and_size_but_not_positions():
    """Figure 5."""
    model = model_of()
    z = model.encode(batch_of())[:1]
    made = model.decode(z.expand(3, -1), [1, 2, 3])
    assert torch.equal(made.lattices[0], made.lattices[2])
    assert len(set(made.num_atoms.tolist())) == 1
    assert not torch.allclose(made.frac_coords[0], made.frac_coords[1])
    with pytest.raises(ValueError, match="12 numbers"):
        model.decode(z[:, :5], [1])


def test_reconstruction_asks_for_latents_and_predicted_sizes():
    crystals = canonical(random_crystals(5, seed=4))
    model = model_of(Batch.from_crystals(crystals, torch.float64)).float()
    z = encode(model, crystals)
    assert z.shape == (5, 12)
    assert np.allclose(encode(model, crystals[[3]])[0], z[3], atol=1e-5)
    targets = latent_targets(model, crystals, range(5))
    made = model.sample(targets, 3)
    assert made.num_atoms.tolist() == model.sizes(torch.as_tensor(z)).tolist()
    refuse_targets(model, targets)
    with pytest.raises(UserError, match="can't be told the atoms"):
        refuse_targets(model, [Target(0, (8, 8))])


def test_the_prior_s_flow_is_a_choice_of_sampling():
    model = model_of()
    with torch.no_grad():
        model.prior.last.bias.fill_(0.7)  # a constant velocity
    noise = torch.randn(4, 12, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(model.draw_latents(noise), noise + 0.7)
    model.config = replace(model.config, prior="normal")
    assert torch.equal(model.draw_latents(noise), noise)


# --- space groups --------------------------------------------------------------------------------


def model_of_few_elements(**settings):
    """Make a model whose compositions have a place in many groups; at random, none would."""
    model = model_of(levels=6, **settings)
    with torch.no_grad():
        for weights in model.of_composition.parameters():
            weights *= 20
    return model


@pytest.mark.parametrize("decoder", ["cspnet", "pairformer", "gemsnet"])
def test_every_sample_obeys_its_space_group(decoder):
    model = model_of_few_elements(decoder=decoder)
    targets = [Target(7 * i, space_group=n) for i, n in enumerate((1, 14, 62, 136, 166, 194, 225))]
    made = model.sample(targets, 6)
    for row, target in enumerate(targets):
        there = made.atomic_numbers[row] > 0
        numbers = made.atomic_numbers[row][there].numpy()
        group = space_group(target.space_group)
        assert len(numbers) == group.centring * model.size_of(target)
        lattice, frac = made.lattices[row].numpy(), made.frac_coords[row][there].numpy()
        cell = Cell(lattice, frac, numbers)
        exact = impose_setting(cell, group.hall_number, 1e-6)
        assert exact is not None
        np.testing.assert_allclose(exact.lattice @ exact.lattice.T, lattice @ lattice.T, atol=1e-6)


def test_a_sample_in_a_space_group_follows_from_its_seed_alone():
    model = model_of_few_elements()
    one, other = Target(3, space_group=136), Target(4, space_group=225)
    alone, among = model.sample([one], 6), model.sample([other, one], 6)
    size = alone.atomic_numbers.shape[1]
    assert torch.equal(alone.atomic_numbers[0], among.atomic_numbers[1][:size])
    torch.testing.assert_close(alone.frac_coords[0], among.frac_coords[1][:size])
    torch.testing.assert_close(alone.lattices[0], among.lattices[1])


def test_graphs_keep_to_space_groups_as_the_model_does():
    model = model_of_few_elements()
    targets = [Target(3, space_group=136), Target(4, space_group=225)]
    wanted, found = model.sample(targets, 6), StepGraphs(model).sample(targets, 6)
    assert torch.equal(found.atomic_numbers, wanted.atomic_numbers)
    torch.testing.assert_close(found.frac_coords, wanted.frac_coords)


def test_numbers_of_atoms_that_have_no_place_are_refused():
    with pytest.raises(UserError, match=r"has a place in space group 230 \(Ia-3d\)"):
        model_of().sample([Target(0, num_atoms=3, space_group=230)], 4)
