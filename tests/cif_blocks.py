"""Blocks of CIFs for tests: their texts, and what is read of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from places import DATA

from crysmetrics.io import Failure
from crysmetrics.io.cif import parse_cif
from crysmetrics.io.elements import SYMBOLS

CASES = DATA / "cases"

HEAD = """\
data_x
_cell_length_a {0}
_cell_length_b {1}
_cell_length_c {2}
_cell_angle_alpha {3}
_cell_angle_beta {4}
_cell_angle_gamma {5}
"""
SITES = """\
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""
CUBIC = (5.4, 5.4, 5.4, 90, 90, 90)
HEXAGONAL = (4.5, 4.5, 11.0, 90, 90, 120)
RHOMBOHEDRAL = (4.7, 4.7, 4.7, 57, 57, 57)
SALT = ("Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5")


def block(*sites: str, cell: tuple[float, ...] = CUBIC, lines: str = "") -> str:
    """A CIF of sites like "Na1 Na 0 0 0", with other lines before them."""
    return HEAD.format(*cell) + lines + "\n" + SITES + "\n".join(sites) + "\n"


def labelled(*labels: str, lines: str = "") -> str:
    """A CIF of sites without type symbols."""
    head = SITES.replace("_atom_site_type_symbol\n", "")
    rows = [f"{label} {0.1 * k:.1f} 0 0" for k, label in enumerate(labels)]
    return HEAD.format(*CUBIC) + lines + "\n" + head + "\n".join(rows) + "\n"


def result(text: str) -> dict[str, int] | str:
    """Atoms by symbol of the only structure, or the reason of its failure."""
    (found,) = parse_cif(text, "x.cif", max_atoms=5000)
    if isinstance(found, Failure):
        return found.reason
    counts = Counter(np.asarray(found.numbers).tolist())
    return {SYMBOLS[z]: count for z, count in counts.items()}


def refused(text: str, why: str) -> None:
    reason = result(text)
    assert isinstance(reason, str), reason
    assert why in reason
