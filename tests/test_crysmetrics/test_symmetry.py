import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

from crysmetrics.features.extractor import Run
from crysmetrics.features.registry import get_extractor
from crysmetrics.io import Crystals
from crysmetrics.symmetry import find_space_groups


def test_textbook_space_groups():
    cells = Crystals.concatenate(
        [
            rocksalt(),
            one([29], [[0, 0, 0]], 3.6 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), "fcc"),
            one([26, 26], [[0, 0, 0], [0.5, 0.5, 0.5]], 2.87, "bcc"),
            one([55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], 4.12, "CsCl"),
        ]
    )
    numbers, failures = find_space_groups(cells)
    assert numbers.tolist() == [225, 225, 229, 221]
    assert not failures


def test_tolerance_decides():
    moved = one([55, 17], [[0, 0, 0], [0.5, 0.5, 0.51]], 4.12)
    assert find_space_groups(moved)[0][0] == 221
    assert find_space_groups(moved, 0.001)[0][0] == 99


@pytest.mark.parametrize(
    "cell",
    [
        one([1, 1], [[0, 0, 0], [0, 0, 0]], 3.0),
        one([1, 1], [[0, 0, 0], [1e-9, 0, 0]], 3.0),
        one([1], [[0, 0, 0]], np.diag([1e-3, 1.0, 1e3])),
        one([1], [[0, 0, 0]], np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 1e-12]])),
        one(
            [1, 8, 8],
            [[0, 0, 0], [0.3, 0.6, 0.1], [0.7, 0.2, 0.5]],
            np.array([[18.0, 1, 0], [2, 2, 0.1], [9, 3, 0.3]]),
        ),
        one([1] * 20, np.zeros((20, 3)).tolist(), 0.01),
    ],
)
def test_bad_cells_have_none_or_one_and_do_not_crash(cell):
    numbers, failures = find_space_groups(cell)
    assert (0 in failures) == bool(np.isnan(numbers[0]))
    assert all(failures.values())


def test_extractor_agrees_with_spglib_on_disordered_cells():
    import spglib

    crystals = random_crystals(30, 1)
    values, failures = get_extractor("space_group", Run()).compute(crystals, None)
    for i in range(30):
        atoms = slice(crystals.offsets[i], crystals.offsets[i + 1])
        cell = (
            crystals.lattices[i],
            crystals.frac_coords[atoms],
            crystals.atomic_numbers[atoms],
        )
        found = spglib.get_symmetry_dataset(cell, symprec=0.1)
        assert (i in failures) or values[i, 0] == found.number


def test_slender_cells_are_not_given_to_moyo(monkeypatch: pytest.MonkeyPatch) -> None:
    # For such a cell, with twelve atoms, it took 24 GB of memory.
    cell = np.array([[2.138, -0.752, -0.401], [-0.752, 1.903, 1.116], [-0.401, 1.116, 137.189]])
    crystal = one([42, 16], [[0, 0, 0], [0.3, 0.2, 0.3]], cell)
    assert find_space_groups(crystal)[0][0] == 1

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("moyo was asked")

    monkeypatch.setattr("moyopy.MoyoDataset", refuse)
    assert find_space_groups(crystal)[0][0] == 1
    with pytest.raises(AssertionError, match="moyo was asked"):
        find_space_groups(rocksalt())
