import json

import numpy as np
import pytest
from click.testing import CliRunner
from sets import random_crystals

import crysmetrics
from crysmetrics import references
from crysmetrics.cli import main
from crysmetrics.errors import InputError, UserError
from crysmetrics.evaluation import as_sample
from crysmetrics.features import registry
from crysmetrics.features import sample as samples
from crysmetrics.features.sample import Sample
from crysmetrics.io import write
from crysmetrics.metrics.description import space_groups
from crysmetrics.symmetry import TOLERANCE, find_space_groups


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_REFERENCES", str(tmp_path / "references"))
    monkeypatch.setenv("CRYSMETRICS_CACHE", "off")


def build(name="mine", seed=1):
    sample = Sample(random_crystals(20, seed), "ref")
    references.build(name, sample, ["crystalnn"], source="made up")
    return sample.crystals


def test_a_named_reference_gives_the_numbers_of_its_structures(monkeypatch):
    crystals, gen = build(), random_crystals(15, 2)
    expected = crysmetrics.coverage(gen, crystals)

    def never(*args, **kwargs):
        raise AssertionError("features of the reference were computed")

    sample = as_sample("mine", "ref")
    with monkeypatch.context() as patch:
        patch.setattr(samples, "extract", never)
        sample.features("crystalnn")
    found = crysmetrics.coverage(gen, sample.crystals)
    named = crysmetrics.coverage(gen, as_sample("mine", "ref").crystals)
    assert found.metrics == named.metrics == expected.metrics
    # Stored features are rounded to half or single precision; what is shown does not change.
    stored = crysmetrics.frechet(gen, "mine")["fd_crystalnn"]
    assert stored == pytest.approx(crysmetrics.frechet(gen, crystals)["fd_crystalnn"], abs=5e-5)


def test_space_groups_of_a_named_reference_come_from_its_file(monkeypatch):
    path = references.find("mp20-test-bt")
    sample = references.load("mp20-test-bt", path)
    monkeypatch.setattr("crysmetrics.metrics.description.extract", None)
    found = space_groups(sample)
    assert "space_group" not in sample.extractors  # no metric depends on it
    some = np.arange(0, len(sample), 500)
    made = find_space_groups(sample.crystals[some], TOLERANCE, 1)
    assert found[some].tolist() == made.numbers.tolist()


def test_names_on_the_command_line(monkeypatch, tmp_path):
    write(random_crystals(8, 3), tmp_path / "ref")
    write(random_crystals(8, 4), tmp_path / "gen")
    run = CliRunner().invoke
    result = run(main, ["reference", "build", "my-set", str(tmp_path / "ref"), "--source", "me"])
    assert result.exit_code == 0, result.output
    listed = run(main, ["reference", "list"]).output
    assert "my-set: 8 structures; crystalnn. me" in listed
    args = ["frechet", str(tmp_path / "gen"), "my-set", "--json", "-"]
    document = json.loads(run(main, args).stdout)
    assert document["inputs"]["ref"]["path"] == "my-set"
    again = run(main, ["reference", "build", "my-set", str(tmp_path / "ref")])
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    # An existing path wins over a name.
    monkeypatch.chdir(tmp_path)
    write(random_crystals(5, 5), tmp_path / "my-set")
    document = json.loads(run(main, args).stdout)
    assert document["inputs"]["ref"]["read"] == 5


def test_outdated_features_are_computed_anew(monkeypatch):
    crystals = build()
    path = references.find("mine")
    real = registry.get_extractor

    def newer(name, run=None):
        extractor = real(name, run)
        return type(extractor)(
            extractor.name, "a later version", extractor.labels, extractor.compute
        )

    monkeypatch.setattr(references, "get_extractor", newer)
    monkeypatch.setattr(samples, "get_extractor", newer)
    sample = references.load("mine", path)
    found = sample.features("crystalnn").values
    assert sample.extractors["crystalnn"].version == "a later version"
    assert np.array_equal(found, Sample(crystals, "ref").features("crystalnn").values)


def test_bad_names_and_files(tmp_path):
    sample = Sample(random_crystals(2), "ref")
    for name in ("", "../up", "a/b", ".hidden"):
        with pytest.raises(UserError, match="no name"):
            references.build(name, sample, [])
        assert references.find(name) is None
    build()
    path = references.find("mine")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        as_sample("mine", "ref")
    with pytest.raises(InputError, match="does not exist"):
        as_sample("theirs", "ref")


def test_half_precision_only_where_it_changes_nothing():
    rng = np.random.default_rng(0)
    assert references.smallest_dtype(rng.random((50, 3))).dtype == np.float16
    assert references.smallest_dtype(1000 + rng.random((50, 3))).dtype == np.float32
    assert references.smallest_dtype(np.full((2, 1), 1e6)).dtype == np.float32
