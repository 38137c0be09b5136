import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sets import one, random_crystals, rocksalt

import crysmetrics
from crysmetrics.errors import UserError
from crysmetrics.evaluation import as_sample
from crysmetrics.features.extractor import Features
from crysmetrics.features.magpie_scaling import cdvae_constants, normalise
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals, Failure
from crysmetrics.metrics import neighbours
from crysmetrics.metrics.coverage import coverage, sweep
from crysmetrics.metrics.neighbours import distance_sums, nearest_both_ways
from crysmetrics.metrics.settings import EvaluationSettings, Thresholds, parse_thresholds
from crysmetrics.protocols import plan
from crysmetrics.streaming import evaluate_stream


def sample(structure, composition, role="gen", failures=()) -> Sample:
    """A sample with fingerprints given, not computed."""
    made = Sample(random_crystals(len(structure)).with_failures(failures), role)
    means, stds = cdvae_constants()
    wide = np.zeros((len(structure), 132))
    wide[:, : composition.shape[1]] = composition
    for name, values in (("crystalnn", structure), ("magpie", wide * stds + means)):
        failed = {int(i): "made to fail" for i in np.flatnonzero(np.isnan(values).any(axis=1))}
        made._features[name] = Features(values, failed)
    return made


def random_sample(n, seed, role="gen", failures=()):
    rng = np.random.default_rng(seed)
    return sample(rng.random((n, 61)), 3 * rng.random((n, 5)), role, failures)


LIMITS = Thresholds(2.8, 2.0)


def test_both_definitions_by_brute_force():
    gen, ref = random_sample(80, 1), random_sample(70, 2, "ref")
    values = coverage(gen, ref, EvaluationSettings(thresholds=LIMITS)).values
    s = cdist(gen.features("crystalnn").values, ref.features("crystalnn").values)
    c = cdist(normalise(gen.features("magpie").values), normalise(ref.features("magpie").values))
    both = (s <= LIMITS.structure) & (c <= LIMITS.composition)
    expected = {
        "cov_recall": both.any(axis=0).mean(),
        "cov_precision": both.any(axis=1).mean(),
        "cov_recall_marginal": (
            (s.min(axis=0) <= LIMITS.structure) & (c.min(axis=0) <= LIMITS.composition)
        ).mean(),
        "cov_precision_marginal": (
            (s.min(axis=1) <= LIMITS.structure) & (c.min(axis=1) <= LIMITS.composition)
        ).mean(),
        "amsd_recall": s.min(axis=0).mean(),
        "amsd_precision": s.min(axis=1).mean(),
        "amcd_recall": c.min(axis=0).mean(),
        "amcd_precision": c.min(axis=1).mean(),
    }
    for key, value in expected.items():
        assert values[key].value == pytest.approx(value), key
    assert 0 < values["cov_recall"].value < values["cov_recall_marginal"].value < 1


def test_a_set_covers_itself():
    values = coverage(random_sample(50, 1), random_sample(50, 1), EvaluationSettings()).values
    for key, value in values.items():
        assert value.value == (1.0 if key.startswith("cov") else 0.0), key


def test_failures_cover_nothing_and_stay_in_denominators():
    gen = random_sample(10, 1, failures=[Failure("bad.cif", "is empty")] * 10)
    values = coverage(gen, random_sample(10, 1, "ref"), EvaluationSettings()).values
    assert values["cov_precision"].value == 0.5
    assert values["cov_recall"].value == 1.0
    assert values["cov_precision"].n_gen == 20

    broken = random_sample(10, 1)
    structure = broken.features("crystalnn").values.copy()
    structure[:4] = np.nan
    broken = sample(structure, np.zeros((10, 5)))
    whole = sample(random_sample(10, 1).features("crystalnn").values, np.zeros((10, 5)), "ref")
    values = coverage(broken, whole, EvaluationSettings()).values
    assert values["cov_precision"].value == 0.6
    assert values["cov_precision_marginal"].value == 0.6
    assert values["amsd_precision"].n_gen == 6
    # A reference without a fingerprint is left out.
    recall = coverage(whole, broken, EvaluationSettings()).values["cov_recall"]
    assert (recall.value, recall.n_ref) == (1.0, 6)


def test_references_that_fail_are_left_out_everywhere(tmp_path):
    found = Crystals.concatenate([rocksalt(5.6, "a"), rocksalt(6.3, "b")])
    oganesson = one([118], [[0, 0, 0]], 3.2, "Og")  # has no covalent radius
    ref = Crystals.concatenate([found, oganesson]).with_failures([("lost.cif", "is empty")])
    report = crysmetrics.coverage(found, ref, cache="off")
    for key, value in report.metrics.items():
        assert value.value == (1.0 if key.startswith("cov") else 0.0), key
        assert value.n_ref == 2
    assert {f["file"] for f in report.failures} == {"lost.cif", "Og"}
    found.save(tmp_path / "gen.npz")
    plan_of_coverage = plan(metrics=["coverage"])
    streamed = evaluate_stream(plan_of_coverage, str(tmp_path / "gen.npz"), as_sample(ref, "ref"))
    assert dict(streamed.metrics) == dict(report.metrics)
    table = sweep(report.outcomes["coverage"], EvaluationSettings(), 2, 2)
    assert table.cov_recall.max() == 1.0


def test_nothing_with_a_fingerprint():
    empty = sample(np.full((3, 61), np.nan), np.zeros((3, 5)))
    values = coverage(empty, random_sample(4, 1, "ref"), EvaluationSettings()).values
    assert values["cov_recall"].value == values["cov_precision"].value == 0
    assert values["amsd_recall"].value is None
    assert values["amsd_recall"].reason


def test_result_does_not_depend_on_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    gen = rng.random((90, 61)), rng.random((90, 132))
    ref = rng.random((70, 61)), rng.random((70, 132))
    whole = nearest_both_ways(gen, ref, 2.9, 4.5)
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 8 * 70 * 7)
    parts = nearest_both_ways(gen, ref, 2.9, 4.5)
    for a, b in zip(whole, parts, strict=True):
        for name in ("structure", "composition", "structure_within", "composition_within"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-12)
        assert (a.index == b.index).all()


def test_repeated_points_are_measured_exactly():
    rng = np.random.default_rng(0)
    points = np.repeat(1e3 + rng.random((6, 132)), 20, axis=0)
    near, _ = nearest_both_ways((points[:, :61], points), (points[:9, :61], points[:9]), 0.1, 0.1)
    assert (near.composition[:20] == 0).all()
    expected = cdist(points[:, :61], points[:9, :61]).min(axis=1)
    assert near.structure == pytest.approx(expected, abs=1e-9)
    assert distance_sums(points) == pytest.approx(cdist(points, points).sum(axis=1), rel=1e-9)


def test_missing_element_properties_become_zero_after_scaling():
    magpie = np.full((2, 132), np.nan)
    assert (normalise(magpie) == 0).all()


def test_thresholds():
    assert parse_thresholds("perov5") == Thresholds(0.2, 4.0, "perov5")
    assert parse_thresholds("0.3,7") == Thresholds(0.3, 7.0)
    for nonsense in ("mp21", "1", "1,2,3", "-1,2", "nan,1", "a,b"):
        with pytest.raises(UserError, match="hresholds"):
            parse_thresholds(nonsense)


def test_sweep_passes_through_the_values():
    settings = EvaluationSettings(thresholds=LIMITS)
    gen, ref = random_sample(80, 1), random_sample(70, 2, "ref")
    outcome = coverage(gen, ref, settings)
    table = sweep(outcome, settings, 80, 70)
    here = table[
        np.isclose(table.structure_threshold, LIMITS.structure)
        & np.isclose(table.composition_threshold, LIMITS.composition)
    ]
    assert len(here) == 2
    for key in ("cov_recall", "cov_precision", "cov_recall_marginal", "cov_precision_marginal"):
        assert here[key].tolist() == pytest.approx([outcome.values[key].value] * 2)
        for _, part in table.groupby("varied"):
            assert (np.diff(part[key]) >= 0).all()


def test_on_real_fingerprints_and_pymatgen_structures():
    structures = [*rocksalt().to_pymatgen(), *rocksalt(5.9).to_pymatgen()]
    report = crysmetrics.coverage(structures, structures, cache="off")
    assert report["cov_recall"] == report["cov_precision"] == 1
    assert set(report.extractors) == {"crystalnn", "magpie"}
    other = crysmetrics.coverage(structures, structures, cache="off", backend="matminer")
    assert other.extractors != report.extractors
