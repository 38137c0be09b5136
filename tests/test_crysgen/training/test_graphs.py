"""Steps as CUDA graphs: without a GPU everything but the recording is the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sets import random_crystals
from small_gemsdiff import SMALL

from crysgen.graphs import Captured, map_tensors, part_of, tensors_of
from crysgen.models.base import Prepares
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.training.classes import ClassOrder, size_classes
from crysgen.training.graphs import GraphSteps, steps_of
from crysgen.training.optimizer import GeneratorOptimizer
from crysgen.training.prefetch import PreparedBatches
from crysgen.training.settings import TrainingSettings
from crysgen.training.steps import EagerSteps
from crysgen.training.trainer import Trainer
from crysmetrics.errors import UserError
from crysmetrics.weight_average import warm_average

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")

CONFIG = GemsDiffConfig(**SMALL)
SETTINGS = TrainingSettings(steps=6, batch_atoms=40, val_steps=3, val_draws=1, warmup_steps=2)


def trainer(folder: Path, graphs: bool | None = True, **changes) -> Trainer:
    crystals = random_crystals(24)
    settings = replace(SETTINGS, **changes)
    return Trainer(GemsDiff, CONFIG, settings, folder, crystals[:20], crystals[20:], graphs=graphs)


def weights_of(run: Trainer) -> dict[str, torch.Tensor]:
    return {**run.model.state_dict(), **run.average.module.state_dict(prefix="average.")}


def test_steps_by_graphs_are_those_of_the_eager_trainer(tmp_path: Path) -> None:
    """The same prepared batches through Fabric's backward pass, clipping and average."""
    by_graphs, eager = trainer(tmp_path / "graphs"), trainer(tmp_path / "eager", graphs=False)
    by_graphs.run(stop_after=5)
    order = ClassOrder(eager.train.num_atoms, SETTINGS.batch_atoms, SETTINGS.seed)
    batches = iter(PreparedBatches(eager.model, "model", eager.train, order, SETTINGS.seed))
    losses = []
    for _ in range(5):
        _, prepared = next(batches)
        eager.optimizer.param_groups[0]["lr"] = eager.learning_rate
        loss = eager.model.prepared_loss(prepared, "model")["loss"]
        losses.append(loss.item())
        eager.fabric.backward(loss)
        eager.fabric.clip_gradients(eager.objective, eager.optimizer, max_norm=SETTINGS.clip)
        eager.optimizer.step()
        eager.optimizer.zero_grad()
        eager.average.update_parameters(eager.model)
        eager.step += 1
    assert eager.average.n_averaged == by_graphs.average.n_averaged == 6
    for name, weights in weights_of(eager).items():
        torch.testing.assert_close(weights_of(by_graphs)[name], weights, rtol=1e-5, atol=1e-7)
    fresh = weights_of(trainer(tmp_path / "fresh", graphs=False))
    moved = [not torch.equal(fresh[name], weights_of(by_graphs)[name]) for name in fresh]
    assert sum(moved) > len(moved) / 2
    assert len(set(losses)) == 5


def test_a_run_by_graphs_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()
    trainer(tmp_path / "broken").run(stop_after=4)
    resumed = trainer(tmp_path / "broken")
    resumed.resume()
    resumed.run()
    assert resumed.step == whole.step == 6
    assert resumed.epoch == whole.epoch > 0
    assert resumed.best == whole.best
    for name, weights in weights_of(whole).items():
        assert torch.equal(weights, weights_of(resumed)[name]), name


def test_recording_leaves_weights_moments_and_average_as_they_were(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.run(stop_after=2)
    before = copy.deepcopy(weights_of(run)), copy.deepcopy(run._tensors())
    GraphSteps(run).close()
    for name, weights in before[0].items():
        assert torch.equal(weights, weights_of(run)[name])
    for kind, tensors in before[1].items():
        assert all(torch.equal(tensors[name], run._tensors()[kind][name]) for name in tensors)


def test_the_eager_steps_are_taken_where_graphs_can_t_be(tmp_path: Path) -> None:
    assert isinstance(steps_of(trainer(tmp_path), None), EagerSteps)  # no GPU
    run = trainer(tmp_path)
    run.compiled = True
    with pytest.raises(UserError, match="compiled"):
        steps_of(run, True)
    assert isinstance(run.model, Prepares)


def test_batches_made_ahead_are_those_made_in_time(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    order = ClassOrder(run.train.num_atoms, 40, 0, block=4)
    in_time = iter(PreparedBatches(run.model, "model", run.train, order, 0))
    expected = [next(in_time) for _ in range(9)]
    with PreparedBatches(run.model, "model", run.train, order, 0, ahead=True) as ahead:
        found = iter(ahead)
        for k, prepared in expected:
            other, made = next(found)
            assert other == k
            pairs = zip(tensors_of(prepared), tensors_of(made), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    for k, prepared in PreparedBatches(run.model, "model", run.train, order, 0, first=6):
        assert k == expected[6][0]
        pairs = zip(tensors_of(prepared), tensors_of(expected[6][1]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        break


def test_what_fails_in_the_thread_is_raised(tmp_path: Path, monkeypatch) -> None:
    run = trainer(tmp_path)
    order = ClassOrder(run.train.num_atoms, 40, 0)

    def fail(*args):
        raise ValueError("no noise today")

    monkeypatch.setattr(run.model, "prepare", fail)
    with (
        PreparedBatches(run.model, "model", run.train, order, 0, ahead=True) as ahead,
        pytest.raises(RuntimeError, match="no noise today"),
    ):
        next(iter(ahead))


def test_every_part_has_its_steps_spread_evenly(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    batch = run.train.batch(np.arange(20))
    prepared = run.model.prepare(batch, torch.Generator().manual_seed(0), "model", 2)
    for part in (part_of(prepared, 0, 10), part_of(prepared, 10, 20)):
        assert sorted(((part.steps - 1) // 10).tolist()) == list(range(10))


def test_classes_hold_every_crystal_once_and_are_not_too_wide() -> None:
    rng = np.random.default_rng(0)
    sizes = np.concatenate([[1, 2, 2, 40], rng.integers(5, 21, 4000)])
    classes = size_classes(sizes, 1024)
    rows = np.concatenate([c.rows for c in classes])
    assert sorted(rows.tolist()) == list(range(len(sizes)))
    for c in classes:
        assert sizes[c.rows].max() == c.size
        assert c.size <= max(6, 2 * sizes[c.rows].min())
        assert c.count == max(1, 1024 // c.size)


def test_crystals_are_equally_frequent_in_the_order_of_classes() -> None:
    sizes = np.repeat([3, 8, 20], [300, 900, 400])
    order = ClassOrder(sizes, 200, seed=3, block=16)
    seen = np.zeros(len(sizes), dtype=int)
    blocks = order.blocks()
    taken = 0
    for _ in range(120):
        block = next(blocks)
        for k, rows in block.rows.items():
            assert rows.shape == ((block.order == k).sum(), order.classes[k].count)
            np.add.at(seen, rows.reshape(-1), 1)
        taken += 16
    assert order.crystals_before(taken) == seen.sum()
    for size in (3, 8, 20):
        of_size = seen[sizes == size]
        assert of_size.max() - of_size.min() <= 1
        assert of_size.mean() == pytest.approx(seen.mean(), rel=0.05)
    later = next(order.blocks(16 * 7 + 3))
    again = order.blocks()
    same = [next(again) for _ in range(8)][-1]
    assert (later.number, later.order.tolist()) == (7, same.order.tolist())
    assert all((later.rows[k] == same.rows[k]).all() for k in same.rows)


def test_muon_in_stacks_is_that_of_pytorch() -> None:
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(
                [torch.nn.Linear(8, 12), torch.nn.Linear(8, 12), torch.nn.Linear(12, 4)]
            )
            self.unused = torch.nn.ModuleList([torch.nn.Linear(8, 12)])

    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    rest = [p for p in theirs.parameters() if p.ndim < 2]
    optimizer = GeneratorOptimizer(ours, list(ours.parameters()), 1e-2, 0.01, 2.0)
    peers = (
        torch.optim.Muon(matrices, lr=2e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.0),
    )
    for _ in range(20):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if not name.startswith("unused"):
                p.grad = torch.randn_like(p)
                q.grad = p.grad.clone()
        optimizer.step()
        for peer in peers:
            peer.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-4, msg=name)


def test_without_a_gpu_a_captured_function_is_called_each_time() -> None:
    def double(inputs):
        return (2 * inputs[0], (inputs[1][0] + 1,))

    example = (torch.ones(3), (torch.zeros(2, dtype=torch.long),))
    captured = Captured(double, example)
    found = captured((torch.full((3,), 5.0), (torch.arange(2),)))
    assert found[0].tolist() == [10, 10, 10]
    assert found[1][0].tolist() == [1, 2]
    assert example[0].tolist() == [1, 1, 1]


def test_trees_keep_their_form(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    batch = run.train.batch(np.arange(4))
    prepared = run.model.prepare(batch, None, "model")
    doubled = map_tensors(lambda tensor: tensor * 2, prepared)
    assert type(doubled) is type(prepared)
    assert torch.equal(doubled.neighbours.atoms.vectors, 2 * prepared.neighbours.atoms.vectors)
    assert len(tensors_of(prepared)) == len(tensors_of(doubled)) > 10


def test_the_average_of_graphs_is_the_project_s(tmp_path: Path) -> None:
    run = trainer(tmp_path, ema=0.6)
    steps = GraphSteps(run)
    expected = [p.detach().clone() for p in run.average.module.parameters()]
    for count in range(1, 4):
        steps.take()
        run.step += 1
        warm_average(0.6)(expected, [p.detach() for p in run.model.parameters()], count)
    steps.close()
    for found, right in zip(run.average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(found, right)
