"""The interface of models: a second kind goes all the way without a change elsewhere."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_model
import torch
from click.testing import CliRunner
from fake_model import FakeModel, use
from sets import random_crystals

import crysgen
from crysgen import release
from crysgen.checkpoints import DEFAULT_MODEL, load_model, model_identity, save_model
from crysgen.cli import main
from crysgen.compositions.formulas import parse_formula
from crysgen.models import MODELS, model_class
from crysgen.models.base import Noises, refuse_targets
from crysgen.models.targets import Target
from crysgen.proposers.model import ModelSamples
from crysgen.requests import Draw, ask_formulas
from crysgen.sampling import ATTEMPTS, sample
from crysgen.settings import Resources, SamplingSettings
from crysgen.training.batch import Batch
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals
from crysmetrics.io.json_files import read_json_object

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the second kind of model, trained by the command."""
    folder = tmp_path_factory.mktemp("tiny")
    random_crystals(40, seed=3).save(folder / "data.npz")
    training = {
        "learning_rate": 0.1,
        "val_steps": 5,
        "warmup_steps": 1,
        "stages": {
            "elements": {"share": 2, "val_steps": 10, "learning_rate": 0.5},
            "volumes": {"batch_atoms": 30},
        },
    }
    (folder / "config.json").write_text(json.dumps({"model": {"width": 5}, "training": training}))
    with pytest.MonkeyPatch.context() as patch:
        tiny_model.register(patch)
        train = ["train", "tiny", "--data", str(folder / "data.npz"), "-o", str(folder / "run")]
        options = ["--config", str(folder / "config.json"), "--steps", "60", "--device", "cpu"]
        result = CliRunner().invoke(main, [*train, *options])
        assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model.register(monkeypatch)


def run(*args: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(args))
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


def draw(number: int, target: Target) -> Draw:
    return Draw(number, 0, target, number, 0)


def test_stages_follow_each_other_and_share_the_budget(tiny: Path) -> None:
    rows = [line.split(",") for line in (tiny / "log.csv").read_text().splitlines()]
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}
    assert columns["stage"] == ["elements"] * 4 + ["volumes"] * 4
    assert columns["step"] == ["10", "20", "30", "40", "45", "50", "55", "60"]
    assert all(x == "" for x in columns["volume_error"][:4])
    assert all(float(x) >= 0 for x in columns["volume_error"][4:])
    assert all(float(x) > 0 for x in columns["surprise"][:4])
    assert float(columns["val"][3]) < float(columns["val"][0])
    assert float(columns["val"][-1]) < float(columns["val"][4])
    first, last = (read_json_object(tiny / f"{n}.json") for n in ("best.elements", "best"))
    assert first["kind"] == last["kind"] == "tiny"
    assert "surprise" in first["progress"]["val_loss"]
    assert "volume_error" in last["progress"]["val_loss"]


@pytest.mark.usefixtures("known")
def test_a_stage_leaves_alone_what_others_trained(tiny: Path) -> None:
    first, last = load_model(tiny / "best.elements.safetensors"), load_model(tiny)
    assert torch.equal(first.logits, last.logits)
    assert not torch.equal(first.volumes[1].weight, last.volumes[1].weight)
    assert last.config.mean_volume > 1


@pytest.mark.usefixtures("known")
def test_what_a_model_draws_itself_is_what_comes_out(tiny: Path) -> None:
    model = load_model(tiny)
    targets = [Target(seed, num_atoms=2 + seed % 5) for seed in range(12)]
    wanted = [draw(i, target) for i, target in enumerate(targets)]
    (whole,) = sample(model, [wanted])
    parts = list(sample(model, [wanted[:5], wanted[5:]]))
    assert not whole.failures
    assert whole.num_atoms.tolist() == [target.num_atoms for target in targets]
    elements = set(whole.atomic_numbers.tolist())
    assert elements <= set(random_crystals(40, seed=3).atomic_numbers.tolist())
    assert len(elements) > 3
    hashes = dict(zip(whole.ids, whole.content_hashes(), strict=True))
    assert hashes == {
        name: digest
        for part in parts
        for name, digest in zip(part.ids, part.content_hashes(), strict=True)
    }


@pytest.mark.usefixtures("known")
def test_commands_say_what_a_kind_of_model_can_not_do(tiny: Path, tmp_path: Path) -> None:
    model = ["--model", str(tiny), "--device", "cpu", "--quiet"]
    one = ["sample", "--composition", "Li2O", "-n", "1", "-o", str(tmp_path / "out"), *model]
    text = run(*one, "--method", "diffusion", "--no-energies", status=2)
    assert "kind tiny can't be told the atoms" in text
    assert not (tmp_path / "out" / "samples.csv").exists()
    random_crystals(2).save(tmp_path / "two.npz")
    noise = ["noise", str(tmp_path / "two.npz"), "--step", "1", "-o", str(tmp_path / "noised")]
    assert "kind tiny has no forward process" in run(*noise, *model, status=2)
    assert not isinstance(load_model(tiny), Noises)
    with pytest.raises(UserError, match="must be told the number of atoms"):
        refuse_targets(load_model(tiny), [Target(0, space_group=225)])


@pytest.mark.usefixtures("known")
def test_train_lists_the_kinds_of_models() -> None:
    text = run("train", "--help")
    assert all(kind in text for kind in MODELS)
    assert "Train a model of kind tiny" in run("train", "tiny", "--help")
    help_text = run("train", "gemsdiff", "--help")
    assert all(name in help_text for name in ("default", "gpu", "gpu-path", "paper"))
    assert "No such command 'other'" in run("train", "other", status=2)


@pytest.mark.usefixtures("known")
def test_a_released_model_has_a_card_and_samples_as_it_was_told(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"metrics": {"validity": {"value": 0.5}, "fad": {"value": 1.25, "stderr": 0.5}}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    shelf = tmp_path / "data" / "models"
    command = [str(tiny), "--name", "tiny-v1", "--hardware", "one core", "--about", "nothing"]
    command += ["--metrics", str(tmp_path / "metrics.json"), "--folder", str(shelf)]
    release.main([*command, "--set", "disorder=0", "--sources", "Random crystals (CC0)."])
    monkeypatch.setattr("crysgen.checkpoints.user_models", lambda: shelf)
    assert "tiny-v1" in run("models")
    card = run("models", "tiny-v1")
    for text in (
        "Nobody et al.",
        "one core",
        "Random crystals (CC0).",
        "1.25",
        "num atoms, space group",
    ):
        assert text in card
    model = load_model("tiny-v1")
    assert model.config.disorder == 0
    same = [Target(seed, num_atoms=1) for seed in range(20)]
    made = model.sample(same)
    volumes = {
        int(z): round(float(v), 3)
        for z, v in zip(made.atomic_numbers[:, 0], torch.linalg.det(made.lattices), strict=True)
    }
    again = model.sample(same[::-1])
    assert all(
        round(float(v), 3) == volumes[int(z)]
        for z, v in zip(again.atomic_numbers[:, 0], torch.linalg.det(again.lattices), strict=True)
    )
    for change, message in (
        (["--set", "width=3"], "no setting of sampling"),
        (["--set", "disorder=much"], "NAME=VALUE"),
        (["--set", "disorder=NaN"], "must be finite"),
        ([], "never changes"),
    ):
        name = [] if not change else ["--name", "tiny-v2"]
        with pytest.raises(SystemExit, match=message):
            release.main([*command, *name, *change])
    assert not (shelf / "tiny-v2.safetensors").exists()


def test_the_kind_on_a_card_decides_what_is_loaded(tmp_path: Path, known: None) -> None:
    model = model_class("tiny")(tiny_model.TinyConfig(mean_volume=10.0))
    path = tmp_path / "m.safetensors"
    save_model(model, path, {})
    assert isinstance(load_model(path), tiny_model.Tiny)
    identity = model_identity(path)
    card = read_json_object(path.with_suffix(".json"))
    changed = card | {"config": card["config"] | {"disorder": 0.5}}
    path.with_suffix(".json").write_text(json.dumps(changed))
    assert model_identity(path)["weights_sha256"] == identity["weights_sha256"]
    assert model_identity(path) != identity
    for other, message in (
        ({"kind": "gemsdiff"}, "does not fit"),
        ({"config": {"width": 10**400}}, "width must be below"),
        ({"config": [[[]]]}, "settings must be an object"),
    ):
        path.with_suffix(".json").write_text(json.dumps(card | other))
        with pytest.raises(InputError, match=message):
            load_model(path)
    path.with_suffix(".json").write_text(json.dumps(card | {"kind": ["x"]}))
    with pytest.raises(UserError, match="no kind of model"):
        load_model(path)
    path.with_suffix(".json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        load_model(path)


class Merging(FakeModel):
    """A model that makes something of its own of what it is asked for."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def sample(self, targets, steps=None, on_step=None):
        batch = super().sample(targets, steps, on_step)
        numbers = torch.tensor([self.made] * len(targets))
        frac = torch.rand(len(targets), len(self.made), 3)
        return Batch(numbers, frac, batch.lattices)


def test_merged_sites_and_padding_anywhere_are_heard_and_other_compositions_refused() -> None:
    wanted = [draw(0, Target(5, (3, 3, 8, 3, 3, 8)))]
    (kept,) = sample(Merging([3, 0, 8, 3, 0]), [wanted])
    assert kept.atomic_numbers.tolist() == [3, 8, 3]
    assert not kept.failures
    (refused,) = sample(Merging([3, 8, 8]), [wanted])
    assert len(refused) == 0
    (failure,) = refused.failures
    assert "another composition than was asked for" in failure.reason
    assert failure.reason.endswith(f"after {ATTEMPTS} draws")
    (empty,) = sample(Merging([0, 0]), [wanted])
    assert "no atoms" in empty.failures[0].reason


class Told(FakeModel):
    """A model that can be told a space group, and remembers what it was told."""

    accepts = frozenset({"atomic_numbers", "space_group"})
    requires = frozenset({"atomic_numbers"})

    def __init__(self):
        super().__init__()
        self.groups = set()

    def sample(self, targets, steps=None, on_step=None):
        self.groups |= {target.space_group for target in targets}
        return super().sample(targets, steps, on_step)


@pytest.mark.parametrize("kind", MODELS)
def test_sampling_takes_more_steps_than_training_had(kind: str) -> None:
    model = load_model(kind)
    told = "atomic_numbers" in model.accepts
    taken: list[tuple[int, int]] = []
    steps = model.num_steps + 30
    made = model.sample(
        [Target(3, (11, 17) if told else None)], steps, lambda *done: taken.append(done)
    )
    assert taken == [(done, steps) for done in range(1, steps + 1)]
    crystals = made.to_crystals()
    assert not crystals.failures
    volume = abs(np.linalg.det(crystals.lattices[0])) / crystals.num_atoms[0]
    assert 3 < volume < 100


@pytest.mark.parametrize("accepts", [True, False])
def test_a_space_group_is_told_to_models_that_accept_it(
    accepts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Told()
    if not accepts:
        model.accepts = model.requires
    name = use(monkeypatch, tmp_path, model)
    asked = ask_formulas([parse_formula("NaCl")], 3, (1,))
    settings = SamplingSettings(model=name, method="diffusion", space_group=225)
    proposer = ModelSamples(asked, settings, Resources(device="cpu", workers=1))
    proposer.prepare()
    made = Crystals.concatenate(list(proposer.run(proposer.pieces(), lambda count: None)))
    assert len(made) == 3
    assert model.groups == {225 if accepts else None}


def words_of(path: Path) -> set[str]:
    """Names that code uses or imports; docstrings and comments are free to cite a paper."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found |= {node.name, node.name.rpartition(".")[2]}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and (" " not in node.value)
        ):
            found |= {node.value, *re.split(r"[^\w.]+", node.value)} - {""}
    return found


def test_only_the_file_of_a_model_names_its_classes() -> None:
    """And the table, which has the class as text."""
    package = Path(crysgen.__file__).parent
    for place in MODELS.values():
        module, _, name = place.partition(":")
        source = package.parent / (module.replace(".", "/") + ".py")
        classes = [
            n for n in ast.parse(source.read_text("utf-8")).body if isinstance(n, ast.ClassDef)
        ]
        own = {node.name for node in classes if not node.name.startswith("_")} | {module}
        assert name in own
        for path in sorted({*package.rglob("*.py")} - {source, package / "models/__init__.py"}):
            assert not own & words_of(path), f"{path} names {own & words_of(path)}"


def test_one_file_knows_the_default_model() -> None:
    package = Path(crysgen.__file__).parent
    holders = [path.name for path in package.rglob("*.py") if DEFAULT_MODEL in words_of(path)]
    assert holders == ["checkpoints.py"]
