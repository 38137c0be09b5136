import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sets import random_crystals, rocksalt
from test_symmetric_share import salts

import crysmetrics
from crysmetrics.evaluation import as_sample
from crysmetrics.io import Crystals
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.metrics.space_group_jsd import jsd, jsd_value
from crysmetrics.protocols import plan
from crysmetrics.streaming import evaluate_stream


def test_distance_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 5, (2, 230))
        assert jsd(a, b) == pytest.approx(jensenshannon(a, b, base=2), abs=1e-12)


def test_bounds_are_reached():
    a, b = np.zeros((2, 230), dtype=np.int64)
    a[[1, 7]] = 10, 30
    b[[2, 9]] = 5, 5
    assert jsd(a, a) == 0
    assert jsd(a, b) == 1
    value = jsd_value(a, b, np.random.default_rng(0))
    assert value.value == value.ci95[1] == 1
    assert jsd_value(a, 0 * b, np.random.default_rng(0)).value is None


def test_small_samples_of_one_distribution_are_as_far_apart_as_the_note_says():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(230, 0.3))
    found, said = [], []
    for _ in range(40):
        value = jsd_value(rng.multinomial(300, shares), rng.multinomial(900, shares), rng)
        found.append(value.value)
        said.append(float(value.note.split("about ")[1].split()[0]))
    assert np.mean(found) > 0.1  # biased
    assert np.mean(said) == pytest.approx(np.mean(found), rel=0.05)
    assert all_metrics()["space_group_jsd"].biased


def test_standard_error_is_the_scatter_of_samples():
    rng = np.random.default_rng(1)
    ours, theirs = rng.dirichlet(np.full(12, 1.0), 2)
    found = [
        jsd_value(rng.multinomial(400, ours), rng.multinomial(400, theirs), rng) for _ in range(60)
    ]
    errors = [value.stderr for value in found]
    assert np.std([value.value for value in found]) == pytest.approx(np.mean(errors), rel=0.3)
    assert all(value.ci95[0] <= value.value <= value.ci95[1] for value in found)


def test_parts_give_what_the_whole_gives(tmp_path):
    gen = Crystals.concatenate([salts(7), random_crystals(6, 1, atoms=(4, 6))])
    gen = gen.with_failures([("lost.cif", "is empty")])
    ref = Crystals.concatenate([salts(4), random_crystals(9, 2, atoms=(4, 6))])
    whole = crysmetrics.space_group_jsd(gen, ref, seed=3)
    value = whole.metrics["space_group_jsd"]
    assert 0 < value.value < 1
    assert (value.n_gen, value.n_ref) == (13, 13)
    assert whole.per_structure["gen"].space_group[:7].tolist() == [225] * 7
    gen.with_failures(()).save(tmp_path / "gen.npz")
    chosen = plan(metrics=["space_group_jsd"], settings=crysmetrics.EvaluationSettings(seed=3))
    path = str(tmp_path / "gen.npz")
    parts = evaluate_stream(chosen, path, as_sample(ref, "ref"), part=5)
    assert parts.metrics["space_group_jsd"] == value
    alone = crysmetrics.space_group_jsd(rocksalt(), ref).metrics["space_group_jsd"]
    assert alone.stderr is None
