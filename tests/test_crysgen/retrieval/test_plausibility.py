"""The network that judges structures: what it can't see, what it learns, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.special import softmax

from crysgen.retrieval.library.library import Library, shipped_library
from crysgen.retrieval.propose import propose, uncalibrated
from crysgen.retrieval.scoring import plausibility as judging
from crysgen.retrieval.scoring.calibration import (
    FEATURES,
    SIMPLICITY,
    WEIGHTS,
    contacts,
    features,
    logits_of,
)
from crysgen.retrieval.scoring.plausibility import (
    PlausibilityNetwork,
    load_plausibility,
    local_environments,
    save_plausibility,
    spherical_harmonics,
)
from crysgen.retrieval.training.fit_calibration import HELD_OUT, calibration_entries, fitted
from crysgen.retrieval.training.leave_one_out import (
    Example,
    as_users_ask,
    fold_of,
    held_out_entries,
    leave_one_out_examples,
)
from crysgen.retrieval.training.plausibility import scores_of, train_plausibility
from crysmetrics.errors import InputError
from crysmetrics.io.elements import ATOMIC_NUMBERS

Z = ATOMIC_NUMBERS
Cell = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.load(extra=[])


@pytest.fixture(scope="module")
def cells(library: Library) -> list[Cell]:
    found = uncalibrated(library, {Z["Al"]: 4, Z["O"]: 6})
    return [(p.atomic_numbers, p.frac_coords, p.lattice) for p in found][:12]


@pytest.fixture(scope="module")
def asked(library: Library) -> list[Example]:
    chosen = held_out_entries(library, 16, seed=3).tolist()
    return list(leave_one_out_examples(shipped_library(), [(i, i % 3 == 0) for i in chosen]))


def random_network(seed: int = 0) -> PlausibilityNetwork:
    shipped = load_plausibility().networks[0]
    torch.manual_seed(seed)
    return PlausibilityNetwork(shipped.elements, shipped.radii).eval()


@torch.no_grad()
def scores(network: PlausibilityNetwork, cells: list[Cell]) -> NDArray[np.float64]:
    return network(local_environments(cells)).double().numpy()


def test_harmonics_obey_the_addition_theorem() -> None:
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 50, 3)))
    first, second = (spherical_harmonics(torch.tensor(v)).numpy() for v in (a, b))
    for degree in range(5):
        part = slice(degree**2, (degree + 1) ** 2)
        expected = np.polynomial.legendre.legval((a * b).sum(1), np.eye(5)[degree])
        np.testing.assert_allclose((first * second)[:, part].sum(1), expected, atol=1e-12)


def test_scores_do_not_depend_on_how_a_crystal_is_written(cells: list[Cell]) -> None:
    network = random_network()
    rng = np.random.default_rng(1)
    turn = Rotation.random(rng=1).as_matrix()
    other = []
    for numbers, frac, lattice in cells:
        order = rng.permutation(len(numbers))
        moved = (frac + rng.random(3))[order] % 1.0
        other.append((numbers[order], moved, lattice @ turn))
    np.testing.assert_allclose(scores(network, other), scores(network, cells), atol=2e-5)


def test_supercells_have_the_score_of_the_cell(cells: list[Cell]) -> None:
    network = random_network()
    numbers, frac, lattice = cells[0]
    doubled = (
        np.concatenate([numbers, numbers]),
        np.concatenate([frac, frac + np.eye(3)[0]]) / [2, 1, 1],
        lattice * [[2], [1], [1]],
    )
    one, two = scores(network, [cells[0], doubled])
    assert one == pytest.approx(two, abs=1e-5)


def test_equal_sites_are_looked_at_once(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network()
    together = local_environments(cells)
    expected = scores(network, cells)
    monkeypatch.setattr(judging, "SAME_SITE", -1.0)
    apart = local_environments(cells)
    assert len(apart.elements) == sum(len(numbers) for numbers, _, _ in cells)
    assert len(together.elements) < len(apart.elements)
    np.testing.assert_allclose(scores(network, cells), expected, atol=1e-5)


def test_tetrahedra_differ_from_octahedra() -> None:
    cubic = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2.6
    numbers = np.array([Z["Ga"], Z["As"]])
    rock_salt = (numbers, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), cubic)
    zinc_blende = (numbers, np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), cubic)
    found = load_plausibility().scores([zinc_blende, rock_salt])
    assert found[0] > found[1] + 1


def test_a_file_holds_what_was_saved(tmp_path: Path, cells: list[Cell]) -> None:
    path = tmp_path / "networks.safetensors"
    networks = [random_network(seed) for seed in range(2)]
    save_plausibility(networks, path)
    expected = np.mean([scores(network, cells) for network in networks], axis=0)
    found = load_plausibility(path).scores(cells)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_many_crystals_are_scored_in_parts(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = load_plausibility()
    expected = judge.scores(cells)
    monkeypatch.setattr(judging, "AT_ONCE", 25)
    np.testing.assert_allclose(judge.scores(cells), expected, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", None])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "networks.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="plausibility"):
        load_plausibility(path)


def test_features_have_the_order_of_the_weights(library: Library) -> None:
    proposals = uncalibrated(library, {Z["Na"]: 1, Z["Cl"]: 1})
    rows = [features(p) for p in proposals]
    assert all(tuple(row) == FEATURES for row in rows)
    table = np.array([list(row.values()) for row in rows])
    for by_formula, name in ((False, "cell"), (True, "formula")):
        weights = WEIGHTS[name]
        expected = [sum(weights[key] * value for key, value in row.items()) for row in rows]
        np.testing.assert_allclose(logits_of(table, by_formula), expected)


def test_of_formulas_simple_structures_come_first_but_not_of_exact_cells(library: Library) -> None:
    row = np.array(list(features(uncalibrated(library, {Z["Na"]: 1, Z["Cl"]: 1})[0]).values()))
    simple, larger, skewed = row.copy(), row.copy(), row.copy()
    larger[FEATURES.index("log_num_atoms")] += np.log(4)
    skewed[FEATURES.index("log_symmetry")] -= np.log(12)
    table = np.array([simple, larger, skewed])
    first, second, third = logits_of(table, by_formula=True)
    assert first > max(second, third)
    assert np.ptp(logits_of(table, by_formula=False)) == 0


def test_questions_leave_the_formula_out(library: Library, asked: list[Example]) -> None:
    assert asked
    for example in asked:
        assert len(example.cells) == len(example.is_match) == len(example.features)
        assert not (example.is_symmetric_match & ~example.is_match).any()
        assert 0 <= example.fold < 10
        # What is left out does not say either that it lies above the hull.
        assert not example.features[:, FEATURES.index("known_above_hull")].any()
    assert any(example.is_match.any() for example in asked)


def test_users_ask_by_the_reduced_formula() -> None:
    atoms, units = as_users_ask({Z["Ti"]: 2, Z["O"]: 4})
    assert atoms == {Z["Ti"]: 1, Z["O"]: 2}
    assert 2 in units


def test_training_learns_what_is_right(asked: list[Example]) -> None:
    torch.set_num_threads(1)

    def share(network: PlausibilityNetwork) -> float:
        found = []
        for example, own in zip(asked, scores_of(network, asked), strict=True):
            if example.is_match.any():
                shares = softmax(own)
                found.append(shares[example.is_match].sum())
        return float(np.mean(found))

    trained = train_plausibility(asked, epochs=60)
    assert share(trained) > share(random_network()) + 0.2


def test_weights_are_fitted_to_answers(library: Library, asked: list[Example]) -> None:
    weights = fitted(asked)
    assert tuple(weights) == FEATURES
    for name in ("user_entry", "known_above_hull"):  # of which examples tell nothing
        assert weights[name] == WEIGHTS["cell"][name]
    for name in SIMPLICITY:  # chosen, not fitted
        assert weights[name] == pytest.approx(WEIGHTS["formula"][name])
        assert fitted(asked, by_formula=False)[name] == WEIGHTS["cell"][name] == 0
    # What was left out of the training of the networks is what is asked for.
    column = FEATURES.index("plausibility")
    helpful = [replace(q, features=_with(q, column)) for q in asked]
    assert fitted(helpful)["plausibility"] > weights["plausibility"]
    # Entries of the very formula are not judged by examples that lack the right one.
    known = [replace(q, is_known=~q.is_match, features=_with(q, column, wrong=9.0)) for q in asked]
    assert fitted(known, by_formula=False)["plausibility"] == WEIGHTS["cell"]["plausibility"]
    for i in calibration_entries(library, 5):
        counts = library.entries.counts(i)
        atoms = dict(zip(library.entries.species(i).tolist(), counts, strict=True))
        assert fold_of(atoms) in HELD_OUT


def _with(example: Example, column: int, wrong: float = 0.0) -> NDArray[np.float32]:
    found = example.features.copy()
    found[:, column] = np.where(example.is_match, 1.0, wrong)
    return found


def test_contacts_do_not_depend_on_the_cell(library: Library) -> None:
    [proposal] = propose(library, {11: 1, 17: 1}, 1)
    shear = np.array([[1, 3, -5], [0, 1, 4], [0, 0, 1]])
    frac = proposal.frac_coords @ np.linalg.inv(shear) % 1.0
    skewed = replace(proposal, lattice=shear @ proposal.lattice, frac_coords=frac)
    np.testing.assert_allclose(contacts(skewed), contacts(proposal), rtol=1e-9)
