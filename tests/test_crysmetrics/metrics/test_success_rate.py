"""Success rates of optimised structures."""

from __future__ import annotations

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

import crysmetrics
from crysmetrics.features.cdvae_property.extractor import predict
from crysmetrics.io import Crystals, Failure
from crysmetrics.metrics.success_rate import PERCENTILES

pytest.importorskip("torch")


def test_rates_count_valid_structures_below_the_published_percentiles():
    """Lithium fluoride lies below all of MP-20's percentiles but the lowest, rock salt above."""
    fluoride = one(
        [3, 9],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        2.86 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / np.sqrt(2) * 1.0,
        "LiF",
    )
    crystals = Crystals.concatenate([fluoride, rocksalt(), *random_crystals(3, seed=1)])
    crystals = crystals.with_failures([Failure("broken", "can't be read")])
    energies, _ = predict(crystals, "mp20", device="cpu", workers=1)
    report = crysmetrics.success_rate(crystals, workers=1, cache="off")
    rows = crysmetrics.validity(crystals, workers=1, cache="off").per_structure["gen"]
    valid = (rows.struct_valid & rows.comp_valid).to_numpy(bool)[: len(crystals)]
    for percent, limit in zip((5, 10, 15), PERCENTILES["mp20"], strict=True):
        wanted = np.count_nonzero(valid & (energies <= limit)) / 6
        assert report.metrics[f"sr{percent}"].value == pytest.approx(wanted)
    assert report.metrics["sr15"].value >= report.metrics["sr5"].value
    assert report.metrics["sr5"].n_gen == 6


def test_other_thresholds_have_no_network():
    report = crysmetrics.success_rate(rocksalt(), thresholds="0.4,10", workers=1, cache="off")
    assert report.metrics["sr5"].value is None
    assert "--thresholds mp20" in report.metrics["sr5"].reason
