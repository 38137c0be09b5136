"""CUDA graphs on a GPU: recorded work gives what the same operations give one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sets import random_crystals
from torch.nn.functional import layer_norm

from crysgen.graphs import Captured
from crysgen.graphs.stepwise import StepGraphs
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.models.targets import Target
from crysgen.networks.normalised import _kernels, normalised
from crysgen.training.batch import Batch
from crysgen.training.fabric import launch
from crysgen.training.graphs import GraphSteps
from crysgen.training.settings import TrainingSettings
from crysgen.training.trainer import Trainer

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CONFIG = GemsDiffConfig(
    network="pairformer",
    network_settings={"channels": 32, "layers": 2, "heads": 4, "radial": 8, "k": 16},
    standardize_lattice=True,
    cell_decoder="residual",
    lattice_loss="vector",
    position_loss="scaled",
    position_output="scaled",
    lattice_process="flow",
    position_process="flow",
    coupling=True,
    self_conditioning=True,
    dropout=0.1,
)
SETTINGS = TrainingSettings(steps=6, batch_atoms=80, val_steps=3, val_draws=1, warmup_steps=2)


def trained(folder: Path) -> Trainer:
    crystals = random_crystals(60)
    fabric = launch("cuda", 1, "32-true")
    run = Trainer(
        GemsDiff,
        CONFIG,
        replace(SETTINGS, learning_rate=1e-3),
        folder,
        crystals[:50],
        crystals[50:],
        fabric=fabric,
        graphs=True,
    )
    assert isinstance(run.open_steps(), GraphSteps)
    run.run(stop_after=5)
    return run


def test_recorded_training_gives_the_weights_of_the_same_steps_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = trained(tmp_path / "recorded")
    monkeypatch.setattr(Captured, "_record", lambda self, pool: None)
    one_by_one = trained(tmp_path / "one by one")
    assert recorded.step == one_by_one.step == 5
    expected = one_by_one.model.state_dict()
    for name, weights in recorded.model.state_dict().items():
        torch.testing.assert_close(weights, expected[name], rtol=1e-3, atol=3e-5)
    averages = one_by_one.average.module.state_dict()
    for name, weights in recorded.average.module.state_dict().items():
        torch.testing.assert_close(weights, averages[name], rtol=1e-3, atol=3e-5)


def test_recorded_steps_of_sampling_give_the_same_crystals() -> None:
    torch.manual_seed(0)
    config = GemsDiff.fitted(CONFIG, Batch.from_crystals(random_crystals(8), torch.float32))
    model = GemsDiff(replace(config, dropout=0.0)).cuda().eval()
    targets = [Target(i, atoms) for i, atoms in enumerate([(3, 8, 8), (11, 17), (22, 8, 8, 56)])]
    graphs = StepGraphs(model)
    made = graphs.sample(targets, 12)
    assert len(graphs._steps) == 1
    again, expected = graphs.sample(targets, 12), model.sample(targets, 12)
    assert torch.equal(made.atomic_numbers, expected.atomic_numbers)
    torch.testing.assert_close(again.frac_coords, made.frac_coords)
    torch.testing.assert_close(made.lattices, expected.lattices, rtol=1e-3, atol=1e-3)
    gap = made.frac_coords - expected.frac_coords
    assert (gap - gap.round()).abs().max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 16), (7, 3, 96), (5000, 130)])
def test_norms_in_one_pass_are_those_of_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    assert _kernels() is not None
    values = torch.randn(shape, device="cuda").to(dtype).requires_grad_()
    exact = values.detach().double().requires_grad_()
    found, expected = normalised(values, 1e-5), layer_norm(exact, shape[-1:], eps=1e-5)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected.backward(gradient.double())
    rough = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, rtol=rough, atol=rough)
    torch.testing.assert_close(values.grad.double(), exact.grad, rtol=rough, atol=3 * rough)
