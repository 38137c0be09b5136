"""Stages of relaxation: who goes on, and what several potentials say together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sets import rocksalt

from crysgen.generation import generate
from crysgen.ranking.relaxing import (
    AT_END,
    FAILED,
    STOPPED,
    UNFINISHED,
    Stage,
    best_of_each,
    hopeless,
    known_as_published,
    staged,
    unrelaxed,
    weighed,
    with_compressed,
)
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.io import Crystals, Failure
from crysmetrics.relaxation import COMPRESSED, CONVERGED, ENERGY

NAN = float("nan")
STAGES = (Stage(2, 0.15), Stage(3, 0.01), Stage(50, 0.0))


def candidates(count: int, requests: list[int]) -> Crystals:
    crystals = Crystals.concatenate([rocksalt(5 + 0.1 * k, f"x-{k}") for k in range(count)])
    scores = np.full(count, 0.1)
    return replace(crystals, properties={"request": np.array(requests), "score": scores})


class Downhill:
    """Relaxes each crystal along a list of energies, one for each stage it takes part in."""

    def __init__(self, energies: dict[str, list[float]], last: int = 3) -> None:
        self.energies, self.last = energies, last
        self.calls: list[tuple[str, int, list[str]]] = []

    def __call__(self, name: str, crystals: Crystals, potential: str, steps: int) -> Crystals:
        number = len(self.calls)
        self.calls.append((name, steps, list(crystals.ids)))
        found = np.array([self.energies[one][number] for one in crystals.ids])
        done = np.full(len(crystals), number == self.last - 1)
        failures = [
            Failure(one, "broke")
            for one, energy in zip(crystals.ids, found, strict=True)
            if np.isnan(energy)
        ]
        return replace(
            crystals,
            lattices=crystals.lattices * 0.99,
            properties={**crystals.properties, ENERGY: found, CONVERGED: done & np.isfinite(found)},
            failures=tuple(failures),
        )


def test_only_what_may_become_the_lowest_goes_on() -> None:
    start = candidates(5, [0, 0, 0, 0, 1])
    run = Downhill(
        {
            "x-0": [-1.0, -1.1, -1.12],
            "x-1": [-0.9, -1.01, NAN],  # 0.1 above both times
            "x-2": [-0.7, NAN, NAN],  # 0.3 above
            "x-3": [NAN, NAN, NAN],
            "x-4": [5.0, 4.0, 3.0],  # of another composition
        }
    )
    ended = staged(start, np.ones(5, dtype=bool), "p", STAGES, run)
    assert [call[2] for call in run.calls] == [
        ["x-0", "x-1", "x-2", "x-3", "x-4"],
        ["x-0", "x-1", "x-4"],
        ["x-0", "x-4"],
    ]
    assert [call[:2] for call in run.calls] == [("p.0", 2), ("p.1", 3), ("p.2", 50)]
    assert ended.ends.tolist() == [AT_END, STOPPED, STOPPED, FAILED, AT_END]
    np.testing.assert_allclose(ended.energies, [-1.12, -1.01, -0.7, NAN, 3.0])
    assert ended.reasons.tolist() == ["", "", "", "broke", ""]
    # Each stage begins where the one before ended.
    shrunk = ended.crystals.lattices[:, 0, 1] / start.lattices[:, 0, 1]
    np.testing.assert_allclose(shrunk, [0.99**3, 0.99**2, 0.99, 0.99, 0.99**3])


def test_the_likely_are_given_more_time_than_the_unlikely() -> None:
    energies, position = np.array([-1.0, -0.9, -0.9, NAN]), np.zeros(4, dtype=int)
    scores = np.array([0.5, 0.4, 1e-4, NAN])
    assert hopeless(energies, scores, position, 0.04).tolist() == [False, False, True, True]
    assert hopeless(energies, scores, position, 0.20).tolist() == [False, False, False, True]
    assert hopeless(energies, scores, np.arange(4), 0.0).tolist() == [False, False, False, False]


def test_what_is_not_wanted_is_not_relaxed() -> None:
    run = Downhill({"x-1": [-1.0]}, last=1)
    ended = staged(candidates(2, [0, 0]), np.array([False, True]), "p", STAGES, run)
    assert ended.ends.tolist() == ["", AT_END]
    assert np.isnan(ended.energies[0])


def test_crystals_with_two_spins_start_from_two_volumes_and_the_better_end_counts() -> None:
    oxide = replace(rocksalt(4.2, "x-0"), atomic_numbers=np.array([8, 27]))
    other = rocksalt(5.6, "x-1")
    start = Crystals.concatenate([oxide, other])
    start = replace(start, properties={"request": np.zeros(2, int), "score": np.full(2, 0.5)})
    starts, owner = with_compressed(start)
    assert owner.tolist() == [0, 1, 0]
    assert starts.volumes[2] / starts.volumes[0] == pytest.approx(COMPRESSED)
    run = Downhill({"x-0": [-1.0], "x-0~": [-1.01], "x-1": [-1.0]}, last=1)
    ended = staged(starts, np.ones(3, dtype=bool), "p", STAGES, run)
    best = best_of_each(ended, owner, 2)
    np.testing.assert_allclose(best.energies, [-1.01, -1.0])
    # An end that is one comes before a lower energy that is on its way.
    ended.ends[2] = UNFINISHED
    np.testing.assert_allclose(best_of_each(ended, owner, 2).energies, [-1.0, -1.0])


def test_potentials_are_averaged_above_their_own_lowest() -> None:
    position = np.array([0, 0, 0, 1])
    energies, spread = weighed(
        np.array([[-1.0, -0.98, -0.7, -3.0], [-2.0, -2.04, NAN, NAN]]), position
    )
    np.testing.assert_allclose(energies, [-0.98, -0.99, -0.7, -3.0])
    np.testing.assert_allclose(spread, [0.04, 0.02, NAN, NAN])


def test_samples_are_relaxed_before_they_are_made_symmetric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Crystals] = []

    def kept(candidates: Crystals, *args: Any) -> tuple[Crystals, list[Any]]:
        seen.append(candidates)
        return unrelaxed(candidates), []

    monkeypatch.setattr("crysgen.generation.relax", kept)
    settings = SamplingSettings(method="diffusion", energies=False, steps=5)
    where = Resources(device="cpu", workers=1)
    plain = generate("NaCl", 3, settings=replace(settings, symmetrize=False), resources=where)
    generate("NaCl", 3, settings=replace(settings, relax=True), resources=where)
    made = {c.lattices.round(6).tobytes() for c in seen[0]}
    assert made == {c.lattices.round(6).tobytes() for c in plain.crystals}
    tidy = generate("NaCl", 3, settings=settings, resources=where)
    assert made != {c.lattices.round(6).tobytes() for c in tidy.crystals}


def test_known_structures_come_back_as_they_were_published() -> None:
    published = candidates(4, [0, 0, 1, 1])
    status = np.array(["known (x)", "predicted", "predicted", "known (y)"])
    energies = np.array([-1.0, -2.0, -3.0, -4.0])
    relaxed = replace(
        published[[3, 2, 1, 0]],
        lattices=published.lattices[::-1] * 1.1,
        properties={"status": status[::-1], ENERGY: energies[::-1]},
        failures=(Failure("z", "lost"),),
    )
    found = known_as_published(relaxed, published)
    assert found.ids == relaxed.ids
    assert found.failures == relaxed.failures
    growth = (found.volumes / published.volumes[::-1]) ** (1 / 3)
    np.testing.assert_allclose(growth, [1, 1.1, 1.1, 1])
    np.testing.assert_array_equal(found.properties[ENERGY], energies[::-1])


def test_layers_that_were_published_too_far_apart_come_together() -> None:
    published = candidates(2, [0, 0])
    shrunk = published.lattices * np.array([1, 1, 0.87])
    shrunk[1] = published.lattices[1] * np.array([1, 1, 0.95])
    status = np.array(["known (x)", "known (y)"])
    relaxed = replace(published, lattices=shrunk, properties={"status": status})
    found = known_as_published(relaxed, published)
    np.testing.assert_allclose(found.lattices, [shrunk[0], published.lattices[1]])


def test_what_is_written_of_known_structures_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    def swollen(candidates: Crystals, *args: Any) -> tuple[Crystals, list[Any]]:
        made = unrelaxed(replace(candidates, lattices=candidates.lattices * 1.1))
        return replace(made, properties={**made.properties, ENERGY: np.zeros(len(made))}), []

    settings = SamplingSettings(method="retrieval", energies=False, library="known")
    where = Resources(device="cpu", workers=1)
    plain = generate("NaCl", 6, settings=settings, resources=where)
    monkeypatch.setattr("crysgen.generation.relax", swollen)
    after = generate("NaCl", 6, settings=replace(settings, relax=True), resources=where)
    known = after.table["status"].str.startswith("known").to_numpy()
    assert known.any()
    assert not known.all()
    volumes = after.table["volume_per_atom"].to_numpy()
    before = plain.table["volume_per_atom"].to_numpy()
    for is_known, volume in zip(known, volumes, strict=True):
        assert np.isclose(volume, before, rtol=1e-4).any() == is_known
    shortest = after.table["min_distance"].to_numpy()
    assert np.isclose(shortest[known][0], plain.table["min_distance"][0], rtol=1e-4)
