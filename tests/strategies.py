"""Hypothesis strategies for crystals, and what makes two of them equal."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from crysmetrics.io import Crystals, Failure
from crysmetrics.io.crystals import wrap

FRACTIONS = st.one_of(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.0, 1 / 3, 0.33333, 0.5, 2 / 3, 0.9999999999, 1 - 2**-53, 5e-324]),
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
"""Ids that can be file names as they are."""
ODD_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)
"""Any text at all: controls, lone surrogates, slashes, other alphabets."""


@st.composite
def lattices(draw: st.DrawFn) -> NDArray[np.float64]:
    """(3, 3) rows in Å: right- and left-handed, oblique and needle-like, never flat."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    while True:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1, 20, size=(3, 1))
        faces = np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]])
        if abs(np.linalg.det(cell)) > 0.2 * np.linalg.norm(faces, axis=1).max():
            return cell


@st.composite
def crystals(
    draw: st.DrawFn,
    ids: st.SearchStrategy[str] = NAMES,
    max_size: int = 4,
    properties: bool = False,
) -> Crystals:
    """Up to `max_size` crystals with up to six atoms each."""
    names = draw(st.lists(ids, min_size=1, max_size=max_size, unique_by=str.casefold))
    counts = [draw(st.integers(1, 6)) for _ in names]
    total = sum(counts)
    extra = {}
    if properties:
        size = len(names)
        extra = draw(
            st.dictionaries(
                ODD_TEXT,
                st.one_of(
                    st.lists(st.floats(), min_size=size, max_size=size),
                    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=size, max_size=size),
                    st.lists(st.booleans(), min_size=size, max_size=size),
                    st.lists(st.text(), min_size=size, max_size=size),
                ).map(np.array),
                max_size=3,
            )
        )
    failures = draw(st.lists(st.builds(Failure, ODD_TEXT, ODD_TEXT), max_size=2 * properties))
    return Crystals(
        np.array(draw(st.lists(st.integers(1, 118), min_size=total, max_size=total))),
        np.array(draw(st.lists(FRACTIONS, min_size=3 * total, max_size=3 * total))),
        np.stack([draw(lattices()) for _ in names]),
        np.array(counts),
        tuple(names),
        extra,
        tuple(failures),
    )


def lattice_parameters(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 6) lengths (Å) and angles (degrees) of (B, 3, 3) lattices."""
    lengths = np.linalg.norm(cells, axis=2)
    unit = cells / lengths[:, :, None]
    cosines = np.einsum("bik,bik->bi", unit[:, [1, 0, 0]], unit[:, [2, 2, 1]])
    return np.hstack([lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))])


def assert_same(found: Crystals, wanted: Crystals, tolerance: float) -> None:
    """Same atoms in the same order, same cell up to rotation, same handedness of the crystal."""
    assert found.atomic_numbers.tolist() == wanted.atomic_numbers.tolist()
    assert found.num_atoms.tolist() == wanted.num_atoms.tolist()
    parameters = lattice_parameters(found.lattices), lattice_parameters(wanted.lattices)
    np.testing.assert_allclose(*parameters, atol=tolerance)
    # Turning all axes round makes a left-handed cell a right-handed one of the same crystal.
    turned = np.linalg.det(found.lattices) * np.linalg.det(wanted.lattices) < 0
    sign = np.repeat(np.where(turned, -1, 1), wanted.num_atoms)[:, None]
    delta = wrap(found.frac_coords - sign * wanted.frac_coords + 0.5) - 0.5
    lengths = np.linalg.norm(wanted.lattices, axis=2)[wanted.structure_index]
    assert np.abs(delta * lengths).max() < tolerance
