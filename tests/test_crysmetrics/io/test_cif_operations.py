"""Symmetry operations of a CIF, and sites on special positions."""

from __future__ import annotations

import numpy as np
import pytest
from cif_blocks import (
    CASES,
    block,
    refused,
    result,
)

from crysmetrics.io import Failure
from crysmetrics.io.cif import parse_cif

HCP = (CASES / "c01_round3dec_hcp.cif").read_text()


@pytest.mark.parametrize(
    "position",
    [
        "0.333 0.667 0.25",
        "0.33 0.67 0.25",
        ".333 .667 .25",
        "0.333(1) 0.667(1) 0.25",
        "-.667 -.333 1.25",
    ],
)
def test_rounded_thirds_give_each_atom_once(position):
    (found,) = parse_cif(HCP.replace("0.333 0.667 0.25", position), "x.cif")
    assert not isinstance(found, Failure)
    frac = np.asarray(found.frac_coords) % 1
    np.testing.assert_allclose(sorted(frac[:, 0]), [1 / 3, 2 / 3], atol=1e-9)


@pytest.mark.parametrize(("x", "y"), [("0.157", "0.313"), ("0.167", "0.333"), ("0.1565", "0.3131")])
def test_rounded_positions_on_mirrors_give_each_atom_once(x, y):
    assert result(HCP.replace("0.333 0.667 0.25", f"{x} {y} 0.25")) == {"Mg": 6}


def test_sites_of_different_rounding():
    rows = "Mg2 Mg 0 0 0.12345 1\nMg1 Mg 0.333 0.667 0.25 1"
    assert result(HCP.replace("Mg1 Mg 0.333 0.667 0.25 1.0", rows)) == {"Mg": 6}
    rows = "Mg2 Mg 0 0 0.12345 1\nMg1 Mg 0.33 0.67 0.25 1"
    assert result(HCP.replace("Mg1 Mg 0.333 0.667 0.25 1.0", rows)) == {"Mg": 10}


def test_positions_that_rounding_does_not_explain_stay_apart():
    assert result(HCP.replace("0.333 0.667 0.25", "0.336 0.667 0.25")) == {"Mg": 12}
    assert result(HCP.replace("0.333 0.667 0.25", "0.333000 0.667000 0.250000")) == {"Mg": 6}


def with_operations(*operations: str, sites: tuple[str, ...] = ("Na1 Na 0.1 0.2 0.3",)) -> str:
    lines = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(f"'{o}'" for o in operations)
    return block(*sites, lines=lines)


def test_operations_in_all_spellings():
    for second in (
        "-x,-y,-z",
        "-X, -Y, -Z",
        "1/2-x,1/2-y,-z+.5",
        "-x+1/5,-y,-z",
        "\u2212x,\u2212y,\u2212z",
        "0.25-x,-y,-z",
    ):
        assert result(with_operations("x,y,z", second)) == {"Na": 2}


def test_operations_without_quotes():
    text = with_operations("x, y, z", "-x, -y, -z")
    assert result(text.replace("'", "")) == {"Na": 2}
    refused(text.replace("'x, y, z'", "x, y,"), "operation")


def test_operations_on_several_lines():
    text = with_operations("x,y,z").replace("'x,y,z'", ";\nx,y,\nz\n;\n'-x,-y,-z'")
    assert result(text) == {"Na": 2}


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        (("x,y",), "where a symmetry operation should stand"),
        (("x,y,z", "x,y,q"), "where a symmetry operation should stand"),
        (("x,y,z", "x,x,z"), "no operation"),
        (("x,y,z", "2x,y,z"), "where a symmetry operation should stand"),
        (("-x,-y,-z",), "without x,y,z"),
        (("x,y,z", "-y,x,z"), "no group"),
        (("x,y,z", "x,y,z+" + "9" * 100_000), "characters"),
        (("x,y,z+1/0",), "where a symmetry operation should stand"),
        (tuple(f"x,y,z+{k}/20000" for k in range(20_000)), "20000 symmetry operations"),
    ],
)
def test_operations_that_are_none(operations, why):
    refused(with_operations(*operations), why)


def test_the_same_operation_again_makes_no_other_atom():
    assert result(with_operations("x,y,z", *["-x,-y,-z"] * 20_000, "x+1,y,z-1")) == {"Na": 2}
