"""Elements of CIF sites by type symbols and labels, and formulas that contradict them."""

from __future__ import annotations

import pytest
from cif_blocks import (
    SALT,
    block,
    labelled,
    refused,
    result,
)

# --- formulas ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "_chemical_formula_sum 'Na Cl'",
        "_chemical_formula_sum 'Cl1 Na1'",
        "_chemical_formula_sum NaCl\n_cell_formula_units_Z 1",
        "_chemical_formula_sum 'Na1 Cl1'\n_cell_formula_units_Z 4",  # Z of another cell
        "_chemical_formula_sum 'NA1 CL1'",
        "_chemical_formula_sum ?",
        "_chemical_formula_sum\n;\nNa\nCl\n;",
        "_chemical_formula_structural NaCl",
        "_chemical_formula_structural 'rock salt'",
        "_chemical_formula_moiety 'Na 1+, Cl 1-'",
        "_chemical_formula_sum ?\n_chemical_formula_moiety 'Cl -, Na +'",
        "_chemical_formula_sum 'Na0.5 Cl0.5'",
        "_chemical_formula_sum 'Na0.5 Cl0.5'\n_cell_formula_units_Z 2",
    ],
)
def test_formulas_that_agree(lines):
    assert result(block(*SALT, lines=lines)) == {"Na": 1, "Cl": 1}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("_chemical_formula_sum 'Na2 Cl2'", "has 2 atoms where its formula states 4"),
        ("_chemical_formula_sum 'Na Cl O'", "none of O"),
        ("_chemical_formula_sum 'Na'", "has atoms of Cl"),
        ("_chemical_formula_sum 'Na Cl2'", "formula"),
        ("_chemical_formula_sum 'Na Cl H0.5'", "formula"),
        ("_chemical_formula_sum 'Na0.5 Cl0.5'\n_cell_formula_units_Z 4", "formula"),
        ("_chemical_formula_sum 'Na Cl Xx'", "unknown element"),
        ("_chemical_formula_structural 'NaCl(H2O)2'", "formula"),
        ("_chemical_formula_moiety 'Na 1+, Cl 1-, 2(H2 O)'", "formula"),
        (
            f"_chemical_formula_sum 'Na1 Cl{'9' * 300}'",
            "more than 1e+09 atoms of Cl",
        ),
        (f"_chemical_formula_sum 'Na1 Cl{'9' * 100_000}'", "characters"),
    ],
)
def test_formulas_that_disagree(lines, why):
    refused(block(*SALT, lines=lines), why)


def test_more_atoms_than_stated_are_refused():
    four = [f"Na{k} Na 0 0 {k / 4}" for k in range(4)]
    assert result(block(*four, lines="_chemical_formula_sum Na\n_cell_formula_units_Z 4"))
    assert result(block(*four, lines="_chemical_formula_sum Na2"))  # any whole number of them
    refused(block(*four, lines="_chemical_formula_sum Na\n_cell_formula_units_Z 2"), "states 2")
    refused(block(*four, lines="_chemical_formula_sum Na3"), "formula")


def test_deuterium_counts_as_hydrogen():
    sites = ("O1 O 0 0 0", "D1 D 0.1 0 0", "T1 T 0 0.1 0")
    assert result(block(*sites, lines="_chemical_formula_sum 'D2 O'")) == {"O": 1, "H": 2}
    assert result(block(*sites, lines="_chemical_formula_sum 'D H O'")) == {"O": 1, "H": 2}


# --- elements ----------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["Fe", "FE", "Fe3+", "Fe2.5+", "Fe+3", "'Fe3+'", '"Fe"', "fe"])
def test_type_symbols(symbol):
    assert result(block(f"A1 {symbol} 0 0 0")) == {"Fe": 1}


@pytest.mark.parametrize(
    "symbol",
    ["Cs+Rb", "Cs,Rb", "Cs/Rb", "0.5Cs+0.5Rb", "Fe2+Fe3+", "Fe2+,Fe3+", "'Cs + Rb'", "Na+K+"],
)
def test_type_symbols_of_several_elements_are_disordered(symbol):
    refused(block(*SALT, f"M1 {symbol} 0.1 0 0"), "is disordered")
    refused(labelled("Na1", symbol), "is disordered")


@pytest.mark.parametrize(
    "symbol", ["2H", "13C", "X", "Xx", "Vac", "M", "CsRb", "Du", "CN", "1", "#"]
)
def test_type_symbols_that_are_no_element(symbol):
    found = result(block(*SALT, f"M1 '{symbol}' 0.1 0 0"))
    assert isinstance(found, str)


@pytest.mark.parametrize(
    "symbol", ["OH", "OH1", "O-H", "NH4", "H2O", "Wat", "CH3", "OH2", "NH1", "OD1"]
)
def test_groups_with_hydrogens_are_no_atoms(symbol):
    refused(labelled("Na1", symbol), "implicit hydrogens")
    assert isinstance(result(block(*SALT, f"M1 {symbol} 0.1 0 0")), str)


@pytest.mark.parametrize(
    "label", ["X1", "Xx", "M1", "Me2", "Ln1", "Q1", "Va1", "Vac1", "Du1", "1Na", "_"]
)
def test_labels_without_an_element(label):
    assert isinstance(result(labelled("Na1", f"'{label}'")), str)


def test_labels_of_two_elements_are_disordered():
    for label in ("NaCl1", "Cs-Rb", "Fe1+Ni1"):
        refused(labelled("Na1", label), "is disordered")


def test_labels_in_capitals_follow_the_formula():
    assert result(labelled("CA1")) == {"Ca": 1}
    assert result(labelled("CA1", lines="_chemical_formula_sum C")) == {"C": 1}
    assert result(labelled("Ca1", lines="_chemical_formula_sum Ca")) == {"Ca": 1}
    refused(labelled("Ca1", lines="_chemical_formula_sum C"), "formula")
    assert result(labelled("OG1", "CF1", "NO1")) == {"O": 1, "C": 1, "N": 1}


def test_labels_stand_in_for_the_type_symbols_that_are_missing():
    assert result(block("Na1 ? 0 0 0", "M1 Cl 0.5 0.5 0.5")) == {"Na": 1, "Cl": 1}


def test_dummy_sites_are_refused():
    text = block("Na1 Na 0 0 0 d", "Cl1 Cl 0.5 0.5 0.5 dum")
    refused(text.replace("fract_z\n", "fract_z\n_atom_site_calc_flag\n"), "dummy site")
