"""The table of extractors, and what follows it."""

import subprocess
import sys
from importlib import import_module

import pytest
from click.testing import CliRunner
from sets import random_crystals

from crysmetrics.cli import main
from crysmetrics.errors import UserError
from crysmetrics.features import registry
from crysmetrics.features.extractor import Run
from crysmetrics.features.registry import (
    BACKENDS,
    ENTRIES,
    FEATURES,
    FRECHET_FEATURES,
    Entry,
    backends,
    get_extractor,
)
from crysmetrics.features.sample import Sample
from crysmetrics.metrics.registry import all_metrics


def test_every_module_of_the_table_makes_extractors():
    for entry in ENTRIES:
        assert set(entry.modules) <= set(BACKENDS)
        for module in entry.modules.values():
            assert callable(import_module(module).extractor)


def test_a_backend_without_these_features_leaves_them_to_ours():
    ours = get_extractor("space_group", Run())
    assert get_extractor("space_group", Run(backend="matminer")).hash == ours.hash
    assert ours.compute(random_crystals(1), 1)[0].shape == (1, len(ours.labels))


def test_unknown_features_and_backends_are_named():
    with pytest.raises(UserError, match="no features 'soap'; known are crystalnn"):
        get_extractor("soap", Run())
    with pytest.raises(UserError, match="no backend 'gpu'; known are native"):
        get_extractor("magpie", Run(backend="gpu"))


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["featurize"], FEATURES),
        (["reference", "build"], FEATURES),
        (["frechet"], FRECHET_FEATURES),
        (["evaluate"], backends()),
        (["fad"], backends(["alignn"])),
        (["coverage"], backends(["crystalnn", "magpie"])),
    ],
)
def test_help_names_what_the_table_holds(command, names):
    text = CliRunner().invoke(main, [*command, "--help"]).output
    assert all(name in text for name in names)


def test_each_frechet_distance_of_the_table_is_a_metric():
    keys = set(all_metrics())
    assert {f"fd_{name}" for name in FRECHET_FEATURES} <= keys


def test_the_table_imports_no_extractor():
    code = (
        "import sys, crysmetrics.features.registry\n"
        "heavy = {'numpy', 'numba', 'torch', 'click'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_line_in_the_table_is_all_that_an_extractor_needs(tmp_path, monkeypatch):
    (tmp_path / "atom_counts.py").write_text(
        "from crysmetrics.features.extractor import Extractor\n"
        "def extractor(name, run):\n"
        "    def compute(crystals, workers):\n"
        "        return crystals.num_atoms[:, None].astype(float), {}\n"
        "    return Extractor(name, '1', ('num_atoms',), compute)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    line = Entry("atom_counts", "the number of atoms", {"native": "atom_counts"})
    monkeypatch.setitem(registry._BY_NAME, line.name, line)
    crystals = random_crystals(3)
    found = Sample(crystals, "gen").features("atom_counts")
    assert found.values[:, 0].tolist() == crystals.num_atoms.tolist()
