"""CIF reading: the same structures as pymatgen's, from every dialect."""

from __future__ import annotations

import os
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from scipy.optimize import linear_sum_assignment
from sets import random_crystals
from strategies import lattice_parameters

from crysmetrics.io import Crystals, Failure, read
from crysmetrics.io.cif import parse_cif
from crysmetrics.io.crystals import arrays_from_pymatgen, wrap
from crysmetrics.io.formats.cif import p1_cif
from crysmetrics.io.parsed import Parsed

DATA = os.environ.get("CRYSMETRICS_DATA")

CELL = """\
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
SITES = """\
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1
"""
PLAIN = f"data_NaCl\n{CELL}{SITES}"


def one(text: str) -> Parsed:
    (found,) = parse_cif(text, "x.cif")
    assert isinstance(found, Parsed), found
    return found


def reason(text: str) -> str:
    (found,) = parse_cif(text, "x.cif")
    assert isinstance(found, Failure), found
    assert found.file == "x.cif"
    return found.reason


def by_pymatgen(text: str) -> Structure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Structure.from_str(text, fmt="cif")


def assert_same_structure(
    numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray, wanted: Structure
) -> None:
    """Lattice parameters and positions within 1e-4, sites in any order."""
    wanted_numbers, wanted_frac, wanted_lattice = arrays_from_pymatgen(wanted)
    parameters = lattice_parameters(np.stack([lattice, wanted_lattice]))
    np.testing.assert_allclose(*parameters, atol=1e-4)
    assert sorted(numbers) == sorted(wanted_numbers)
    for z in set(wanted_numbers):
        delta = frac[numbers == z][:, None] - wanted_frac[wanted_numbers == z]
        distance = np.abs(wrap(delta + 0.5) - 0.5).max(axis=2)
        rows, columns = linear_sum_assignment(distance)
        assert distance[rows, columns].max() < 1e-4


def assert_agrees(text: str) -> None:
    found = one(text)
    arrays = (np.asarray(a) for a in (found.numbers, found.frac_coords, found.lattice))
    assert_same_structure(*arrays, by_pymatgen(text))


PROTOTYPES = {
    "rocksalt": ("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "wurtzite": (
        "P6_3mc",
        Lattice.hexagonal(3.25, 5.2),
        ["Zn", "O"],
        [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]],
    ),
    "corundum": (
        "R-3c",
        Lattice.hexagonal(4.76, 12.99),
        ["Al", "O"],
        [[0, 0, 0.352], [0.306, 0, 0.25]],
    ),
    "perovskite": (
        "Pm-3m",
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]],
    ),
    "spinel": (
        "Fd-3m",
        Lattice.cubic(8.08),
        ["Mg", "Al", "O"],
        [[0.125, 0.125, 0.125], [0.5, 0.5, 0.5], [0.2624, 0.2624, 0.2624]],
    ),
    "monoclinic": (
        "P2_1/c",
        Lattice.monoclinic(5.1, 5.2, 5.3, 99),
        ["Zr", "O", "O"],
        [[0.275, 0.04, 0.208], [0.07, 0.332, 0.345], [0.45, 0.757, 0.479]],
    ),
    "triclinic": (
        "P-1",
        Lattice.from_parameters(4.1, 5.2, 6.3, 81, 93, 107),
        ["Cu", "S"],
        [[0, 0, 0], [0.21, 0.34, 0.47]],
    ),
}


@pytest.fixture(scope="module", params=PROTOTYPES)
def prototype(request) -> Structure:
    return Structure.from_spacegroup(*PROTOTYPES[request.param])


@pytest.mark.parametrize("symprec", [None, 0.01])
def test_pymatgen_writes_and_both_read_the_same(prototype, symprec):
    assert_agrees(str(CifWriter(prototype, symprec=symprec)))


def test_few_digits_and_symmetry(prototype):
    assert_agrees(str(CifWriter(prototype, symprec=0.01, significant_figures=4)))


def test_own_p1_files_agree_with_pymatgen():
    for crystal in random_crystals(20, seed=3, atoms=(1, 12)):
        assert_agrees(p1_cif(crystal))


OPERATIONS = "loop_\n{}\n'x, y, z'\n'-x, -y, -z'\n'1/2+x, y, .5+z'\n'0.5-x, -y, 1/2-z'\n"


@pytest.mark.parametrize("tag", ["_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz"])
def test_symmetry_operations_under_both_names(tag):
    sites = SITES.replace("0.5 0.5 0.5", "0.21 0.32 0.43")
    text = f"data_x\n{CELL}{OPERATIONS.format(tag)}{sites}"
    assert len(np.asarray(one(text).numbers)) == 6
    assert_agrees(text)


@pytest.mark.parametrize(
    "line",
    [
        "_symmetry_space_group_name_H-M 'F m -3 m'",
        "_space_group_name_H-M_alt 'F m -3 m'",
        "_symmetry_Int_Tables_number 225",
        "_space_group_IT_number 225",
    ],
)
def test_space_group_without_operations(line):
    text = f"data_x\n{CELL}{line}\n{SITES}"
    assert len(np.asarray(one(text).numbers)) == 8
    assert_agrees(text)


def test_unknown_space_group_is_not_taken_for_p1():
    text = f"data_x\n{CELL}_symmetry_space_group_name_H-M 'Q 7'\n{SITES}"
    assert reason(text) == "can't be expanded: its space group 'Q 7' comes without operations"


def test_translations_that_gemmi_does_not_know():
    operations = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'x+1/5, y, z'\n"
    sites = SITES.replace("0.5 0.5 0.5", "0.1 0.2 0.3")
    assert_agrees(f"data_x\n{CELL}{operations}{sites}")


def test_cubic_cell_with_one_length():
    cell = "_cell_length_a 4.0\n_symmetry_cell_setting cubic\n"
    assert_agrees(f"data_x\n{cell}_symmetry_Int_Tables_number 225\n{SITES}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("_cell_length_a 4.0", "_cell_length_a 4.0(12)", id="uncertainty"),
        pytest.param("0.5 0.5 0.5", "0.5(1) .5 0.5000(2)", id="uncertain positions"),
        pytest.param("0 0 0 1", "-3.0 1.0 0 1.", id="unwrapped"),
        pytest.param("0.5 0.5 0.5", "5e-1 +0.5 0.5", id="number formats"),
        pytest.param("Na1 Na ", "Na1 Na1+ ", id="oxidation state"),
        pytest.param("Cl1 Cl ", "Cl1 Cl- ", id="oxidation state without number"),
        pytest.param("Cl1 Cl ", "Cl1 'Cl1-' ", id="quoted"),
        pytest.param("Na1 Na ", "Na1 NA ", id="upper case"),
        pytest.param("_atom_site_type_symbol", "_ATOM_SITE_TYPE_SYMBOL", id="tags in capitals"),
        pytest.param("data_NaCl", "# a comment\n\ndata_NaCl", id="comment first"),
        pytest.param("data_NaCl", "DATA_NaCl", id="keyword in capitals"),
        pytest.param("data_NaCl", "data_NaCl\n_chemical_name_common 'Sål'", id="not ASCII"),
        pytest.param("\n", "\r\n", id="Windows line ends"),
        pytest.param("loop_\n", "_chemical_formula_sum 'Na Cl'\nloop_\n", id="formula"),
    ],
)
def test_dialects(old, new):
    text = PLAIN.replace(old, new)
    assert text != PLAIN
    found = one(text)
    assert np.asarray(found.numbers).tolist() == [11, 17]
    np.testing.assert_allclose(wrap(np.asarray(found.frac_coords)), [[0] * 3, [0.5] * 3])
    np.testing.assert_allclose(found.lattice, np.eye(3) * 4, atol=1e-12)


def without(column: str) -> str:
    """`PLAIN` without one column of its sites."""
    tags = [line for line in SITES.split("\n") if line.startswith("_")]
    k = tags.index(column)
    rows = [row.split() for row in SITES.split("\n")[len(tags) + 1 :] if row]
    lines = ["loop_", *tags[:k], *tags[k + 1 :], *(" ".join(r[:k] + r[k + 1 :]) for r in rows)]
    return f"data_x\n{CELL}" + "\n".join(lines) + "\n"


def test_sites_with_labels_only():
    text = without("_atom_site_type_symbol")
    assert np.asarray(one(text).numbers).tolist() == [11, 17]
    assert_agrees(text)
    for label, number in (("Co1", 27), ("CO1", 27), ("C12", 6), ("O2A", 8), ("OW1", 8), ("D1", 1)):
        assert np.asarray(one(text.replace("Na1", label)).numbers)[0] == number
    assert np.asarray(one(PLAIN.replace("Na1 Na", "Na1 ?")).numbers).tolist() == [11, 17]


def test_sites_without_labels_or_occupancies():
    assert np.asarray(one(without("_atom_site_label")).numbers).tolist() == [11, 17]
    assert_agrees(without("_atom_site_occupancy"))


def test_a_single_site_without_a_loop():
    pairs = "_atom_site_label Po1\n_atom_site_type_symbol Po\n" + "".join(
        f"_atom_site_fract_{axis} 0.25\n" for axis in "xyz"
    )
    assert np.asarray(one(f"data_x\n{CELL}{pairs}").frac_coords).tolist() == [[0.25] * 3]


def test_every_element_is_known():
    from crysmetrics.io.elements import SYMBOLS

    for z, symbol in enumerate(SYMBOLS[1:], start=1):
        assert np.asarray(one(PLAIN.replace("Na1 Na", f"A1 {symbol}")).numbers)[0] == z


def test_blocks_with_repeated_names():
    blocks = parse_cif(PLAIN + PLAIN.replace("data_NaCl", "data_NaCl") + PLAIN, "x.cif")
    assert [b.source for b in blocks if isinstance(b, Parsed)] == [
        f"x.cif block {k} (NaCl)" for k in (1, 2, 3)
    ]


def test_blocks_without_a_structure_are_passed_over():
    text = f"data_global\n_journal_year 2020\n{PLAIN}"
    assert np.asarray(one(text).numbers).tolist() == [11, 17]


def test_block_without_sites_is_named():
    found = parse_cif(f"{PLAIN}data_b\n{CELL}", "x.cif")
    assert found[1] == Failure(
        "x.cif block 2 (b)", "holds no atom sites with fractional coordinates"
    )


def test_damaged_block_does_not_harm_its_neighbours():
    broken = PLAIN.replace("data_NaCl", "data_broken").replace("0.5 0.5 0.5 1", "0.5 0.5")
    found = parse_cif(f"data_global\n_journal_year 2020\n{PLAIN}{broken}{PLAIN}", "x.cif")
    assert [type(f) for f in found] == [Parsed, Failure, Parsed]
    assert found[1][0] == "x.cif block 3 (broken)"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("Na1 Na", "Na1 Xx", "holds an unknown element 'Xx'"),
        ("Na1 Na", "Na1 Wat", "implicit hydrogens"),
        ("0 0 0 1", "0 0 0 0.5", "is disordered: a site Na has occupancy 0.5"),
        ("0 0 0 1", "0 0 0 1.2", "is disordered"),
        ("0 0 0 1", "0 0 0 nan", "is disordered"),
        ("0 0 0 1", "0 0 ? 1", "has '?' where a number should stand (fract_z)"),
        ("_cell_length_a 4.0", "_cell_length_a 0", "cell length that is not positive (0 Å)"),
        ("_cell_length_a 4.0", "_cell_length_a -4", "cell length that is not positive (-4 Å)"),
        ("_cell_length_a 4.0", "_cell_length_a nan", "cell that is not finite"),
        ("_cell_length_a 4.0", "_cell_length_a 1e999", "cell that is not finite"),
        ("_cell_length_a 4.0", "_cell_length_a four", "'four' where a number should stand"),
        ("_cell_length_a 4.0\n", "", "_cell_length_a is missing"),
        ("alpha 90", "alpha 180", "cell angles that are not between 0 and 180"),
        ("alpha 90", "alpha -90", "cell angles that are not between 0 and 180"),
        ("alpha 90", "alpha 10", "(10, 90, 90)"),
        ("_fract_x", "_Cartn_x", "holds no atom sites"),
        (
            "loop_",
            "_chemical_formula_sum 'Na2 Cl2'\nloop_",
            "has 2 atoms where its formula states 4",
        ),
    ],
)
def test_reasons(old, new, why):
    text = PLAIN.replace(old, new)
    if "alpha 10" in new:  # angles that close no cell need another pair to differ
        text = text.replace("beta 90", "beta 40")
        why = "angles that close no cell"
    assert why in reason(text)


def test_two_sites_in_one_place_need_no_symmetry_to_be_read():
    overlapping = PLAIN.replace("0.5 0.5 0.5", "0 0 0")
    assert len(np.asarray(one(overlapping).numbers)) == 2  # for the metrics to judge
    operations = OPERATIONS.format("_symmetry_equiv_pos_as_xyz")
    symmetric = overlapping.replace("loop_\n", operations + "loop_\n", 1)
    assert "lists the same atom twice" in reason(symmetric)


def test_large_symmetric_cells_find_their_duplicates():
    rng = np.random.default_rng(0)
    frac = np.concatenate([rng.random((300, 3)), [[0, 0, 0], [1e-6, 0, 0.5]]])
    rows = "".join("C C {:.6f} {:.6f} {:.6f} 1\n".format(*x) for x in frac)
    head = SITES.split("Na1")[0]
    text = f"data_x\n{CELL}{OPERATIONS.format('_symmetry_equiv_pos_as_xyz')}{head}{rows}"
    # The last two sites are one orbit: (0, 0, 0) moved by (1/2, 0, 1/2) is not (0, 0, 1/2).
    assert len(np.asarray(one(text).numbers)) == 300 * 4 + 2 + 2
    again = text + "C C 0.0 0.0 0.0 1\n"
    assert "lists the same atom twice" in reason(again)


@pytest.mark.parametrize("symprec", [None, 0.01])
def test_a_file_cut_off_anywhere_is_never_another_crystal(symprec):
    whole = str(CifWriter(Structure.from_spacegroup(*PROTOTYPES["wurtzite"]), symprec=symprec))
    wanted = one(whole)
    for end in range(0, len(whole), 7):
        (found,) = parse_cif(whole[:end], "x.cif")
        if isinstance(found, Failure):
            continue
        np.testing.assert_array_equal(found.numbers, wanted.numbers)
        np.testing.assert_allclose(found.frac_coords, wanted.frac_coords)


# --- real data -------------------------------------------------------------------------------


def real_texts(name: str) -> dict[str, str]:
    """The CIFs of a zip or a CSV by the ids that `read` gives them."""
    path = Path(str(DATA)) / name
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(".cif")]
            return {Path(n).stem: archive.read(n).decode() for n in names}
    import pandas as pd

    frame = pd.read_csv(path, dtype=str)
    return dict(zip(frame["material_id"], frame["cif"], strict=True))


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="CRYSMETRICS_DATA names no folder of data")
@pytest.mark.parametrize(
    ("name", "sample"),
    [
        *((f"cif_folders/{source}.zip", None) for source in ("mp", "oqmd", "alexandria", "jarvis")),
        *((f"{name}.csv.gz", 400) for name in ("mp20/test", "mp20/extra", "mpts52/test")),
        *((f"{name}.csv.gz", 200) for name in ("perov5/test", "carbon24/test")),
    ],
)
def test_real_structures_are_pymatgen_s(name, sample):
    crystals = read(Path(str(DATA)) / name)
    assert not crystals.failures
    texts = real_texts(name)
    assert set(crystals.ids) == set(texts)
    chosen = random.Random(0).sample(range(len(crystals)), sample or len(crystals))
    for crystal in (crystals[i] for i in chosen):
        wanted = by_pymatgen(texts[crystal.ids[0]])
        arrays = (crystal.atomic_numbers, crystal.frac_coords, crystal.lattices[0])
        assert_same_structure(*arrays, wanted)


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="CRYSMETRICS_DATA names no folder of data")
@pytest.mark.parametrize("source", ["mp", "oqmd", "alexandria", "jarvis"])
def test_symmetrized_real_structures_are_pymatgen_s(source):
    crystals: Crystals = read(Path(str(DATA)) / f"cif_folders/{source}.zip")
    small = np.flatnonzero(crystals.num_atoms <= 60)
    chosen = crystals[sorted(random.Random(0).sample(small.tolist(), 80))]
    for structure in chosen.to_pymatgen():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = str(CifWriter(structure, symprec=0.01))
        assert_agrees(text)
