import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition

from crysgen.compositions.formula_units import (
    count_types,
    likelihoods,
    parse_formula_units,
    share_out,
    type_frequency,
)
from crysgen.compositions.formulas import Formula, parse_formula, parse_system
from crysgen.compositions.systems import compositions
from crysmetrics.errors import UserError
from crysmetrics.io.elements import SYMBOLS


def composition(formula):
    return Composition({SYMBOLS[z]: n for z, n in formula.counts.items()})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("LiFePO4", "LiFePO4"),
        ("Ca(OH)2", "CaO2H2"),
        ("[NH4]2SO4", "N2H8SO4"),
        ("K4[ON(SO3)2]2", "K4O14N2S4"),
        ("[Li{O(H)}]2", "Li2O2H2"),
        (" Li 2 O\n", "Li2O"),
        ("Li₂O", "Li2O"),
        ("Ｌｉ２Ｏ", "Li2O"),
        ("CuSO4·5H2O", "CuSO9H10"),
        ("CuSO4.5H2O", "CuSO9H10"),
        ("CuSO4 * 5 H2O", "CuSO9H10"),
        ("Na2CO3.10H2O", "Na2CO13H20"),
        ("Al2O3.SiO2", "Al2SiO5"),
        ("3CaO·Al2O3", "Ca3Al2O6"),
        ("2Li2O", "Li4O2"),
        ("CO", "CO"),
        ("Co", "Co"),
        ("Hg2Cl2", "Hg2Cl2"),
        ("Tl", "Tl"),
        ("Ts", "Ts"),
        ("HfTa", "TaHf"),
    ],
)
def test_formulas_as_people_write_them(text, meant):
    assert composition(parse_formula(text)) == Composition(meant)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Fe0.5Ni0.5", "write FeNi"),
        ("LiNi0.8Co0.2O2", "write Li5CoNi4O10"),
        ("CaSO4·0.5H2O", "write Ca2H2S2O9"),
        ("CaSO4.0.5H2O", "write Ca2H2S2O9"),
        ("CaSO4·½H2O", "write Ca2H2S2O9"),
        ("Hf0.333333Ti", "fractions of atoms"),
        ("Fe.5Ni.5", "decimal point or join"),
        ("Na2O.2Al2O3", "decimal point or join"),
        ("D2O", "isotope of hydrogen; write H2O"),
        ("T2", "isotope"),
        ("Fe3+", "charge"),
        ("SO4^2-", "charge"),
        ("Fe³⁺", "charge"),
        ("SO4--", "charge"),
        ("nacl", "did you mean NaCl?"),
        ("NACL", "did you mean NaCl?"),
        ("lifepo4", "did you mean LiFePO4?"),
        ("co", "did you mean Co or CO?"),
        ("Li2o", "did you mean Li2O?"),
        ("Xx2O", "'Xx' that does not exist"),
        ("Uue", "'Uue' that does not exist"),
        ("Li1-xCoO2", "variable amount"),
        ("LixCoO2", "variable amount"),
        ("YBa2Cu3O7-δ", "variable amount"),
        ("Li-Fe-O", "--system"),
        ("Li2O,NaCl", "once for each"),
        ("out/x.cif", "--compositions"),
        ("mp-1234", "looks like an id"),
        ("", "empty formula"),
        ("  ", "empty formula"),
        ("Li0", "zero"),
        ("Ca(OH2", "never closes '('"),
        ("CaOH)2", "closes ')'"),
        ("Ca(OH]2", "closes ']'"),
        ("()2", "empty brackets"),
        ("Li(2)", "'2' has no place"),
        ("C·", "empty part"),
        ("5", "no elements"),
        ("Li2 2O", "blank between two digits"),
        ("Li99999999", "more than 10000 atoms"),
        ("Li2O!", "'!' has no place"),
        ("🙂", "no place"),
        ("Li" * 200, "too long"),
    ],
)
def test_what_is_no_formula_is_refused_with_one_sentence(text, says):
    with pytest.raises(UserError) as error:
        parse_formula(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value)[-1] in ".?"


@given(st.text(max_size=40) | st.text("LiFePO42()[].·HNacl5 ", max_size=20))
def test_any_text_is_a_formula_or_a_sentence(text):
    try:
        formula = parse_formula(text)
    except UserError:
        return
    assert formula.num_atoms > 0
    assert parse_formula(formula.text) == formula


COUNTS = st.dictionaries(st.integers(1, 94), st.integers(1, 12), min_size=1, max_size=5)


@given(COUNTS)
def test_properties_agree_with_pymatgen(counts):
    formula = Formula.of(counts)
    peer = composition(formula)
    assert parse_formula(formula.text) == formula
    assert parse_formula(peer.formula) == formula
    assert formula.hill == peer.hill_formula
    assert formula.reduced_formula == peer.reduced_formula
    assert formula.reduced.units == 1
    assert formula.reduced.times(formula.units) == formula
    assert len(formula.atoms) == formula.num_atoms == peer.num_atoms
    assert Formula.of_atoms(formula.atoms) == formula


def test_systems():
    assert parse_system("Li-Fe-O") == (3, 26, 8)
    assert parse_system(" Li – Fe-Li ") == (3, 26)
    for text, says in (("", "Li-Fe-O"), ("li-O", "did you mean Li?"), ("Li-Q", "'Q' is none")):
        with pytest.raises(UserError, match=says.replace("?", r"\?")):
            parse_system(text)


# --- cell sizes ------------------------------------------------------------------------------


def test_formula_units_are_parsed():
    assert parse_formula_units("auto") is None
    assert parse_formula_units("4, 1,2,2") == (1, 2, 4)
    for text in ("", "0", "1,,2", "-1", "1.5", "many", "1" * 30):
        with pytest.raises(UserError, match="--formula-units"):
            parse_formula_units(text)


@pytest.mark.parametrize("text", ["NaCl", "Li2O", "SrTiO3", "LiFePO4", "AgBiSeTeF9", "Fe"])
def test_likelihoods_are_shares_of_allowed_sizes(text):
    formula = parse_formula(text)
    shares = likelihoods(formula, 20)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(units * formula.num_atoms <= 20 for units in shares)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_likelihoods_know_real_compounds():
    # The likeliest first. Olivines have four formula units, which 20 atoms do not hold.
    for text, most, likeliest in (("MgAl2O4", 20, 2), ("LiFePO4", 28, 4), ("NaCl", 20, 1)):
        assert next(iter(likelihoods(parse_formula(text), most))) == likeliest
    assert max(likelihoods(parse_formula("LiFePO4"))) == 2
    # A formula as written is the unit: Hg2Cl2 never stands for an odd number of HgCl.
    assert set(likelihoods(parse_formula("Li4O2"))) <= {1, 2, 3}


@given(COUNTS, st.integers(1, 40))
def test_every_sample_gets_a_cell(counts, number):
    formula = Formula.of(counts)
    shares = share_out(formula, number, None, max_atoms=60)
    assert sum(shares.values()) == number
    assert all(n > 0 and units * formula.num_atoms <= 60 for units, n in shares.items())
    assert shares == share_out(formula, number, None, max_atoms=60)
    likely = [k for k, p in likelihoods(formula, 60).items() if p >= 0.05]
    if number >= len(likely):
        assert set(likely) <= set(shares)


def test_asked_sizes_share_alike():
    assert share_out(parse_formula("NaCl"), 16, (1, 2, 4)) == {1: 6, 2: 5, 4: 5}
    assert share_out(parse_formula("NaCl"), 2, (1, 2, 4)) == {1: 1, 2: 1}


def test_too_large_cells_name_the_option():
    with pytest.raises(UserError, match=r"24 atoms.*--max-atoms"):
        share_out(parse_formula("C6H12O6"), 4, None)
    with pytest.raises(UserError, match=r"28 atoms.*--max-atoms"):
        share_out(parse_formula("LiFePO4"), 4, (1, 4))
    assert share_out(parse_formula("LiFePO4"), 4, (4,), max_atoms=28) == {4: 4}


def test_types_are_counted_once_for_each_compound_and_size():
    cells = [parse_formula(t) for t in ("C8", "C8", "C4", "Na2Cl2", "Li2O", "TiO2", "Ti2O4")]
    table = count_types(cells)
    assert table == {
        "1": {"4": 1, "8": 1},
        "1-1 Cl": {"2": 1},
        "1-2 O": {"1": 1, "2": 1},
        "2-1 O": {"1": 1},
    }


# --- systems ---------------------------------------------------------------------------------


def test_compositions_of_a_system():
    found = compositions(parse_system("Na-Cl"), 6)
    assert {f.text for f in found} == {
        *("NaCl", "Na2Cl", "NaCl2", "Na3Cl", "NaCl3", "Na4Cl", "NaCl4"),
        *("Na3Cl2", "Na2Cl3", "Na5Cl", "NaCl5"),
    }
    assert found[0].text == "NaCl"
    wider = compositions(parse_system("Na-Cl"), 6, subsystems=True)
    assert {f.text for f in wider} == {f.text for f in found} | {"Na", "Cl"}


def test_plausible_compositions_come_first():
    found = [f.text for f in compositions(parse_system("Li-Fe-P-O"), 12)]
    assert found.index("LiFePO4") < len(found) / 20
    assert len(found) == len(set(found))
    titanates = [f.text for f in compositions(parse_system("Sr-Ti-O"), 20)]
    assert titanates.index("SrTiO3") < 5
    own, others = type_frequency(parse_formula("SrTiO3"))
    assert others > own > 0


def test_systems_too_large_or_too_small_are_refused():
    with pytest.raises(UserError, match="--max-atoms"):
        compositions(tuple(range(1, 12)), 20)
    with pytest.raises(UserError, match="--max-atoms"):
        compositions(parse_system("Li-Fe-P-O"), 3)
