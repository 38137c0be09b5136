"""CrysLDM: sampling by seeds, steps and commands, and what the model chooses."""

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
from small_crysldm import CONFIG, FLOW, FORMS, SMALL, crystals_of, model_of, seeded

from crysgen.cli import main
from crysgen.graphs import tensors_of
from crysgen.graphs.stepwise import StepGraphs
from crysgen.models.base import Noises, Prepares, Stepwise, refuse_targets
from crysgen.models.crysldm import CrysLDM
from crysgen.models.crysldm_config import CrysLDMConfig
from crysgen.models.targets import Target
from crysgen.requests import Draw
from crysgen.sampling import plan_batches
from crysgen.training.batch import Batch, pad_atomic_numbers

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")


def chemistry(batch: Batch) -> list[tuple[list[int], np.ndarray]]:
    return [
        (sorted(one.atomic_numbers.tolist()), one.lattices[0] @ one.lattices[0].T)
        for one in batch.to_crystals()
    ]


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


def test_protocols() -> None:
    model = CrysLDM(CONFIG)
    assert isinstance(model, Prepares)
    assert isinstance(model, Stepwise)
    assert isinstance(model, Noises)


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
