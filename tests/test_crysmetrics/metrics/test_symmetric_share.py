import numpy as np
import pytest
from sets import one, random_crystals

import crysmetrics
from crysmetrics.io import Crystals
from crysmetrics.protocols import plan
from crysmetrics.streaming import evaluate_stream

CORNERS = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2


def salts(count, noise=0.0, name="salt"):
    """Rock salt in cubic cells of several sizes, its atoms moved by `noise` Å along each axis."""
    rng = np.random.default_rng(0)
    perfect = np.concatenate([CORNERS, CORNERS + np.full(3, 0.5)])
    numbers = [11] * 4 + [17] * 4
    return Crystals.concatenate(
        [
            one(numbers, (perfect + noise / a * rng.normal(size=(8, 3))).tolist(), a, f"{name}-{a}")
            for a in 5.2 + 0.1 * np.arange(count)
        ]
    )


@pytest.mark.parametrize(
    ("noise", "loose", "tight"), [(0.0, 1.0, 1.0), (0.015, 1.0, 0.0), (0.3, 0.0, 0.0)]
)
def test_symmetry_is_lost_as_atoms_move(noise, loose, tight):
    report = crysmetrics.symmetric_share(salts(5, noise), cache="off")
    assert report["symmetric_share"] == loose
    assert report["symmetric_share_tight"] == tight
    low, high = report.metrics["symmetric_share"].ci95
    assert low <= loose <= high


def test_failures_are_not_symmetric(tmp_path):
    mixed = Crystals.concatenate([salts(6), random_crystals(2, 1, atoms=(4, 6))])
    mixed = mixed.with_failures([("lost.cif", "is empty")] * 3)
    report = crysmetrics.symmetric_share(mixed, cache="off")
    value = report.metrics["symmetric_share"]
    assert (value.value, value.n_gen) == (pytest.approx(6 / 11), 11)
    table = report.per_structure["gen"]
    assert table.symmetric.tolist() == [True] * 6 + [False] * 5
    assert set(report.extractors) == {"space_group", "space_group_tight"}
    assert report.extractors["space_group"] != report.extractors["space_group_tight"]


def test_parts_give_what_the_whole_gives(tmp_path):
    crystals = Crystals.concatenate(
        [salts(7), random_crystals(6, 1, atoms=(4, 6)), salts(3, 0.015, "bent")]
    )
    crystals.save(tmp_path / "gen.npz")
    ref = crysmetrics.evaluation.as_sample(salts(5), "ref")
    chosen = plan(metrics=["symmetric_share", "symmetric_share_tight"])
    parts = evaluate_stream(chosen, str(tmp_path / "gen.npz"), ref, part=4)
    assert dict(parts.metrics) == dict(crysmetrics.symmetric_share(crystals).metrics)
