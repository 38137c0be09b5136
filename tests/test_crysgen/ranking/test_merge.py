"""Candidates of several sources: duplicates merged, the likeliest first."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sets import one, rocksalt, zinc_blende

from crysgen.ranking.energy import lowest
from crysgen.ranking.merge import DECAY, MOST_NOVEL, NOVEL, completed, rank, same_structures
from crysmetrics.io import Crystals

NAN = float("nan")
FLAT = [[0, 0, 0], [0.5, 0.5, 0.1]]


def caesium_chloride(a: float = 3.5, name: str = "cscl") -> Crystals:
    return one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], a, name)


def test_equal_structures_at_other_volumes_are_one() -> None:
    crystals = Crystals.concatenate(
        [rocksalt(5.6, "a"), caesium_chloride(), rocksalt(5.9, "b"), zinc_blende()]
    )
    assert same_structures(crystals).tolist() == [0, 1, 0, 2]


def test_equal_proposals_are_one_with_the_higher_probability() -> None:
    crystals = Crystals.concatenate([caesium_chloride(), rocksalt(5.6, "a"), rocksalt(5.9, "b")])
    ranking = rank(crystals, np.array([0.45, 0.3, 0.25]))
    assert ranking.order.tolist() == [
        0,
        1,
    ]  # the likelier of the two that are equal stands for both
    assert ranking.scores == pytest.approx([0.45, 0.3])
    assert ranking.groups.tolist() == [0, 1, 1]


def test_a_known_structure_stands_for_the_samples_that_equal_it() -> None:
    bent = one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.49]], rocksalt(5.6).lattices[0], "sample")
    crystals = Crystals.concatenate([caesium_chloride(), rocksalt(5.6, "known"), bent])
    ranking = rank(crystals, np.array([0.9, 0.05, NAN]))
    assert same_structures(crystals).tolist() == [0, 1, 1]
    assert ranking.order.tolist() == [0, 1]
    # However many samples equal it, its probability stays.
    assert ranking.scores == pytest.approx([0.9, 0.05])
    new = Crystals.concatenate([caesium_chloride(), rocksalt(5.6, "known"), zinc_blende()])
    assert rank(new, np.array([0.9, 0.05, NAN])).order.tolist() == [0, 1, 2]


def test_of_relaxed_equals_the_lowest_is_shown() -> None:
    crystals = Crystals.concatenate(
        [rocksalt(5.6, "a"), rocksalt(5.9, "b"), rocksalt(5.7, "failed"), rocksalt(5.65, "sample")]
    )
    scores = np.array([0.2, 0.7, 0.1, NAN])
    complexity = np.array([1.9, 1.2, 1.2, 1.2])
    for energies, chosen in (
        ([-3.1, -3.0, NAN, -3.2], 0),
        ([-3.1, -3.0999, NAN, -3.2], 1),  # the same minimum
        ([NAN, NAN, NAN, -3.2], 1),
    ):
        ranking = rank(crystals, scores, shown=partial(lowest, np.array(energies), complexity))
        assert ranking.order.tolist() == [chosen]
    assert rank(crystals, scores).order.tolist() == [1]


def test_of_relaxed_equals_the_known_one_is_shown_unless_a_simpler_one_lies_lower() -> None:
    energies, rows = np.array([-3.0, -3.1, NAN]), np.arange(3)
    for known, complexity, chosen in (
        ([True, False, False], [2.1, 8.3, 8.3], 0),  # a distortion by the potential
        ([True, False, False], [8.3, 2.1, 8.3], 1),
        ([False, False, True], [8.3, 8.3, 8.3], 2),
        ([False, False, False], [2.1, 8.3, 8.3], 1),
    ):
        assert lowest(energies, np.array(complexity), rows, np.array(known)) == chosen


def test_unmerged_keeps_all() -> None:
    crystals = Crystals.concatenate([rocksalt(5.6, "a"), rocksalt(5.9, "b")])
    assert rank(crystals, np.array([0.1, 0.9]), merge=False).order.tolist() == [1, 0]


def test_new_structures_share_what_proposals_leave_by_energy() -> None:
    scores, labels = np.array([0.6, 0.2, NAN, NAN, NAN]), np.array([0, 1, 2, 3, 0])
    found = completed(scores, labels, np.array([NAN, NAN, -0.9, -1.0, -2.0]))
    assert found[:2] == pytest.approx([0.6, 0.2])
    assert found[2:] == pytest.approx([0.4 * NOVEL * DECAY, 0.4 * NOVEL, 0])


def test_structures_that_several_samples_agree_on_come_before_others() -> None:
    scores, labels = np.array([0.6, NAN, NAN, NAN, NAN]), np.array([0, 1, 2, 2, 2])
    found = completed(scores, labels, np.array([NAN, -2.0, -0.9, -1.0, -0.8]))
    assert found == pytest.approx([0.6, 0.4 * NOVEL * DECAY, 0, 0.4 * NOVEL * 9, 0])
    agreed = completed(np.r_[scores, [NAN] * 5], np.r_[labels, [2] * 5])
    assert agreed.sum() == pytest.approx(0.6 + 0.4 * (NOVEL * DECAY + MOST_NOVEL))


def test_from_some_place_on_structures_of_samples_come_first() -> None:
    crystals = Crystals.concatenate(
        [rocksalt(5.6, "a"), caesium_chloride(), zinc_blende(), one([11, 17], FLAT, 4.0, "flat")]
    )
    scores = np.array([0.6, 0.2, 0.1, NAN])
    ranking = rank(crystals, scores, own_places=2)
    assert ranking.order.tolist() == [0, 1, 3, 2]
    assert ranking.scores == pytest.approx([0.6, 0.2, 0.2, 0.1])
    assert ranking.probabilities == pytest.approx([0.6, 0.2, 0.2, 0.1])
    for places, last in ((3, 0.1), (None, 0.4 * NOVEL)):
        ranking = rank(crystals, scores, own_places=places)
        assert ranking.order.tolist() == [0, 1, 2, 3]
        assert ranking.scores[3] == pytest.approx(last)
    tiers = np.array([1, 1, 1, 2])  # known structures stay before
    assert rank(crystals, scores, tiers=tiers, own_places=2).order.tolist() == [0, 1, 2, 3]


def test_structures_of_samples_are_placed_by_probability_not_by_score() -> None:
    crystals = Crystals.concatenate(
        [rocksalt(5.6, "a"), caesium_chloride(), zinc_blende(), one([11, 17], FLAT, 4.0, "flat")]
    )
    scores = np.array([0.9, 0.002, 0.001, NAN])  # shares fall faster than probabilities
    for left, order in ((0.2, [0, 1, 2, 3]), (0.9, [0, 1, 3, 2])):
        chances = np.array([1 - left, 0.02, 0.005, NAN])
        ranking = rank(crystals, scores, probabilities=chances)
        assert ranking.order.tolist() == order
        assert (np.diff(ranking.probabilities) <= 0).all()
        assert (np.diff(ranking.scores) <= 0).all()
        assert ranking.probabilities[order.index(3)] == pytest.approx(left * NOVEL)


def test_without_scores_and_energies_all_are_equal() -> None:
    assert completed(np.full(4, NAN), np.arange(4)) == pytest.approx([0.25] * 4)
