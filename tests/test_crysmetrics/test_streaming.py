import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import random_crystals, rocksalt

from crysmetrics import streaming
from crysmetrics.cli import main
from crysmetrics.errors import UserError
from crysmetrics.evaluation import as_sample, evaluate_plan
from crysmetrics.io import Crystals, read, write
from crysmetrics.io.digest import SetDigest
from crysmetrics.io.formats.cif import p1_cif
from crysmetrics.io.reading import read_parts
from crysmetrics.metrics import moments
from crysmetrics.metrics.gaussians import Statistics, frechet_distance, frechet_value
from crysmetrics.metrics.moments import Moments, Reservoir
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.parallel import in_threads
from crysmetrics.protocols import plan
from crysmetrics.spill import Columns, Names


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    write(random_crystals(60, 1), root / "gen")
    write(random_crystals(50, 2), root / "ref")
    (root / "gen" / "aaa.cif").write_text("")
    (root / "gen" / "zzz.cif").write_text("<html>")
    return root


def test_stream_gives_what_the_whole_set_gives(folders, monkeypatch):
    monkeypatch.setattr("crysmetrics.io.parsing._CHUNK", 7)
    ref = as_sample(str(folders / "ref"), "ref")
    chosen = plan()
    gen = as_sample(str(folders / "gen"), "gen")
    whole = evaluate_plan(chosen, gen, as_sample(str(folders / "ref"), "ref"))
    rows = io.StringIO()
    parts = streaming.evaluate_stream(chosen, str(folders / "gen"), ref, per_structure=rows, part=9)
    assert list(parts.metrics) == list(whole.metrics)
    for key, value in parts.metrics.items():
        expected = whole.metrics[key]
        if value.value is None:  # needs all structures at once
            assert key in ("uniqueness", "uniqueness_amd")
            continue
        assert value.value == pytest.approx(expected.value, rel=1e-5, abs=1e-7), key
        assert value.stderr == pytest.approx(expected.stderr, rel=1e-3), key
        assert (value.n_gen, value.n_ref) == (expected.n_gen, expected.n_ref), key
        if "valid" in key or key in ("emd_density", "emd_num_elements"):
            assert value == expected  # to the last bit
    assert parts.inputs == whole.inputs
    assert sorted(map(str, parts.failures)) == sorted(map(str, whole.failures))
    assert parts.settings == whole.settings
    assert parts.extractors == {k: v for k, v in whole.extractors.items() if k != "amd"}
    table = pd.read_csv(io.StringIO(rows.getvalue()), keep_default_na=False)
    expected = pd.read_csv(
        io.StringIO(whole.per_structure["gen"].to_csv(index=False)), keep_default_na=False
    )
    assert table.id.tolist() == expected.id.tolist()
    for column in ("formula", "struct_valid", "space_group", "nearest_id", "reason"):
        assert table[column].tolist() == expected[column].tolist()
    # Two figures are of uniqueness.
    assert parts.to_html("x").count("<figure>") == whole.to_html("x").count("<figure>") - 2


def test_samples_stand_in_for_large_sets(folders, monkeypatch):
    monkeypatch.setattr(moments, "SAMPLE", 55)
    ref = as_sample(str(folders / "ref"), "ref")
    chosen = plan(metrics=["fad", "fad_inf", "kad", "coverage", "diversity"])
    reports = [
        streaming.evaluate_stream(chosen, str(folders / "gen"), ref, part=part) for part in (9, 60)
    ]
    for key in chosen.metrics:
        a, b = (report.metrics[key] for report in reports)
        assert a.value == pytest.approx(b.value, rel=1e-5)  # whatever the parts
        assert a.stderr == pytest.approx(b.stderr, rel=1e-3)
    assert reports[0].settings["sample"] == 55
    assert "random sample of 55" in str(reports[0].metrics["kad"].note)
    assert reports[0].metrics["kad"].n_gen == 55
    assert reports[0].metrics["fad"].n_gen == 60


def test_command(folders, tmp_path):
    gen, ref, out = str(folders / "gen"), str(folders / "ref"), tmp_path / "out"
    args = ["evaluate", gen, ref, "-o", str(out), "--stream", "--metrics", "validity,coverage"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(out / "per_structure.csv")) == 62
    document = json.loads((out / "metrics.json").read_text())
    assert document["inputs"]["gen"]["failed"] == 2
    assert "3Dmol" in (out / "report.html").read_text()
    for more, says in (
        (["--subset", "5"], "takes all structures"),
        (["--protocol", "adaptive-cell"], "takes all structures"),
        (["--paired"], "holds no pairs"),
    ):
        args = ["evaluate", gen, ref, "--stream", *more]
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 2
        assert says in result.stderr
    result = CliRunner().invoke(main, ["evaluate", "nowhere", ref, "--stream"])
    assert "nowhere does not exist" in result.stderr


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "gen").mkdir()
    (tmp_path / "gen" / "a.cif").write_text("")
    ref = as_sample(random_crystals(5), "ref")
    with pytest.raises(UserError, match="no structure that can be read"):
        streaming.evaluate_stream(plan(settings=EvaluationSettings()), str(tmp_path / "gen"), ref)


def test_parts_are_the_whole(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("crysmetrics.io.parsing._CHUNK", 7)
    whole = read(folders / "gen")
    whole.save(tmp_path / "gen.npz")
    for path in (folders / "gen", tmp_path / "gen.npz"):
        parts = list(read_parts(path, 14))
        assert len(parts) >= 4
        together = Crystals.concatenate(parts)
        assert together.ids == whole.ids
        assert together.failures == whole.failures
        digest = SetDigest()
        for part in parts:
            digest.add(part)
        assert digest.hexdigest() == whole.sha256()


def test_ids_are_distinct_over_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("crysmetrics.io.parsing._CHUNK", 2)
    names = ["a", "b", "é", "a", "\U0001f48e", "é", "b/1", "a"]
    text = p1_cif(rocksalt()).replace('"', '""')
    rows = "\n".join(f'{name},"{text}"' for name in names)
    (tmp_path / "x.csv").write_text(f"material_id,cif\n{rows}\n", encoding="utf-8")
    whole = read(tmp_path / "x.csv")
    parts = list(read_parts(tmp_path / "x.csv", 3))
    together = Crystals.concatenate(parts)
    assert len(parts) == 2
    assert together.ids == whole.ids == ("a", "b", "é", "\U0001f48e", "b/1")
    assert together.failures == whole.failures
    assert len(whole.failures) == 3


def test_digest_of_odd_names():
    names = ["b", "a", "\U0001f48e", "\uffee", "\udcff", "a\0", ""]
    crystals = random_crystals(7).with_ids(names)
    digest = SetDigest()
    for i in range(7):
        digest.add(crystals[[i]])
    assert digest.hexdigest() == crystals.sha256()


def test_columns_are_given_back():
    columns = Columns()
    for part in ([1.5, np.inf], [], [np.nan]):
        columns.add("x", np.array(part))
        columns.add("nothing", np.zeros(0, dtype=np.int64))
    np.testing.assert_array_equal(columns["x"], [1.5, np.inf, np.nan])
    assert columns["nothing"].shape == (0,)
    assert list(columns) == ["x", "nothing"]
    assert "y" not in columns


def test_no_room_for_temporary_files():
    names = Names()
    names._database.execute("PRAGMA max_page_count = 3")
    names["a"] = "x" * 1000
    with pytest.raises(UserError, match="set TMPDIR"):
        names["b"] = "x" * 100_000


def test_jobs_are_made_a_few_ahead():
    made = []

    def jobs():
        for i in range(50):
            made.append(i)
            yield (i,)

    ahead = []
    for i, found in enumerate(in_threads(lambda x: 2 * x, jobs(), 2)):
        assert found == 2 * i
        ahead.append(len(made) - i)
    assert max(ahead) <= 6


def test_moments_are_those_of_all_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 7)) @ np.diag([1, 1e-3, 5, 1, 1, 1e-6, 2]) + 100
    found = Moments.nothing(7)
    for part in np.split(rows, [3, 4, 90, 90, 400]):
        found = found.with_rows(part)
    statistics, expected = found.statistics(), Statistics.of(rows)
    np.testing.assert_allclose(statistics.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(
        statistics.factor.T @ statistics.factor, np.cov(rows.T), rtol=1e-9, atol=1e-14
    )
    assert frechet_distance(statistics, expected) < 1e-9


def test_reservoir_is_uniform_and_ignores_parts():
    keys = np.random.default_rng(1).random(1000)
    rows = np.arange(1000.0)[:, None]
    found = []
    for cuts in ([500], range(7, 1000, 7)):
        reservoir = Reservoir(50)
        for part in np.split(np.arange(1000), list(cuts)):
            reservoir.add(rows[part], keys[part])
        found.append(reservoir.rows[:, 0])
    np.testing.assert_array_equal(*found)
    assert len(found[0]) == 50
    assert abs(found[0].mean() - 499.5) < 3 * 289 / 50**0.5


def test_standard_error_from_a_sample_is_that_of_the_whole():
    rng = np.random.default_rng(2)
    gen, ref = rng.normal(size=(4000, 5)) + 0.3, rng.normal(size=(1000, 5))
    whole = frechet_value(gen, ref, np.random.default_rng(3))
    from crysmetrics.metrics.gaussians import streamed_frechet_value

    moments = Moments.nothing(5).with_rows(gen)
    sampled = streamed_frechet_value(moments, gen[:1000], ref, np.random.default_rng(3))
    assert sampled.value == pytest.approx(whole.value, rel=1e-9)
    assert sampled.stderr == pytest.approx(whole.stderr, rel=0.3)
    assert (sampled.n_gen, sampled.n_ref) == (4000, 1000)


def test_parts_take_the_energies_that_structures_bring_along(tmp_path, monkeypatch):
    def relax(*args, **options):
        raise AssertionError("energies are given")

    monkeypatch.setattr("crysmetrics.features.e_above_hull.stability", relax)
    energies = np.array([0.3, -0.01, 0.05, np.nan, np.nan, 0.0])
    gen = replace(random_crystals(6, 3), properties={"e_above_hull": energies})
    write(gen, tmp_path / "gen.npz")
    ref = as_sample(random_crystals(5, 4), "ref")
    chosen = plan(metrics=["stable_rate", "metastable_rate"])
    # The second part has no energies at all.
    report = streaming.evaluate_stream(chosen, str(tmp_path / "gen.npz"), ref, part=2)
    assert report["stable_rate"] == pytest.approx(2 / 6)
    assert report["metastable_rate"] == pytest.approx(3 / 6)
    assert "2 of 6 have no energy" in str(report.metrics["stable_rate"].note)
    assert "that were given" in str(report.metrics["stable_rate"].note)
