"""Errors with which a model denoises its own samples: what orders those that were found once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crysgen.checkpoints import load_model
from crysgen.models.base import Judges
from crysgen.proposers.model import judged
from crysgen.training.batch import Batch
from crysgen.training.data import canonical
from crysmetrics.examples import unpack
from crysmetrics.io import Crystals, read


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Crystals:
    _, reference = unpack(tmp_path_factory.mktemp("examples"))
    found = read(reference, workers=1)
    return canonical(found[found.num_atoms <= 12][:12]).with_failures(())


@pytest.fixture(scope="module")
def model() -> Judges:
    found = load_model("gemsdiff-mp-v3", "cpu")
    assert isinstance(found, Judges)
    return found


def errors_of(model: Judges, crystals: Crystals) -> np.ndarray:
    return model.denoising_errors(Batch.from_crystals(crystals, torch.float32)).numpy()


def test_real_crystals_are_denoised_with_smaller_errors(model: Judges, real: Crystals) -> None:
    moved = np.random.default_rng(0).normal(0, 0.1, real.frac_coords.shape)
    wrong = replace(real, frac_coords=(real.frac_coords + moved) % 1)
    several = real.num_atoms > 1
    good, bad = errors_of(model, real)[several], errors_of(model, wrong)[several]
    assert (good < bad).mean() > 0.8
    assert np.median(good) < 0.5 * np.median(bad)


def test_errors_do_not_depend_on_the_batch(model: Judges, real: Crystals) -> None:
    together = errors_of(model, real)
    alone = [errors_of(model, crystal)[0] for crystal in real]
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)


def test_errors_stay_with_their_candidates(model: Judges, real: Crystals) -> None:
    flat = replace(real[:1].with_ids(["flat"]), lattices=np.diag([3.0, 3.0, 0.0])[None])
    mixed = Crystals.concatenate([flat, real[::-1]])
    found = judged(model, mixed)
    assert found.ids == mixed.ids
    errors = found.properties["denoising_error"]
    assert np.isnan(errors[0])  # has no reduced cell
    assert errors[1:] == pytest.approx(errors_of(model, real)[::-1], rel=1e-3, abs=1e-5)


def test_a_model_that_can_not_judge_leaves_them_unknown(real: Crystals) -> None:
    found = judged(load_model("adaptive-cell", "cpu"), real)
    assert np.isnan(found.properties["denoising_error"]).all()
