"""Probabilities of proposals: fitted, falling, and the same for few and many."""

from __future__ import annotations

import numpy as np
import pytest

from crysgen import generate
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.propose import propose
from crysgen.retrieval.scoring.calibration import FEATURES
from crysgen.retrieval.scoring.probability import INPUTS, WEIGHTS, inputs, probabilities
from crysgen.retrieval.training.fit_probability import fitted, of_first_and_later
from crysgen.retrieval.training.leave_one_out import benchmark_mask, equal_entries
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.io.elements import ATOMIC_NUMBERS as Z


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.load(extra=[])


def test_every_input_has_a_weight() -> None:
    for kind in ("cell", "formula"):
        assert list(WEIGHTS[kind]) == ["first", "later"]
        assert all(tuple(weights) == INPUTS for weights in WEIGHTS[kind].values())


def test_later_places_are_no_likelier() -> None:
    rng = np.random.default_rng(0)
    logits = np.sort(rng.normal(size=40))[::-1] * 3
    table = rng.normal(size=(40, len(FEATURES)))
    found = probabilities(inputs(logits, table, np.full(40, 5)))
    assert (np.diff(found) < 0).all()
    assert 0 < found[-1] < found[0] < 1


def test_first_proposals_have_a_regression_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {
        of: dict.fromkeys(INPUTS, 0.0) | {"constant": constant}
        for of, constant in (("first", 2.0), ("later", -2.0))
    }
    monkeypatch.setitem(WEIGHTS, "cell", weights)
    table = inputs(np.zeros(3), np.zeros((3, len(FEATURES))), np.full(3, 5))
    found = probabilities(table)
    assert found[0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert found[1:] == pytest.approx(1 / (1 + np.exp(2)), abs=1e-5)
    some = [(table, np.array([True, False, True]))] * 2
    parts = of_first_and_later(some)
    assert [x.shape[0] for x, _ in parts.values()] == [2, 4]
    assert parts["first"][1].all()
    assert parts["later"][1].tolist() == [False, True] * 2


def test_the_fit_finds_how_sure_the_order_is() -> None:
    # Shares twice as sure as they should be, on top of a constant.
    rng = np.random.default_rng(1)
    examples, truths = [], []
    for _ in range(1500):
        logits = np.sort(rng.normal(size=8) * 3)[::-1]
        table = np.zeros((8, len(FEATURES)))
        table[:, FEATURES.index("nearest")] = rng.normal(size=8)
        given = inputs(logits, table, np.full(8, 4))
        truth = 1 / (1 + np.exp(-(0.5 * given[:, 1] + given[:, INPUTS.index("nearest")] - 0.5)))
        examples.append((given, rng.random(8) < truth))
        truths.append(truth)
    given = np.concatenate([x for x, _ in examples])
    is_match = np.concatenate([y for _, y in examples])
    weights = fitted(given, is_match)
    found = 1 / (1 + np.exp(-given @ weights))
    assert np.abs(found - np.concatenate(truths)).mean() < 0.02
    near = fitted(given[:320], is_match[:320], weights)
    assert np.abs(given @ (near - weights)).mean() < 1.0


@pytest.mark.parametrize("name", ["known", "benchmark"])
def test_order_and_probabilities_are_the_same_for_few_and_many(name: str) -> None:
    settings = SamplingSettings(method="retrieval", library=name, energies=False)
    made = {
        n: generate("NaNbO3", n, settings=settings, resources=Resources(workers=1)).table
        for n in (1, 4, 30)
    }
    for n in (1, 4):
        for column in ("prototype_id", "probability", "score"):
            assert made[n][column].tolist() == made[30][column].tolist()[:n]


def test_more_proposals_than_are_calibrated_come_behind(library: Library) -> None:
    atoms = {Z["Na"]: 1, Z["Nb"]: 1, Z["O"]: 3}
    few, many = propose(library, atoms, 20), propose(library, atoms, 140)
    rows = [[(p.template_id, p.score, p.probability) for p in some] for some in (few, many)]
    assert rows[0] == rows[1][:20]
    assert (np.diff([p.score for p in many]) < 0).all()
    assert (np.diff([p.probability for p in many]) < 0).all()


def test_what_matches_a_crystal_is_left_out_and_other_polymorphs_stay(library: Library) -> None:
    entries = library.entries
    of_formula = entries.of_formula({Z["Zn"]: 1, Z["S"]: 1})
    target = next(cell for cell in map(entries.crystal, of_formula) if cell.space_group == 186)
    same = equal_entries(library, target)
    groups = {int(entries.space_groups[entries.position[name]]) for name in same}
    assert groups == {186}
    assert len(same) < len(of_formula)
    atoms = dict(zip(target.elements.tolist(), target.counts, strict=True))
    found = propose(library, atoms, 20, exclude_ids=same)
    mask = benchmark_mask(found, target)
    groups = {p.space_group for p, matches in zip(found, mask, strict=True) if matches}
    assert 186 in groups  # wurtzites of other elements
    assert 225 not in groups
    assert any(p.space_group == 225 for p in found)
