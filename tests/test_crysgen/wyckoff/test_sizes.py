"""Cell sizes of requests in a space group."""

from __future__ import annotations

import pytest

from crysgen.compositions.formulas import parse_formula
from crysgen.requests import ask_formulas
from crysgen.wyckoff.fillings import Fillings, contents_of
from crysgen.wyckoff.sizes import fit_sizes
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import space_group


@pytest.mark.parametrize(("formula", "number"), [("TiO2", 136), ("Al2O3", 167), ("NaCl", 62)])
def test_all_samples_are_in_cells_that_have_a_place(formula: str, number: int) -> None:
    (request,) = ask_formulas([parse_formula(formula)], 16)
    fitted = fit_sizes(request, number)
    assert fitted.count == 16
    group = space_group(number)
    for units, _ in fitted.sizes:
        assert Fillings(group, contents_of(fitted.formula, units, group)).count


def test_a_size_that_was_asked_for_is_not_replaced() -> None:
    (request,) = ask_formulas([parse_formula("TiO2")], 4, units=(1, 2))
    with pytest.raises(UserError, match="no place for 1 formula unit"):
        fit_sizes(request, 136)
    (request,) = ask_formulas([parse_formula("TiO2")], 4, units=(2,))
    assert fit_sizes(request, 136).sizes == ((2, 4),)


def test_without_any_place_the_nearest_size_is_named() -> None:
    (request,) = ask_formulas([parse_formula("NaCl")], 4, max_atoms=6)
    with pytest.raises(UserError, match="nearest cells that work hold 4"):
        fit_sizes(request, 62, 6)
