"""New crystals by exchanging similar elements: what follows from known ones, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crysgen.training.substitutions import (
    Exchanges,
    compositions,
    exchanges,
    extended,
    similarity,
)
from crysmetrics.errors import InputError
from crysmetrics.io import Crystals

EDGES = {3: 2.0, 11: 2.5, 19: 3.1, 37: 3.3, 9: 0.0, 17: 0.5, 35: 0.7, 53: 1.0}
"""Å; an alkali halide's primitive edge is the sum, and volumes only nearly follow the exchange."""


def halides(leave_out: set[tuple[int, int]] = frozenset(), caesium_type: bool = False) -> Crystals:
    """Rock salts (primitive cells of two atoms); potassium's in the structure of CsCl if asked."""
    parts = []
    for cation in (3, 11, 19, 37):
        for anion in (9, 17, 35, 53):
            if (cation, anion) in leave_out:
                continue
            edge = 2.0 + EDGES[cation] + EDGES[anion]
            cubic = caesium_type and cation == 19
            cell = edge * np.eye(3) if cubic else edge / 2 * (np.ones((3, 3)) - np.eye(3)) * 1.5
            parts.append(
                Crystals(
                    np.array([cation, anion]),
                    np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
                    cell[None],
                    np.array([2]),
                    (f"{cation}-{anion}",),
                )
            )
    return Crystals.concatenate(parts)


def test_a_missing_compound_is_predicted_from_its_neighbours() -> None:
    known = halides({(11, 35)})
    found = exchanges(known)
    new = found.applied(known)
    assert compositions(new) == [((11, 1), (35, 1))]
    whole = halides()
    real = whole[[whole.ids.index("11-35")]]
    assert new.volumes[0] == pytest.approx(real.volumes[0], rel=0.15)
    assert not set(compositions(new)) & set(compositions(known))
    template = known[[int(found.rows[0])]]
    np.testing.assert_allclose(new.frac_coords, template.frac_coords)
    ratio = new.lattices[0] / np.where(template.lattices[0], template.lattices[0], 1)
    assert np.unique(ratio[template.lattices[0] != 0].round(9)).size == 1


def test_elements_of_other_structures_are_not_exchanged() -> None:
    known = halides(caesium_type=True)
    groups = np.array([225 if z != 19 else 221 for z in known.atomic_numbers[::2]])
    shares = similarity(known, groups).shares
    assert shares[19].sum() == shares[:, 19].sum() == 0
    assert shares[3, 11] == shares[11, 3] > 0.5
    assert shares[3, 9] == 0


def test_where_known_crystals_disagree_nothing_is_predicted() -> None:
    """Bromides of Li, K and Rb have a structure each, and so have sodium's salts: what of NaBr?"""
    agree = halides({(11, 35)})
    assert len(exchanges(agree).rows) == 1
    cells = {
        "3-35": np.eye(3),
        "37-35": np.diag([1.0, 1.0, 1.3]),
        "11-17": np.diag([1.0, 1.3, 1.6]),
        "11-53": np.eye(3),
    }
    disagree = [
        replace(one, lattices=3.3 * cells.get(one.ids[0], one.lattices[0] / 3.3).reshape(1, 3, 3))
        for one in agree
    ]
    assert len(exchanges(Crystals.concatenate(disagree)).rows) == 0


def test_without_similar_elements_nothing_is_predicted() -> None:
    found = exchanges(halides()[:1])
    assert len(found.rows) == 0
    assert len(found.applied(halides()[:1])) == 0


def test_exchanges_are_kept_and_belong_to_their_crystals(tmp_path: Path) -> None:
    known = halides({(11, 35), (19, 9)})
    found = exchanges(known)
    found.save(tmp_path / "exchanges.npz")
    again = Exchanges.load(tmp_path / "exchanges.npz")
    one, other = found.applied(known), again.applied(known)
    assert one.sha256() == other.sha256()
    assert len(one) == 2
    with pytest.raises(InputError, match="other crystals"):
        again.applied(halides())
    np.savez(tmp_path / "wrong.npz", rows=np.zeros(3))
    with pytest.raises(InputError, match="no exchanges"):
        Exchanges.load(tmp_path / "wrong.npz")


def test_known_crystals_stand_beside_new_ones_as_often_as_asked() -> None:
    known = halides({(11, 35), (19, 9), (3, 17)})
    found = exchanges(known)
    found = replace(found, votes=np.array([1.2, 4.1, 3.9], dtype=np.float32))
    both = extended(known, found, 2, repeats=3)
    new = Counter(compositions(both)) - Counter(3 * compositions(known))
    assert new == Counter(2 * compositions(found.applied(known))[1:])  # two votes a copy
    assert len(set(both.ids)) == len(both) == 4 + 3 * len(known)
    assert len(extended(known, found, 3, repeats=1)) == 5 + len(known)
    many = replace(found, votes=np.full(3, 100.0, dtype=np.float32))
    assert len(extended(known, many, 3, repeats=1)) == 12 + len(known)
    assert extended(known, found, 2, 3).sha256() == both.sha256()


def test_of_too_many_those_with_the_most_votes_are_kept() -> None:
    known = halides({(11, 35), (19, 9), (3, 17)})
    found, capped = exchanges(known), exchanges(known, most=1)
    assert len(found.rows) == 3
    assert capped.votes.tolist() == [found.votes.max()]


def test_cells_are_those_of_the_template_but_for_their_size() -> None:
    known = halides({(11, 35)})
    found = replace(exchanges(known), growth=np.array([1.1], dtype=np.float32))
    row = int(found.rows[0])
    grown = found.applied(known).volumes[0] / known.volumes[row]
    assert grown == pytest.approx(1.1**3, rel=1e-6)
