"""Long CIFs, parsed part by part: the same structures, and no more memory than one part takes."""

from __future__ import annotations

import pytest

from crysmetrics.io import Failure, cif, pieces
from crysmetrics.io.cif_parts import split_large

CELL = "".join(f"_cell_length_{x} 5\n" for x in "abc") + "".join(
    f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")
)
COLUMNS = "loop_\n" + "".join(
    f"_atom_site_{x}\n" for x in ("type_symbol", "fract_x", "fract_y", "fract_z")
)


def block(name: str, sites: str = "C 0 0 0\n", more: str = "") -> str:
    return f"data_{name}\n{CELL}{more}{COLUMNS}{sites}"


TEXT = "# some words\n" + "".join(
    block(f"x{i}", more="_note\n;\ndata_in_a_text\n;\n_other 'data_quoted'\n") for i in range(40)
)


@pytest.mark.parametrize("most", [300, 1000, 5000])
def test_parts_are_whole_blocks_and_together_the_text(most):
    found = list(split_large(lambda: (TEXT,), most))
    parts = [part.text for part in found]
    assert [part.length for part in found] == list(map(len, parts))
    assert "".join(parts) == TEXT
    assert [part.count("_cell_length_a") > 0 for part in parts] == [True] * len(parts)
    assert all(part.count("_cell_length_a") == part.count("data_x") for part in parts)
    assert all(len(part) <= most or part.count("data_x") == 1 for part in parts)


LONG_FIELD = "_reflections\n;\n" + "0 0 1 23.4\n" * 2000 + ";\n"


@pytest.mark.parametrize("size", [1, 7, 100, 999, 20_000])
@pytest.mark.parametrize("more", ["", LONG_FIELD, LONG_FIELD[:-2], "_a ;\n" * 999])
def test_parts_do_not_depend_on_the_pieces_that_a_text_comes_in(monkeypatch, size, more):
    monkeypatch.setattr(pieces, "_LONG_LINE", 50)
    text = TEXT + block("b", more=more) + block("c", "C 0 0 0 " * 300) + TEXT
    wanted = list(split_large(lambda: (text,), 2000))
    cut = (text[at : at + size] for at in range(0, 2 * len(text), size))
    assert list(split_large(lambda it=list(cut): it, 2000)) == wanted
    assert sum(part.text.count("_cell_length_a") for part in wanted) >= 80


@pytest.mark.parametrize(
    "text",
    [TEXT, TEXT.replace("data_in", "in") + "_a\n;\n" + block("after"), "loop_\n1 2\n" + TEXT],
)
def test_long_texts_have_the_structures_of_short_ones(monkeypatch, text):
    wanted = list(cif.parse_cif(text, "x.cif"))
    monkeypatch.setattr(cif, "MAX_BLOCK", 1000)
    found = list(cif.parse_cif(text, "x.cif"))
    assert [type(item) for item in found] == [type(item) for item in wanted]
    names = [item.name for item in wanted if not isinstance(item, Failure)]
    assert [item.name for item in found if not isinstance(item, Failure)] == names
    assert len(names) >= 39


def test_a_long_block_is_refused_and_its_neighbours_are_read(monkeypatch):
    monkeypatch.setattr(cif, "MAX_BLOCK", 1000)
    text = block("a") + block("b", "C 0 0 0\n" * 200) + block("c")
    first, second, third = cif.parse_cif(text, "x.cif")
    assert (first.name, third.name) == ("a", "c")
    assert isinstance(second, Failure)
    assert "data block" in second.reason
    assert "more than" in second.reason


def test_a_long_text_in_a_block_does_not_count(monkeypatch):
    monkeypatch.setattr(cif, "MAX_BLOCK", 1000)
    text = block("a", more="_reflections\n;\n" + "0 0 1 23.4\n" * 2000 + ";\n") + block("b")
    assert [item.name for item in cif.parse_cif(text, "x.cif")] == ["a", "b"]


def test_a_long_text_without_structures_says_so(monkeypatch):
    monkeypatch.setattr(cif, "MAX_BLOCK", 1000)
    assert list(cif.parse_cif("data_a\n_b c\n" * 500, "x.cif")) == [
        Failure("x.cif", "holds no atom sites")
    ]


@pytest.mark.parametrize("digits", [8, 10, 13, 300])
def test_a_count_that_no_cell_has_is_said_with_its_element(digits):
    formula = f"_chemical_formula_sum 'C1 O{'9' * digits}'\n_cell_formula_units_Z 100\n"
    (found,) = cif.parse_cif(block("a", "C 0 0 0\nO .5 .5 .5\n", formula), "x.cif")
    assert isinstance(found, Failure)
    assert found.reason == "states a formula with more than 1e+09 atoms of O"
