import numpy as np
import pandas as pd
import pytest
from sets import random_crystals

import crysmetrics
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path / "cache"))


def test_every_so_many_steps(tmp_path):
    asked = []

    def generate(count):
        asked.append(count)
        return random_crystals(count, seed=len(asked))

    ref = random_crystals(30, 9)
    check = crysmetrics.EvaluationCallback(
        generate, ref, every=3, count=12, reference_count=20, path=tmp_path / "h.csv"
    )
    reports = [check(step) for step in range(1, 8)]
    assert [r is not None for r in reports] == [False, False, True, False, False, True, False]
    assert asked == [12, 12]
    assert check.history.step.tolist() == [3, 6]
    assert reports[2].metrics["cov_recall"].n_ref == 20
    assert check.history.cov_recall[0] == reports[2]["cov_recall"]
    assert pd.read_csv(tmp_path / "h.csv").step.tolist() == [3, 6]
    # Features of the reference are computed once.
    assert reports[5].timing.keys().isdisjoint({"features crystalnn, ref"})


def test_nothing_generated_does_not_end_training():
    check = crysmetrics.EvaluationCallback(
        lambda count: Crystals.empty([("0", "is no crystal")]), random_crystals(5, 1), every=1
    )
    assert check(1) is None
    assert "none that can be used" in check.history.reason[0]
    check.generate = lambda count: random_crystals(5, 2).to_pymatgen()
    assert check(2) is not None
    assert np.isnan(check.history.validity[0])
    assert 0 <= check.history.validity[1] <= 1


def test_bad_numbers_and_references_are_refused():
    with pytest.raises(UserError):
        crysmetrics.EvaluationCallback(list, random_crystals(5, 1), every=0)
    with pytest.raises(UserError):
        crysmetrics.EvaluationCallback(list, "nowhere")
