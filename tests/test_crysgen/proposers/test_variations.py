"""Variations of the library's first proposals, beside its proposals and samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from crysgen.compositions.formulas import parse_formula
from crysgen.proposers.base import Method
from crysgen.proposers.refine import Refine
from crysgen.proposers.retrieval import Retrieval
from crysgen.proposers.variations import SHARE, STRENGTHS, SURE, Variations
from crysgen.requests import ask_formulas
from crysgen.settings import Resources, SamplingSettings
from crysgen.training.batch import Batch
from crysmetrics.io import Crystals

SETTINGS = SamplingSettings(library="benchmark", steps=5)
CPU = Resources(device="cpu", workers=1)
UNSURE, KNOWN = "LiMnFeO4", "NaCl"


def proposals(*formulas: str, count: int = 10) -> tuple[Variations, Crystals]:
    requests = ask_formulas([parse_formula(text) for text in formulas], count)
    found = list(
        Retrieval(requests, SETTINGS, CPU).run(list(map(str, range(len(requests)))), print)
    )
    method = Variations(requests, SETTINGS, CPU)
    return method, Crystals.concatenate(found)


@pytest.fixture(scope="module")
def planned() -> Variations:
    method, earlier = proposals(KNOWN, UNSURE)
    method.plan(earlier)
    return method


def test_only_the_first_of_unsure_compositions_are_varied(planned: Variations) -> None:
    assert planned.pieces() == ["1"]
    (starts,) = planned.starts.values()
    assert len(starts) == SHARE * 10
    chances = starts.properties["probability"]
    assert chances[0] < SURE
    assert (np.diff(chances) <= 0).all()


def test_variations_are_other_crystals_of_the_same_atoms(planned: Variations) -> None:
    (made,) = planned.run(["1"], lambda _: None)
    (starts,) = planned.starts.values()
    assert 0 < len(made) <= len(starts) * len(STRENGTHS)
    assert set(made.properties["prototype_id"]) <= set(starts.properties["prototype_id"])
    assert set(made.properties["method"]) == {"refine"}
    assert np.isnan(made.properties["probability"]).all()
    for name, crystal in zip(made.ids, made, strict=True):
        start = starts[int(name.partition("/")[2].partition("-")[0])]
        assert sorted(crystal.atomic_numbers) == sorted(start.atomic_numbers)
        assert abs(crystal.volumes[0] / start.volumes[0] - 1) > 1e-4


def test_variations_do_not_depend_on_what_else_is_asked_for(planned: Variations) -> None:
    alone, earlier = proposals(UNSURE)
    alone.plan(earlier)
    (one,), (other,) = (method.run(method.pieces(), print) for method in (alone, planned))
    assert (one.properties["seed"] == other.properties["seed"]).all()
    assert np.allclose(one.lattices, other.lattices, atol=1e-4)


def test_nothing_is_varied_where_a_space_group_is_wanted_or_the_model_has_no_noise() -> None:
    method, earlier = proposals(UNSURE)
    for settings in (
        replace(SETTINGS, space_group=12),
        replace(SETTINGS, draw_space_groups=True),
        replace(SETTINGS, model="adaptive-cell"),
    ):
        other = Variations(method.requests, settings, CPU)
        other.plan(earlier)
        assert other.pieces() == []
    method.plan(Crystals.empty())
    assert method.pieces() == []


@pytest.mark.parametrize("kind", [Variations, Refine])
@pytest.mark.parametrize("lost", [0, slice(None)])
def test_cells_that_ran_away_are_left_out(
    planned: Variations, kind: type[Method], lost: int | slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = planned if kind is Variations else Refine(planned.requests, SETTINGS, CPU)
    (whole,) = method.run(["1"], lambda _: None)
    model: Any = method.samples.model
    refine = model.refine

    def without(*given: Any) -> Batch:
        made: Batch = refine(*given)
        lattices = made.lattices.clone()
        lattices[lost] = torch.nan
        return made.with_geometry(made.frac_coords, lattices)

    monkeypatch.setattr(model, "refine", without)
    (found,) = method.run(["1"], lambda _: None)
    if lost != 0:
        assert not len(found)
        assert [failure.file for failure in found.failures] == ["1"]
        return
    assert 0 < len(found) < len(whole)
    assert not found.failures
    row = {name: i for i, name in enumerate(whole.ids)}
    rows = np.array([row[name] for name in found.ids])
    for name, values in found.properties.items():
        np.testing.assert_array_equal(values, whole.properties[name][rows])
    np.testing.assert_allclose(found.lattices, whole[rows].lattices, atol=1e-4)
