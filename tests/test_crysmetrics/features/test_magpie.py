"""Magpie fingerprints against matminer's own, and what they must not depend on."""

import warnings

import numpy as np
import pytest

from crysmetrics.features.extractor import Run
from crysmetrics.features.magpie import (
    FEATURE_LABELS,
    composition_statistics,
    element_table,
    extractor,
    magpie_fingerprints,
)
from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS


def crystals_of(compositions):
    """Crystals with these numbers of atoms by atomic number, anywhere in a cubic cell."""
    numbers = [np.repeat(list(c), list(c.values())) for c in compositions]
    counts = [len(z) for z in numbers]
    rng = np.random.default_rng(1)
    return Crystals(
        np.concatenate(numbers),
        rng.random((sum(counts), 3)),
        np.tile(5.0 * np.eye(3), (len(counts), 1, 1)),
        counts,
        tuple(str(i) for i in range(len(counts))),
    )


@pytest.fixture(scope="module")
def compositions():
    """Every element alone, and random mixtures, many of them with ties in amount."""
    rng = np.random.default_rng(0)
    chosen = [{z: 2} for z in range(1, 119)]
    for _ in range(150):
        elements = rng.choice(np.arange(1, 119), size=rng.integers(2, 8), replace=False)
        chosen.append({int(z): int(rng.integers(1, 5)) for z in elements})
    return chosen


@pytest.mark.parametrize("impute_nan", [True, False])
def test_equals_matminer(compositions, impute_nan):
    from matminer.featurizers.composition.composite import ElementProperty
    from pymatgen.core import Composition

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        featurizer = ElementProperty.from_preset("magpie", impute_nan=impute_nan)
        expected = [
            featurizer.featurize(Composition({SYMBOLS[z]: n for z, n in c.items()}))
            for c in compositions
        ]
    assert tuple(featurizer.feature_labels()) == FEATURE_LABELS
    values = magpie_fingerprints(crystals_of(compositions), impute_nan)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)
    assert np.isnan(values).any() != impute_nan


def test_the_extractor_gives_the_function(compositions):
    chosen = extractor("magpie", Run())
    crystals = crystals_of(compositions[:20])
    values, failures = chosen.compute(crystals, 1)
    np.testing.assert_array_equal(values, magpie_fingerprints(crystals))
    assert failures == {}
    assert values.shape[1] == len(chosen.labels) == 132
    assert chosen.parameters["impute_nan"] is True
    assert "matminer" in chosen.version


def test_does_not_depend_on_the_batch(compositions, monkeypatch):
    crystals = crystals_of(compositions)
    at_once = magpie_fingerprints(crystals)
    monkeypatch.setattr("crysmetrics.features.magpie._STRUCTURES_PER_CHUNK", 7)
    np.testing.assert_array_equal(magpie_fingerprints(crystals), at_once)


def test_scales_with_the_formula_only():
    once, twice = crystals_of([{26: 2, 8: 3}]), crystals_of([{26: 4, 8: 6}])
    np.testing.assert_allclose(
        magpie_fingerprints(once), magpie_fingerprints(twice), rtol=1e-14, atol=0
    )


def test_statistics_of_a_small_case_by_hand():
    table = np.array([[np.nan, np.nan], [1.0, 10.0], [5.0, np.nan], [3.0, 0.0]])
    # Elements 1 and 3 are equally common: the mode is the smaller of their properties.
    (row,) = composition_statistics(np.array([[0, 2, 1, 2]]), table)
    mean = (2 * 1 + 5 + 2 * 3) / 5
    deviation = (2 * abs(1 - mean) + abs(5 - mean) + 2 * abs(3 - mean)) / 5
    np.testing.assert_allclose(row[:6], [1, 5, 4, mean, deviation, 1])
    # Unknown for one element: everything is unknown but the mode, which others decide.
    assert np.isnan(row[6:11]).all()
    assert row[11] == 0.0


def test_no_structures():
    assert magpie_fingerprints(Crystals.empty()).shape == (0, 132)


def test_the_table_is_shared_and_read_only():
    assert element_table() is element_table()
    with pytest.raises(ValueError, match="read-only"):
        element_table()[1, 0] = 0.0
