"""Steps that a CUDA graph can hold, and sampling with them; what needs no GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_gpu import Watch, on_fake_gpu, without_autocast
from sets import random_crystals
from small_gemsdiff import SMALL

import crysgen.networks.neighbours
from crysgen.graphs.stepwise import StepGraphs
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.models.targets import Target
from crysgen.networks.neighbours import without_waiting
from crysgen.training.batch import Batch
from crysgen.training.optimizer import Muon

OURS = {**SMALL, "lattice_power": 4.0, "position_power": 2.0}
FLOW = {**OURS, "position_power": None, "position_process": "flow"}
KINDS = {
    "paper": {"network_settings": {"channels": 8, "edge_channels": 8, "layers": 1, "k": 8}},
    "posterior": {
        "network_settings": {"channels": 8, "edge_channels": 8, "layers": 1, "k": 8},
        "lattice_loss": "posterior",
        "cell_decoder": "noisy",
    },
    "ours": OURS,
    "coupled": {**OURS, "coupling": True, "dropout": 0.1},
    "score": {
        **OURS,
        "position_power": None,
        "position_process": "score",
        "position_output": "scaled",
        "corrector": 0.4,
    },
    "flow": {**FLOW, "lattice_power": None, "lattice_process": "flow", "coupling": True},
    "self-conditioning": {**FLOW, "self_conditioning": True},
    "cspnet": {
        **FLOW,
        "network": "cspnet",
        "network_settings": {"channels": 16, "layers": 2, "radial": 6},
    },
}
TARGETS = [Target(5, (3, 8, 8)), Target(6, (11, 17)), Target(7, (22, 8, 8, 8, 56, 3))]
GROUPED = [replace(one, space_group=n) for one, n in zip(TARGETS, (12, 225, 8), strict=True)]


def model_of(values) -> GemsDiff:
    torch.manual_seed(0)
    batch = Batch.from_crystals(random_crystals(8), torch.float64)
    config = GemsDiff.fitted(GemsDiffConfig(**values), batch)
    return GemsDiff(config).double()


@pytest.mark.parametrize(
    ("kind", "targets"), [*((kind, TARGETS) for kind in KINDS), ("score", GROUPED)]
)
def test_nothing_in_training_or_sampling_waits_for_the_device(kind, targets, monkeypatch):
    model = model_of(KINDS[kind])
    batch = Batch.from_crystals(random_crystals(6), torch.float64)
    prepared = model.prepare(batch, torch.Generator().manual_seed(0), "model")
    state, way = model.begin(targets, 4)
    model.to("meta")
    without_autocast(monkeypatch)
    prepared, state, inputs = map(on_fake_gpu, (prepared, state, way[0]))
    rate = torch.empty((), device="meta")
    with Watch():
        model.prepared_loss(prepared, "model")["loss"].backward()
        gradients = [p for p in model.parameters() if p.grad is not None]
        muon = Muon([p for p in gradients if p.ndim == 2], rate, 0.1)
        muon.step()
    with without_waiting() as flags, Watch():
        after = model.step(state, inputs)
    assert after.frac_coords.shape == state.frac_coords.shape
    searches = {"gemsnet": 1, "pairformer": 2, "cspnet": 0}[model.config.network]
    assert len(flags) == searches * (2 if kind == "score" else 1)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.nonzero(),
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: torch.linalg.inv(x),
        lambda x: x + torch.zeros(3, 3),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    ],
)
def test_what_waits_is_found(wait):
    tensor = torch.empty(3, 3, device="meta")
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), Watch():
        wait(tensor)


@pytest.mark.parametrize(
    ("kind", "targets"), [("ours", TARGETS), ("self-conditioning", TARGETS), ("ours", GROUPED)]
)
def test_steps_by_graphs_sample_what_the_model_samples(kind, targets):
    model = model_of(KINDS[kind])
    graphs = StepGraphs(model)
    told = []
    for steps in (5, 3):
        expected = model.sample(targets, steps)
        found = graphs.sample(targets, steps, lambda done, total: told.append((done, total)))
        assert torch.equal(found.atomic_numbers, expected.atomic_numbers)
        torch.testing.assert_close(found.lattices, expected.lattices)
        torch.testing.assert_close(found.frac_coords, expected.frac_coords)
    assert told == [(i, 5) for i in range(1, 6)] + [(i, 3) for i in range(1, 4)]
    assert len(graphs._steps) == 1  # of one shape


def test_crystals_that_one_search_does_not_suit_are_drawn_again(monkeypatch):
    model = model_of(OURS)
    expected = model.sample(TARGETS, 3)
    monkeypatch.setattr(crysgen.networks.neighbours, "_FEW_IMAGES", 0.15)
    again = []
    sample = model.sample
    monkeypatch.setattr(model, "sample", lambda some, *rest: again.append(some) or sample(some, 3))
    found = StepGraphs(model).sample(TARGETS, 3)
    assert again
    torch.testing.assert_close(found.lattices, expected.lattices)
    torch.testing.assert_close(found.frac_coords, expected.frac_coords)


def test_cells_that_ran_away_are_left_to_whoever_asked(monkeypatch):
    model = model_of({**OURS, "farthest_cell": 1e-6})
    monkeypatch.setattr(crysgen.networks.neighbours, "_FEW_IMAGES", 0.15)
    monkeypatch.setattr(model, "sample", None)
    assert StepGraphs(model).sample(TARGETS, 3).lattices.isnan().all()


def test_other_sampling_settings_are_another_graph():
    model = model_of(OURS)
    graphs = StepGraphs(model)
    first = graphs.sample(TARGETS, 3)
    model.config = replace(model.config, anti_annealing=3.0)
    assert not torch.equal(graphs.sample(TARGETS, 3).frac_coords, first.frac_coords)
    torch.testing.assert_close(
        graphs.sample(TARGETS, 3).frac_coords, model.sample(TARGETS, 3).frac_coords
    )
