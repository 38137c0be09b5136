"""Uniqueness of sets with copies, and its curve against the number of structures."""

from itertools import combinations

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

import crysmetrics
from crysmetrics.io import Crystals
from crysmetrics.metrics.uniqueness import by_size, of_fewer


def copies() -> Crystals:
    """Six crystals, one of them three times and one twice, and a file that can't be read."""
    crystals = random_crystals(6, 9)
    more = [crystals[[1, 4]].with_ids(["b-1", "b-4"]), crystals[[4]].with_ids(["c-4"])]
    return Crystals.concatenate([crystals, *more]).with_failures([("bad.cif", "is empty")])


def test_copies_and_failures_count_as_not_unique():
    report = crysmetrics.uniqueness(copies(), workers=1, cache="off")
    assert report["uniqueness"] == pytest.approx(6 / 10)
    assert report.metrics["uniqueness"].n_gen == 10
    table = report.per_structure["gen"].set_index("id")
    first = copies().ids
    assert table.loc["c-4", "same_as"] == table.loc["b-4", "same_as"] == first[4]
    assert table.loc["b-1", "same_as"] == first[1]
    assert table["unique"].tolist() == [True] * 6 + [False] * 4
    # A copy is at no distance, in whatever is continuous.
    twice = [first[1], first[4], "b-1", "b-4", "c-4"]
    assert (table.loc[twice, "amd_to_other"] < 1e-9).all()
    assert (table.drop([*twice, "bad.cif"])["amd_to_other"] > 1e-3).all()


def test_uniqueness_does_not_depend_on_the_order():
    crystals = copies()
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(crystals))
        mixed = crystals[order].with_failures(crystals.failures)
        report = crysmetrics.uniqueness(mixed, workers=1, cache="off")
        assert report["uniqueness"] == pytest.approx(6 / 10)
        assert report["uniqueness_amd"] == pytest.approx(
            crysmetrics.uniqueness(crystals, workers=1, cache="off")["uniqueness_amd"]
        )


def test_tolerances_decide():
    stretched = one([11, 17], rocksalt().frac_coords.tolist(), np.diag([1, 1, 1.15]), "long")
    stretched = Crystals(
        stretched.atomic_numbers,
        stretched.frac_coords,
        rocksalt().lattices @ np.diag([1, 1, 1.15]),
        [2],
        ["long"],
    )
    both = Crystals.concatenate([rocksalt(), stretched])
    shares = [
        crysmetrics.uniqueness(both, tolerances=text, workers=1, cache="off")["uniqueness"]
        for text in ("csp", "0.02,0.05,1")
    ]
    assert shares == [0.5, 1.0]


def test_what_has_no_volume_is_not_unique_and_named():
    flat = one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], [[4, 0, 0], [0, 4, 0], [4, 4, 0]], "flat")
    both = Crystals.concatenate([flat, rocksalt()])
    report = crysmetrics.uniqueness(both, workers=1, cache="off")
    assert report["uniqueness"] == 0.5
    assert any(f["file"] == "flat" and "no volume" in f["reason"] for f in report.failures)


def test_the_curve_is_the_mean_of_all_subsets():
    labels = [0, 0, 0, 1, 1, 2, -1, -1]  # two structures could not be read
    curve = by_size(np.array([3, 2, 1]), len(labels))
    for m, found, low, high in zip(*(curve[k].tolist() for k in curve), strict=True):
        shares = [len({k for k in chosen if k >= 0}) / m for chosen in combinations(labels, m)]
        assert found == pytest.approx(np.mean(shares))
        error = np.std(shares) / np.sqrt(1 - m / len(labels))
        assert low == pytest.approx(max(0, found - 1.959964 * error), abs=1e-6)
        assert high == pytest.approx(min(1, found + 1.959964 * error), abs=1e-6)
    assert curve["structures"].tolist() == list(range(1, 8))


def test_the_curve_of_a_large_set_is_sensible():
    rng = np.random.default_rng(0)
    sizes = np.unique(rng.geometric(1e-3, 20_000), return_counts=True)[1]
    curve = by_size(sizes, 20_000)
    found = curve["uniqueness"]
    assert found[0] == pytest.approx(1)
    assert (np.diff(found) < 1e-9).all()
    assert (curve["low"] <= found + 1e-12).all()
    assert (found <= curve["high"] + 1e-12).all()
    assert found[-1] == pytest.approx(len(sizes) / 20_000, rel=1e-3)


def test_a_single_structure_has_no_curve_and_no_other():
    report = crysmetrics.uniqueness(rocksalt(), workers=1, cache="off")
    assert report["uniqueness"] == 1
    assert report["uniqueness_amd"] is None
    assert len(report.outcomes["uniqueness"].series["uniqueness_by_size"]["structures"]) == 0


def test_what_fewer_structures_would_have_is_said():
    assert of_fewer(np.array([3, 2, 1]), 8) == ""
    assert of_fewer(np.ones(30, dtype=int), 32) == ""
    # Of a pair among eleven, one is left out with probability 1 - C(9, 8) / C(11, 10).
    said = of_fewer(np.array([2] + [1] * 9), 11)
    assert said == f"of fewer of these structures one expects {1 - 9 / 110:.4f} of 10"
    sizes = np.full(50, 4)
    curve = by_size(sizes, 200, np.array([10, 100]))["uniqueness"]
    assert f"{curve[0]:.4f} of 10, {curve[1]:.4f} of 100" in of_fewer(sizes, 200)
    assert "1,000 " not in of_fewer(np.full(500, 2), 1000)
