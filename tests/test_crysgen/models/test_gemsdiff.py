"""The GemsDiff process: what it does to crystals, and that its variants work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from crysgen.diffusion.lattice import lattice_parameters
from crysgen.models.base import Encodes, Noises, Prepares
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.models.targets import Target
from crysgen.networks.base import Estimate
from crysgen.training.batch import Batch, pad_atomic_numbers
from crysgen.training.data import canonical
from crysmetrics.examples import unpack
from crysmetrics.io import Crystals, read

SMALL = {
    "network": "pairformer",
    "network_settings": {"channels": 16, "layers": 2, "heads": 2, "radial": 8},
}
OURS = {
    **SMALL,
    "standardize_lattice": True,
    "cell_decoder": "residual",
    "lattice_loss": "vector",
    "position_loss": "scaled",
}
FLOW = {"position_process": "flow", "lattice_power": 4.0}
SCORE = {"position_process": "score", "position_sigma_min": 0.005, "position_output": "scaled"}
VARIANTS = {
    "paper": SMALL,
    "posterior": {**SMALL, "lattice_loss": "posterior"},
    "noisy cell": {**SMALL, "cell_decoder": "noisy"},
    "raw cells": {**SMALL, "lattice_space": "raw"},
    "straight path": {**SMALL, "shortest_path": False},
    "no lattice diffusion": {**SMALL, "lattice_diffusion": False},
    "no lattice diffusion, vectors": {**OURS, "lattice_diffusion": False},
    "ours": OURS,
    "flow": {**OURS, **FLOW},
    "flow of cells": {**OURS, **FLOW, "lattice_process": "flow", "coupling": True},
    "velocity": {**OURS, **FLOW, "position_output": "scaled"},
    "score": {**OURS, **SCORE},
    "score with corrector": {**OURS, **SCORE, "corrector": 0.4},
    "coupling": {**OURS, "coupling": True},
    "self-conditioning": {**OURS, **FLOW, "self_conditioning": True},
    "dropout": {**OURS, "dropout": 0.2},
    "cspnet": {
        **OURS,
        **FLOW,
        "network": "cspnet",
        "network_settings": {"channels": 16, "layers": 2, "radial": 8},
    },
}


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Crystals:
    _, reference = unpack(tmp_path_factory.mktemp("examples"))
    found = read(reference, workers=1)
    return canonical(found[found.num_atoms <= 12][:16])


def model_of(settings: dict, batch: Batch, double: bool = False) -> GemsDiff:
    torch.manual_seed(0)
    model = GemsDiff(GemsDiff.fitted(GemsDiffConfig(**settings), batch))
    with torch.no_grad():  # the last layers of a new network are nearly zero
        for weights in model.parameters():
            weights += 0.02 * torch.randn_like(weights)
    return model.double() if double else model


def targets_of(atomic_numbers: torch.Tensor) -> list[Target]:
    """Those of a batch's atoms, with its rows as seeds."""
    return [
        Target(seed, tuple(int(z) for z in row if z)) for seed, row in enumerate(atomic_numbers)
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_samples(name: str, crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals)
    model = model_of(VARIANTS[name], batch)
    losses = model.loss(batch, torch.Generator().manual_seed(0))
    losses["loss"].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0
    again = model.loss(batch, torch.Generator().manual_seed(0))
    assert torch.equal(again["loss"], losses["loss"])
    sampled = model.sample(targets_of(batch.atomic_numbers[:4]), steps=5)
    size = sampled.mask.shape[1]
    assert torch.equal(sampled.atomic_numbers, batch.atomic_numbers[:4, :size])
    inside = sampled.frac_coords[sampled.mask]
    assert ((inside >= 0) & (inside < 1)).all()
    assert torch.isfinite(sampled.lattices).all()
    volumes = torch.linalg.det(sampled.lattices).abs() / sampled.num_atoms
    assert (volumes > 1e-3).all()
    if name == "ours":  # a new model knows the mean of all cells, and hardly bends what it sees
        assert ((volumes > 1) & (volumes < 200)).all()


def test_the_two_halves_of_the_loss_are_the_loss(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals)
    model = model_of(OURS, batch)
    prepared = model.prepare(batch, torch.Generator().manual_seed(3))
    losses = model.loss(batch, torch.Generator().manual_seed(3))
    again = model.prepared_loss(prepared)
    assert {k: v.item() for k, v in again.items()} == {k: v.item() for k, v in losses.items()}
    assert isinstance(model, Prepares)
    assert isinstance(model, Noises)
    assert not isinstance(model, Encodes)


def test_dropout_is_seeded_and_of_training_alone(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals)
    model, plain = (model_of(VARIANTS[name], batch) for name in ("dropout", "ours"))
    plain.load_state_dict(model.state_dict())

    def loss(of: GemsDiff) -> float:
        return float(of.loss(batch, torch.Generator().manual_seed(1))["loss"].detach())

    assert loss(model) == loss(model)
    assert abs(loss(model) - loss(plain)) > 1e-4
    assert loss(model.eval()) == loss(plain.eval())


def test_self_conditioning_shows_the_network_its_last_prediction(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(VARIANTS["self-conditioning"], batch, double=True)
    vectors = model.cells.encode(batch.lattices, batch.num_atoms)
    steps = torch.full((len(batch),), 60)
    zeros = torch.zeros_like(batch.frac_coords)
    asked = (batch.atomic_numbers, batch.frac_coords, vectors, steps)
    known = torch.ones(len(batch), dtype=torch.float64)
    alone, _ = model.predict(*asked)
    without, _ = model.predict(*asked, Estimate(zeros, batch.lattices, 0 * known))
    assert torch.equal(alone, without)
    moved = 0.1 * torch.randn_like(zeros)
    told, _ = model.predict(*asked, Estimate(moved, batch.lattices, known))
    assert float((told - alone).detach().abs().max()) > 1e-6
    # Only where atoms are to each other counts, and the shape of the cell.
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    same, _ = model.predict(*asked, Estimate(moved + 0.3, batch.lattices @ turn, known))
    assert torch.allclose(told, same, atol=1e-9)


def test_a_first_prediction_takes_no_gradients_away_in_mixed_precision(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals)
    model = model_of(VARIANTS["self-conditioning"], batch)
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    missing = [n for n, p in model.network.blocks.named_parameters() if p.grad is None]
    assert missing == []


def test_every_second_crystal_is_self_conditioned_in_training(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(VARIANTS["self-conditioning"], batch, double=True)
    prepared = model.prepare(batch, torch.Generator().manual_seed(0))
    seen = []
    untouched = model.network.forward

    def watched(*args, **extra):
        seen.append(extra.get("estimate"))
        return untouched(*args, **extra)

    model.network.forward = watched
    model.prepared_loss(prepared)
    assert seen[0] is None
    assert seen[1].known.tolist() == [float(i % 2 == 0) for i in range(len(batch))]
    vectors = prepared.noisy
    first, _ = model.predict(batch.atomic_numbers, prepared.frac_coords, vectors, prepared.steps)
    assert torch.allclose(seen[1].displacement[::2], first[::2], atol=1e-9)


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="vector space"):
        GemsDiffConfig(lattice_space="raw", cell_decoder="residual")
    with pytest.raises(ValueError, match="no noisy cell"):
        GemsDiffConfig(lattice_diffusion=False, cell_decoder="noisy")
    with pytest.raises(ValueError, match="coupling"):
        GemsDiffConfig(position_process="score", coupling=True)
    with pytest.raises(ValueError, match="corrector"):
        GemsDiffConfig(position_process="flow", corrector=0.4)
    with pytest.raises(ValueError, match="cell_anti_annealing"):
        GemsDiffConfig(cell_anti_annealing=1.0)
    with pytest.raises(ValueError, match="position_sigma_min"):
        GemsDiffConfig(position_sigma_min=0.6)
    with pytest.raises(ValueError, match="GemsNet has no setting 'self_conditioning'"):
        GemsDiffConfig(self_conditioning=True)
    with pytest.raises(ValueError, match="GemsNet has no dropout"):
        GemsDiffConfig(dropout=0.1)
    with pytest.raises(ValueError, match="below 1"):
        GemsDiffConfig(**SMALL, dropout=1.0)
    with pytest.raises(ValueError, match="unknown settings: nonsense"):
        GemsDiffConfig.from_json({"nonsense": 1})


@pytest.mark.parametrize(
    "name", ["ours", "flow of cells", "score with corrector", "self-conditioning", "dropout"]
)
def test_samples_do_not_depend_on_the_batch(name: str, crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals[:12], torch.float64)
    model = model_of(VARIANTS[name], batch, double=True).eval()
    targets = targets_of(batch.atomic_numbers)
    together = model.sample(targets, steps=8)
    for i in (0, 5, 11):
        count = int(batch.num_atoms[i])
        alone = model.sample(targets[i : i + 1], steps=8)
        assert torch.allclose(alone.lattices[0], together.lattices[i], atol=1e-8)
        gap = alone.frac_coords[0] - together.frac_coords[i, :count]
        assert float((gap - gap.round()).abs().max()) < 1e-8


def test_no_noise_at_step_zero_and_more_with_every_step(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(OURS, batch, double=True)
    seeds = list(range(len(batch)))
    same = model.noise(batch, 0, seeds)
    assert torch.equal(same.lattices, batch.lattices)
    assert torch.allclose(same.frac_coords, batch.frac_coords)
    moved = []
    for step in (1, 20, 60):
        noisy = model.noise(batch, step, seeds)
        gap = noisy.frac_coords - batch.frac_coords
        moved.append(float((gap - gap.round()).abs().mean()))
        assert torch.equal(noisy.frac_coords, model.noise(batch, step, seeds).frac_coords)
    assert moved[0] < moved[1] < moved[2]


def test_the_process_is_blind_to_orientation_and_follows_permutations(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(OURS, batch, double=True)
    vectors = model.cells.encode(batch.lattices, batch.num_atoms)
    steps = torch.full((len(batch),), 30)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turned = model.cells.encode(batch.lattices @ turn.T, batch.num_atoms)
    assert torch.allclose(vectors, turned, atol=1e-9)
    frac = (batch.frac_coords + 0.03 * torch.randn_like(batch.frac_coords)) % 1
    moved, cell = model.predict(batch.atomic_numbers, frac, vectors, steps)
    shifted, same = model.predict(
        batch.atomic_numbers, (frac + torch.rand(1, 1, 3, dtype=frac.dtype)) % 1, vectors, steps
    )
    assert torch.allclose(moved, shifted, atol=1e-6)
    assert torch.allclose(cell, same, atol=1e-6)
    full = [i for i in range(len(batch)) if int(batch.num_atoms[i]) == int(batch.num_atoms.max())]
    order = torch.randperm(batch.frac_coords.shape[1])
    permuted, same = model.predict(
        batch.atomic_numbers[full][:, order], frac[full][:, order], vectors[full], steps[full]
    )
    assert torch.allclose(moved[full][:, order], permuted, atol=1e-6)
    assert torch.allclose(cell[full], same, atol=1e-6)


def test_anti_annealing_amplifies_displacements_toward_the_end(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(OURS, batch, double=True)
    targets = targets_of(batch.atomic_numbers)
    predicted: list[torch.Tensor] = []
    taken: list[torch.Tensor] = []
    untouched = model.of_positions.before

    def watched(*args):
        displacement, cell = GemsDiff.predict(model, *args)
        predicted.append(displacement)
        return displacement, cell

    def step(frac, displacement, *rest):
        taken.append(displacement)
        return untouched(frac, displacement, *rest)

    model.predict, model.of_positions.before = watched, step
    without = model.sample(targets, steps=5)
    assert all(torch.equal(a, b) for a, b in zip(taken, predicted, strict=True))
    predicted.clear()
    taken.clear()
    model.config = replace(model.config, anti_annealing=3.0)
    amplified = model.sample(targets, steps=5)
    for a, b, t in zip(taken, predicted, (100, 80, 60, 40, 20), strict=True):
        share = model.of_positions.share(torch.tensor(t), torch.tensor(t - 20))
        factor = min(1 + 3 * (1 - t / 100), 1 / share.item())
        assert factor == 1 if t == 20 else factor > 1 or t == 100
        assert torch.allclose(a, b * factor)
    assert not torch.equal(amplified.frac_coords, without.frac_coords)


def test_anti_annealing_of_cells_multiplies_their_velocity(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(VARIANTS["flow of cells"], batch, double=True)
    targets = targets_of(batch.atomic_numbers)

    def moved(failed: int = 0) -> torch.Tensor:
        state, way = model.begin([replace(target, failed=failed) for target in targets], 5)
        assert way[1].now == 80
        return model.step(state, way[1]).vectors - state.vectors

    plain = moved()
    model.config = replace(model.config, cell_anti_annealing=2.0)
    for failed, speed in ((0, 2.0), (1, 1.8), (2, 0.0), (4, 0.0)):
        assert torch.allclose(moved(failed), (1 + speed * 0.2) * plain)


def test_cells_that_run_away_are_not_finite_unless_they_were_given(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    settings = {"standardize_lattice": True, "farthest_cell": 6.5}
    model = model_of(VARIANTS["flow of cells"] | settings, batch, double=True)
    state, _ = model.begin(targets_of(batch.atomic_numbers), 5)
    far = state.vectors.clone()
    far[1, 3], far[2, 5] = 6.4, -6.6
    made = model.finish(state._replace(vectors=far))
    lost = ~made.lattices.isfinite().all(-1).all(-1)
    assert lost.nonzero().flatten().tolist() == [2]
    batch = batch.with_geometry(batch.frac_coords, 30 * batch.lattices)
    assert model.refine(batch, list(range(len(batch))), strength=0.01).lattices.isfinite().all()


def test_refined_cells_that_run_away_are_refined_again_with_less(
    crystals: Crystals, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    settings = {"standardize_lattice": True, "farthest_cell": 6.5}
    model = model_of(VARIANTS["flow of cells"] | settings, batch, double=True)
    seeds = list(range(len(batch)))
    plain = model.refine(batch, seeds, 0.5).lattices
    model.config = replace(model.config, cell_anti_annealing=5.0)
    step, least, sizes = model.step, [0.0], list[int]()

    def runs_away(state: Any, inputs: Any) -> Any:
        made = step(state, inputs)
        far = made.vectors.clone()
        one = min(1, len(far) - 1)  # the second of all; alone when it is refined again
        far[one, 0] += 100 * (state.cell_amplification[one, 0] > least[0])
        sizes.append(len(far))
        return made._replace(vectors=far)

    monkeypatch.setattr(model, "step", runs_away)
    made = model.refine(batch, seeds, 0.5).lattices
    assert torch.allclose(made[1], plain[1])
    assert not torch.allclose(made[0], plain[0])
    assert set(sizes) == {len(batch), 1}
    least[0] = -1.0  # with any steps at all
    lost = ~model.refine(batch, seeds, 0.5).lattices.isfinite().all(-1).all(-1)
    assert lost.nonzero().flatten().tolist() == [1]


def test_volumes_of_draws_are_scaled_and_those_of_given_crystals_are_not(
    crystals: Crystals,
) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(VARIANTS["flow of cells"], batch, double=True)
    targets, seeds = targets_of(batch.atomic_numbers), list(range(len(batch)))
    drawn, refined = model.sample(targets, 3), model.refine(batch, seeds)
    model.config = replace(model.config, volume_scale=1.5)
    again = model.sample(targets, 3)
    assert torch.allclose(again.lattices.det(), 1.5 * drawn.lattices.det())
    assert torch.equal(again.frac_coords, drawn.frac_coords)
    assert torch.equal(model.refine(batch, seeds).lattices, refined.lattices)
    with pytest.raises(ValueError, match="volume_scale"):
        replace(model.config, volume_scale=0.0)


def test_sampling_takes_its_own_number_of_steps_unless_told(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(OURS, batch, double=True)
    assert model.default_steps == model.num_steps == 100
    model.config = replace(model.config, sampling_steps=7)
    targets = targets_of(batch.atomic_numbers)
    for asked, taken in ((None, 7), (3, 3)):
        assert model.default_steps == 7
        assert len(model.begin(targets, asked)[1]) == taken
    with pytest.raises(ValueError, match="sampling_steps"):
        replace(model.config, sampling_steps=101)


def test_refining_starts_from_the_given_crystal(crystals: Crystals) -> None:
    batch = Batch.from_crystals(crystals, torch.float64)
    model = model_of(OURS, batch, double=True)
    seeds = list(range(len(batch)))
    near = model.refine(batch, seeds, strength=0.01)
    gap = (lattice_parameters(near.lattices) - lattice_parameters(batch.lattices)).abs()
    assert float((gap / lattice_parameters(batch.lattices)).max()) < 0.1
    assert not torch.equal(near.lattices, model.refine(batch, seeds).lattices)
    for wrong in (0.0, 1.01):
        with pytest.raises(ValueError, match="strength"):
            model.refine(batch, seeds, strength=wrong)


def test_padding_is_of_no_consequence() -> None:
    padded = pad_atomic_numbers([[3, 3, 8], [11, 17]])
    assert padded.tolist() == [[3, 3, 8], [11, 17, 0]]
    assert Batch(padded, torch.zeros(2, 3, 3), torch.eye(3).repeat(2, 1, 1)).num_atoms.tolist() == [
        3,
        2,
    ]


def test_crystals_survive_a_batch(crystals: Crystals) -> None:
    back = Batch.from_crystals(crystals, torch.float64).to_crystals(crystals.ids)
    assert np.array_equal(back.atomic_numbers, crystals.atomic_numbers)
    assert np.array_equal(back.frac_coords, crystals.frac_coords)
    assert np.array_equal(back.lattices, crystals.lattices)
