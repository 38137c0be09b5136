"""A metric is one file: everything else follows from what it declares."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sets import random_crystals

import crysmetrics
from crysmetrics import metrics
from crysmetrics.cli import main
from crysmetrics.cli.families import family_command
from crysmetrics.errors import UserError
from crysmetrics.evaluation import as_sample
from crysmetrics.io import write
from crysmetrics.metrics import registry
from crysmetrics.metrics.registry import all_measures, family, family_names, find_measures
from crysmetrics.protocols import plan
from crysmetrics.streaming import evaluate_stream

SEEN_BEFORE = '''
"""Whether structures are those of the training set."""

from __future__ import annotations

import numpy as np

from crysmetrics.metrics.base import Measure, Metric, Outcome
from crysmetrics.metrics.intervals import share


def seen_before(gen, train, settings):
    """Share of structures whose composition the training set has.

    Failures count as new.
    """
    seen = _seen(gen, train)
    return Outcome({"seen_before": _value(seen.sum(), gen.crystals.num_total)}, {"seen": seen})


class SeenParts:
    def __init__(self, train, settings):
        self.train, self.count = train, 0

    def update(self, part):
        seen = _seen(part.sample, self.train)
        self.count += int(seen.sum())
        return {"seen": seen}

    def compute(self, total):
        return Outcome({"seen_before": _value(self.count, total)})


def _seen(gen, train):
    known = {tuple(row) for row in train.crystals.element_counts.tolist()}
    return np.array([tuple(row) in known for row in gen.crystals.element_counts.tolist()])


def _value(count, total):
    return share(int(count), total, n_gen=total)


MEASURE = Measure(
    "seen_before",
    15,
    (Metric("seen_before", "Seen before", "share", "lower", "a test", biased=False, gated=True),),
    seen_before,
    roles=("gen", "train"),
    settings=("seed",),
    accumulator=SeenParts,
)
'''


@pytest.fixture
def one_more(tmp_path, monkeypatch):
    """The package of metrics with one file more."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "seen_before.py").write_text(SEEN_BEFORE)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
    for cached in (family_names, registry._sources, family):
        cached.cache_clear()
    monkeypatch.setitem(main.commands_in, "seen-before", "crysmetrics.cli.families")
    yield
    monkeypatch.undo()
    sys.modules.pop("crysmetrics.metrics.seen_before", None)
    for cached in (family_names, registry._sources, family):
        cached.cache_clear()


@pytest.fixture
def sets(tmp_path):
    crystals = random_crystals(9, 1)
    gen = crystals[[0, 1, 2, 3, 4]].with_failures([("lost.cif", "is empty")])
    return gen, random_crystals(6, 2), crystals[[3, 4, 5, 6]]


def test_one_file_is_a_function_a_command_and_a_part_of_evaluations(one_more, sets, tmp_path):
    gen, ref, train = sets
    report = crysmetrics.seen_before(gen, train)
    assert report["seen_before"] == pytest.approx(2 / 6)
    assert set(report.inputs) == {"gen", "train"}
    assert "seen_before" in dir(crysmetrics)
    assert list(inspect.signature(crysmetrics.seen_before).parameters) == [
        "gen",
        "train",
        "options",
    ]
    assert report.per_structure["gen"].seen.tolist() == [False] * 3 + [True] * 2 + [False]

    for name, crystals in (("gen", gen), ("ref", ref), ("train", train)):
        write(crystals, tmp_path / name)
    (tmp_path / "gen" / "lost.cif").write_text("")
    (tmp_path / "train" / "lost.cif").write_text("")
    paths = [str(tmp_path / name) for name in ("gen", "train")]
    result = CliRunner().invoke(main, ["seen-before", *paths, "--json", "-"])
    document = json.loads(result.stdout)
    assert document["metrics"]["seen_before"]["value"] == pytest.approx(2 / 6)
    assert document["settings"]["seed"] == 0
    assert "1 of 5 training structures failed; they are left out" in result.stderr
    text = CliRunner().invoke(main, ["seen-before", "--help"]).output
    assert "Share of structures whose composition the training set has" in text
    assert "GEN TRAIN" in text
    assert "--seed" in text

    assert "seen_before" not in plan().metrics  # nobody gave a training set
    whole = crysmetrics.evaluate(gen, ref, train=train, metrics=["validity", "seen_before"])
    assert list(whole.metrics) == ["validity", "seen_before"]
    assert "<dt>training</dt>" in whole.to_html()
    assert "seen_before" in plan(roles=("gen", "ref", "train")).metrics
    with pytest.raises(UserError, match="needs a training set"):
        crysmetrics.evaluate(gen, ref, metrics=["seen_before"])
    gen.with_failures(()).save(tmp_path / "gen.npz")
    chosen = plan(metrics=["seen_before"], roles=("gen", "ref", "train"))
    streamed = evaluate_stream(
        chosen,
        str(tmp_path / "gen.npz"),
        as_sample(ref, "ref"),
        part=2,
        train=as_sample(train, "train"),
    )
    assert streamed["seen_before"] == pytest.approx(2 / 5)


def test_declarations_in_the_source_are_those_of_the_modules():
    for name in family_names():
        declared = family(name)
        measures = registry.measures_of(name)
        assert declared.text.strip()
        command = main.get_command(None, name)
        assert command is not None
        if command.callback.__module__ != "crysmetrics.cli.families":
            continue  # has options of its own
        for part in ("roles", "features", "settings"):
            found = dict.fromkeys(p for measure in measures for p in getattr(measure, part))
            if name not in ("emd", "coverage", "frechet"):
                assert getattr(declared, part) == tuple(found), (name, part)


def test_measures_are_named_after_their_family_and_have_places_of_their_own():
    measures = all_measures()
    for name in family_names():
        for measure in registry.measures_of(name):
            assert measure.name == name or measure.name.startswith(f"{name}_")
            assert find_measures([measure.name]) == [measure]
    positions = [measure.position for measure in measures.values()]
    assert positions == sorted(set(positions))
    with pytest.raises(UserError, match="no metrics 'nothing'"):
        find_measures(["nothing"])


def test_every_family_that_needs_no_pairs_or_order_can_be_accumulated():
    missing = {name for name, measure in all_measures().items() if measure.accumulator is None}
    assert missing == {"uniqueness", "sun", "match"}


def test_one_metric_imports_no_other(tmp_path):
    write(random_crystals(4, 1), tmp_path / "gen")
    code = (
        "import sys, crysmetrics\n"
        "report = crysmetrics.{call}\n"
        "report.to_json()\n"
        "prefixes = ('crysmetrics.metrics.', 'crysmetrics.matching.')\n"
        "print(sorted(m for m in sys.modules if m.startswith(prefixes)))\n"
    )
    path = repr(str(tmp_path / "gen"))
    for call, absent in (
        (f"fad({path}, {path}, cache='off', workers=1)", ("coverage", "match", "uniqueness")),
        (f"validity({path})", ("coverage", "fad", "match", "frechet")),
    ):
        program = code.replace("{call}", call)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for name in absent:
            assert f"'crysmetrics.metrics.{name}'" not in done.stdout
        assert "'crysmetrics.matching.distances'" not in done.stdout


def test_commands_made_from_declarations_have_the_options_of_their_features():
    options = {o for p in family_command("diversity").params for o in p.opts}
    assert {"--backend", "--cache", "--subset", "--seed", "--min-distance"} <= options
    assert "--device" not in options
    options = {o for p in family_command("uniqueness").params for o in p.opts}
    assert not options & {"--backend", "--device", "--seed"}
    assert {"--workers", "--cache", "--tolerances"} <= options


def test_functions_of_commands_fit_a_screen():
    for path in (Path(crysmetrics.__file__).parent / "cli").glob("*.py"):
        lines = path.read_text(encoding="utf-8")
        import ast

        for node in ast.walk(ast.parse(lines)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 65, f"{path.name}: {node.name}"
