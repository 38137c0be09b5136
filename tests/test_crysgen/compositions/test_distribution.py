"""Compositions drawn for models that must be told one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from crysgen.cli import main
from crysgen.compositions.distribution import draw_compositions
from crysgen.requests import ask_cells
from crysgen.retrieval.library.library import Library
from crysgen.wyckoff.draws import draw_orbits
from crysmetrics.errors import UserError
from crysmetrics.io import read


@pytest.fixture(scope="module")
def library():
    return Library.load()


def test_without_exchange_compositions_are_those_of_known_crystals(library):
    drawn = draw_compositions(library, 60, exchanged=0.0)
    assert drawn.known.all()
    assert all(library.entries.of_formula(Counter(atoms)) for atoms in drawn.atoms)
    assert max(map(len, drawn.atoms)) <= 20
    assert draw_compositions(library, 60, exchanged=0.0).atoms == drawn.atoms
    assert draw_compositions(library, 60, 1, exchanged=0.0).atoms != drawn.atoms


def test_exchanges_keep_numbers_and_charges_and_make_new_compounds(library):
    known = draw_compositions(library, 60, exchanged=0.0)
    drawn = draw_compositions(library, 60, exchanged=0.6)
    assert 0.4 < 1 - drawn.known.mean() < 1
    for atoms, is_known in zip(drawn.atoms, drawn.known, strict=True):
        assert bool(library.entries.of_formula(Counter(atoms))) == is_known
    # Numbers of elements as known crystals have them.
    assert abs(drawn.num_elements.mean() - known.num_elements.mean()) < 0.5
    assert drawn.balanced.mean() >= known.balanced.mean() - 0.05
    assert "charge-balanced" in drawn.summary()


def test_similar_elements_replace_each_other_more_often(library):
    """Of oxides of alkali metals, say: oxygen hardly ever becomes a metal."""
    drawn = draw_compositions(library, 150, 3, exchanged=1.0)
    kinds = np.concatenate([list(set(atoms)) for atoms in drawn.atoms])
    assert len(set(kinds.tolist())) > 40
    assert drawn.balanced.mean() > 0.8


def test_cells_may_be_of_one_size(library):
    drawn = draw_compositions(library, 10, num_atoms=5)
    assert set(map(len, drawn.atoms)) == {5}
    with pytest.raises(UserError, match="so many atoms"):
        draw_compositions(library, 1, num_atoms=9999)


@pytest.mark.parametrize("number", [136, 225, 208])
def test_compositions_have_a_place_in_a_space_group(library, number):
    drawn = draw_compositions(library, 20, space_group=number)
    for atoms in drawn.atoms:
        assert sorted(draw_orbits(number, atoms, 0).atomic_numbers) == sorted(atoms)


def test_no_composition_has_a_place_in_a_space_group_that_is_too_large(library):
    with pytest.raises(UserError, match="space group 230"):
        draw_compositions(library, 3, max_atoms=4, space_group=230)


def test_equal_cells_are_one_request():
    requests = ask_cells([(8, 3, 3), (3, 3, 8), (11, 17)])
    assert [(str(r.formula), r.count) for r in requests] == [("Li2O", 2), ("NaCl", 1)]


def test_gemsdiff_answers_without_a_composition(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "out"
    words = ["sample", "--model", "gemsdiff", "-n", "3", "--num-atoms", "3", "--steps", "2"]
    done = CliRunner().invoke(main, [*words, "-o", str(out), "--workers", "1", "--no-symmetrize"])
    assert done.exit_code == 0, done.output
    assert "charge-balanced" in done.output
    made = read(out)
    assert len(made) == 3
    assert set(made.num_atoms.tolist()) == {3}
