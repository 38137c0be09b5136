"""What is known of stability and volume decides which prototypes and cells are proposed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crysgen.retrieval.library import hull_estimates as stability
from crysgen.retrieval.library.entries import Entries, pack
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.library.prototypes import PrimitiveCrystal
from crysgen.retrieval.proposals.merging import distinct, halved
from crysgen.retrieval.propose import propose
from crysgen.retrieval.scoring.volume import load_volume_networks, radial_histograms
from crysmetrics.errors import InputError
from crysmetrics.io.elements import ATOMIC_NUMBERS

Z = ATOMIC_NUMBERS
FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.load(extra=[])


def compound(elements: list[int], counts: tuple[int, ...]) -> PrimitiveCrystal:
    n = sum(counts)
    frac = np.zeros((n, 3))
    frac[:, 0] = np.arange(n) / n
    return PrimitiveCrystal(np.array(elements), counts, np.eye(3) * 4, frac, 1)


def small_library(hull: list[float]) -> Entries:
    cells = [compound([8, 12], (1, 1)), compound([12, 8], (1, 2)), compound([12, 8], (1, 3))]
    return pack(["a", "b", "c"], cells, np.zeros(3, dtype=np.uint8), (("x", "y"),), np.array(hull))


def test_estimated_distance_from_the_hull(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = small_library([0.0, np.nan, np.nan])
    predicted = {"b": -1.0, "c": -0.3}
    monkeypatch.setattr(
        stability,
        "predicted_energies",
        lambda e, chosen: np.array([predicted[e.ids[i]] for i in chosen]),
    )
    found = stability.estimated_above_hull(entries, {"a": -2.0})
    assert np.isnan(found[0])  # its distance is known
    # b mixes two thirds of a's composition (a, and oxygen at 0): the hull there is at -4/3.
    assert found[1] == pytest.approx(-1.0 + 4 / 3)
    # c: between b and oxygen it would be at -3/4, between a and oxygen at -1.
    assert found[2] == pytest.approx(-0.3 + 1.0)


def test_estimates_are_shipped_where_nothing_is_known(library: Library) -> None:
    entries = library.entries
    unknown = np.isnan(entries.e_above_hull.astype(float))
    assert np.isfinite(entries.hull_estimate[unknown].astype(float)).mean() > 0.95
    assert np.isnan(entries.hull_estimate[~unknown].astype(float)).all()


def test_hypothetical_voters_do_not_choose_the_symmetry(library: Library) -> None:
    # The library's rock-salt GaP is hypothetical, zinc-blende InP is real.
    found = propose(library, {Z["Ga"]: 1, Z["As"]: 1}, 5)
    assert 216 in [p.space_group for p in found[:2]]


@pytest.mark.parametrize(
    ("formula", "space_group", "edge"),
    [({"Cs": 1, "Cl": 1}, 221, 4.123), ({"Ca": 1, "F": 2}, 225, 5.463)],
)
def test_volumes_follow_the_structure(
    library: Library, formula: dict[str, int], space_group: int, edge: float
) -> None:
    found = propose(library, {Z[k]: n for k, n in formula.items()}, 12)
    cell = next(p for p in found if p.space_group == space_group)
    atoms = {221: 1, 225: 4}[space_group]  # primitive cells in a conventional one
    assert (cell.volume * atoms) ** (1 / 3) == pytest.approx(edge, rel=0.03)


def test_surroundings_are_those_of_the_scaled_structure() -> None:
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    small = radial_histograms(FCC * 4.0, frac, (1, 1))
    large = radial_histograms(FCC * 6.0, frac, (1, 1))
    assert small == pytest.approx(large, abs=1e-5)
    # Rock salt: the species can change places, and the nearest neighbours are unlike.
    assert small[0, 1] == pytest.approx(small[1, 0], abs=1e-5)
    assert small[0, 0, :6].sum() < 0.05 < small[0, 1, :6].sum()


def test_damaged_networks_for_volumes_are_one_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bad.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"bad\.npz"):
        load_volume_networks(path)


def test_species_are_halved() -> None:
    found = list(halved({Z["Al"]: 4, Z["O"]: 6}))
    assert [(e.tolist(), c) for e, c in found] == [
        ([13, 13, 8], (2, 2, 6)),
        ([8, 8, 13], (3, 3, 4)),
    ]


def test_merged_proposals_that_are_known_are_left_out(library: Library) -> None:
    first = propose(library, {Z["Na"]: 1, Z["Cl"]: 1}, 1)
    assert distinct(first, first) == []
    other = [replace(first[0], lattice=first[0].lattice * 1.05)]
    assert distinct(other, first) == []  # the same at another volume
