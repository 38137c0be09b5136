"""Known structures come first for users, and benchmarks never see them."""

import numpy as np
import pytest
from ase.data import chemical_symbols, reference_states

from crysgen import SamplingSettings
from crysgen.compositions.formulas import parse_formula
from crysgen.proposers.base import MORE_SYMMETRIC_TIER, PREDICTED_TIER
from crysgen.requests import ask_formulas
from crysgen.retrieval.library.entries import Entries, load_entries, save_entries
from crysgen.retrieval.library.library import Library, shipped_library
from crysgen.retrieval.library.named_structures import aflow_prototypes, element_structures
from crysgen.retrieval.library.names import prototype_names
from crysgen.retrieval.library.prototypes import primitive_crystal
from crysgen.retrieval.proposals.known import KNOWN_TIER, polymorphs
from crysgen.retrieval.proposals.proposal import Proposal, as_crystals, to_crystals
from crysgen.retrieval.propose import propose
from crysgen.retrieval.training.leave_one_out import held_out_entries
from crysmetrics.errors import UserError
from crysmetrics.space_groups.subgroups import is_subgroup


@pytest.fixture(scope="module")
def everything() -> Library:
    return Library.load(extra=[], everything=True)


def first_for(library: Library, formula: str, count: int = 1, **options: object) -> list[Proposal]:
    request = ask_formulas([parse_formula(formula)], count)[0]
    return propose(
        library, request.formula.counts, count, units=request.units, any_cell=True, **options
    )


def test_benchmarks_see_the_first_entries_alone(everything: Library) -> None:
    benchmark, whole = load_entries(shipped_library()), everything.entries
    assert whole.num_benchmark == len(benchmark) == 19_627 < len(whole)
    assert set(benchmark.ids) == set(whole.ids[: len(benchmark)])
    # None of the splits that are measured on, and no structure that everybody knows.
    hidden = set(whole.ids[len(benchmark) :])
    assert {"mp-1143", "mp-361", "ase-Fe", "aflow-AB_cF8_225_a_b-NaCl"} <= hidden
    for entries in (benchmark, Library.load(extra=[]).entries):
        assert not hidden & set(entries.ids)
        assert not {"aflow", "ase"} & {entries.source_of(i)[0] for i in range(len(entries))}
        assert int(entries.num_atoms.max()) <= 20
    learned_from = held_out_entries(Library.load(extra=[]))
    assert int(learned_from.max()) < len(benchmark)


def test_benchmark_part_is_whole_by_itself(everything: Library, tmp_path) -> None:  # type: ignore[no-untyped-def]
    part = everything.entries.benchmark()
    save_entries(part, tmp_path / "part.npz")
    again = load_entries(tmp_path / "part.npz", everything=True)
    assert len(again) == len(part)
    assert again.names == {}
    # Every match is with a prototype that an entry of the part represents.
    assert int(part.match_representative.max()) < len(part.representatives)
    assert int(part.representatives.max()) < len(part)


def test_benchmark_proposals_know_nothing_of_the_rest(everything: Library) -> None:
    aluminium_oxide = {13: 4, 8: 6}
    benchmark = propose(Library.load(extra=[]), aluminium_oxide, 20)
    assert "mp-1143" not in {p.template_id for p in benchmark}
    known = propose(everything, aluminium_oxide, 20)[0]
    assert known.known.startswith("mp-1143, on the hull")
    assert all(p.tier == PREDICTED_TIER for p in benchmark)


def test_settings_name_the_library() -> None:
    assert SamplingSettings().library == "known"
    with pytest.raises(UserError, match="no library 'all'"):
        SamplingSettings(library="all")


@pytest.mark.parametrize(
    ("formula", "space_group", "atoms"),
    [("NaCl", 225, 2), ("SnO2", 136, 6), ("SrTiO3", 221, 5), ("MoS2", 194, 6), ("Fe", 229, 1)],
)
def test_room_temperature_structure_comes_first(
    everything: Library, formula: str, space_group: int, atoms: int
) -> None:
    first = first_for(everything, formula)[0]
    assert (first.space_group, first.num_atoms, first.tier) == (space_group, atoms, KNOWN_TIER)
    assert first.status.startswith("known (")


def test_bulk_precedes_layers_that_are_far_apart(everything: Library) -> None:
    first, *rest = (p for p in first_for(everything, "MoSe2", 8) if p.known)
    assert first.space_group == 194
    volumes = [abs(np.linalg.det(p.lattice)) / p.num_atoms for p in (first, *rest)]
    assert max(volumes) > 1.7 * volumes[0]  # as the lowest by their published energies are


@pytest.mark.parametrize(("formula", "space_group"), [("TiAl3", 139), ("FeSi", 198), ("BeO", 216)])
def test_listed_structures_come_first_where_nothing_known_lies_lower(
    everything: Library, formula: str, space_group: int
) -> None:
    first = first_for(everything, formula)[0]
    assert first.space_group == space_group
    # That of BeO is of high temperature, and estimated above the hull.
    assert bool(first.known) == (formula != "BeO")


def test_polymorphs_precede_predictions_in_order_of_energy(everything: Library) -> None:
    found = first_for(everything, "ZnS", 16)
    tiers = [p.tier for p in found]
    assert tiers == sorted(tiers)
    assert (tiers[0], tiers[-1]) == (KNOWN_TIER, PREDICTED_TIER)
    scores = [p.score for p in found]
    assert all(np.diff(scores[: tiers.count(KNOWN_TIER)]) < 0)
    assert sum(scores) <= 1 + 1e-9
    entries = everything.entries
    unnamed = [
        float(entries.e_above_hull[entries.position[p.template_id]])
        for p in found
        if p.known and "cell of" not in p.known and "symmetrised" not in p.known
    ]
    assert unnamed == sorted(unnamed)
    assert next(p for p in found if not p.known).status == "predicted"


def test_known_structure_has_its_own_number_of_atoms(everything: Library) -> None:
    assert 28 in {p.num_atoms for p in first_for(everything, "LiFePO4", 16) if p.known}
    # Where cell sizes are given, only these.
    some = propose(everything, {3: 1, 26: 1, 15: 1, 8: 4}, 16, units=(2,))
    assert {p.num_atoms for p in some} == {14}


def test_excluded_structure_is_not_known(everything: Library) -> None:
    salt = {11: 1, 17: 1}
    known = polymorphs(everything, salt, None)
    ids = [everything.entries.ids[p.entry] for p in known]
    excluded = {everything.entries.position[name] for name in (*ids, "mp-22862")}
    assert known
    assert polymorphs(everything, salt, None, excluded) == []
    assert not first_for(everything, "NaCl", 4, exclude_ids=[*ids, "mp-22862"])[0].known


def test_known_structures_with_more_symmetry_come_behind_the_wanted_space_group(
    everything: Library,
) -> None:
    found = propose(everything, {22: 1, 8: 2}, 40, units=(1, 2, 4), any_cell=True, space_group=58)
    groups = [p.space_group for p in found]
    exact = groups.count(58)
    assert exact >= 1
    assert groups[:exact] == [58] * exact
    assert 136 in groups[exact:]
    assert found[groups.index(136)].known
    assert all(is_subgroup(58, of=number) for number in groups)
    assert [p.tier for p in found] == sorted(p.tier for p in found)


def test_every_element_has_its_structure(everything: Library) -> None:
    entries: Entries = everything.entries
    structures = dict(element_structures())
    assert len(structures) == 83
    assert set(structures) <= set(entries.ids)
    expected = {
        "Fe": 229,
        "Ti": 194,
        "Al": 225,
        "Si": 227,
        "Sn": 141,
        "Mn": 217,
        "Hg": 166,
        "S": 70,
        "C": 194,
        "Se": 152,
        "Te": 152,
    }
    # By ASE's reference states, but graphite is stable, not diamond, and chains are no hcp.
    groups = {"fcc": 225, "bcc": 229, "hcp": 194, "diamond": 227}
    for symbol, number in zip(chemical_symbols[1:84], range(1, 84), strict=True):
        state = (reference_states[number] or {}).get("symmetry")
        if state in groups:
            expected.setdefault(symbol, groups[state])
    assert len(expected) == 66
    for symbol in structures:
        name = symbol.removeprefix("ase-")
        first = polymorphs(everything, parse_formula(name).counts, None)[0]
        assert entries.ids[first.entry] == symbol
        assert first.cell.space_group == expected.get(name, first.cell.space_group)


def test_prototypes_have_names(everything: Library) -> None:
    names = {name for _, name, _ in aflow_prototypes()}
    assert {"B1, rock salt", "B3, zinc blende", "C4, rutile", "A2, body-centred cubic"} <= names
    salts = to_crystals([first_for(everything, f)[0] for f in ("NaCl", "Fe", "SnO2", "GaAs")])
    assert prototype_names(salts, 0.1) == [
        "B1, rock salt", "A2, body-centred cubic", "C4, rutile", "B3, zinc blende",
    ]  # fmt: skip
    # Nor has it that of a prototype whose structure in the table has another symmetry.
    alloy = to_crystals([first_for(everything, "Cu3Au")[0]])
    assert prototype_names(alloy, 0.1) == ["L12, Cu3Au type"]
    # A crystal that only nearly has the structure has not the name.
    tin = everything.entries.crystal(everything.entries.position["mp-550172"])
    assert prototype_names(as_crystals(tin), 0.01) != ["C4, rutile"]


def test_space_group_is_searched_in_every_source(everything: Library) -> None:
    every = first_for(everything, "GaAs", 8, space_group=115)
    found = [p for p in every if p.tier < MORE_SYMMETRIC_TIER]
    assert found
    assert {p.space_group for p in found} == {115}
    # No template has it: two species of a richer one became the same element.
    assert {p.method for p in found} & {"merging", "decoration"}
    numbers = [primitive_crystal(crystal).space_group for crystal in to_crystals(found)]
    assert set(numbers) == {115}


def test_formula_larger_than_usual_cells_can_be_asked_for() -> None:
    chalcanthite = parse_formula("CuSO4·5H2O")
    assert ask_formulas([chalcanthite], 4)[0].units == (1,)
    with pytest.raises(UserError, match="--max-atoms"):
        ask_formulas([chalcanthite], 4, max_atoms=20)
    olivine = ask_formulas([parse_formula("LiFePO4")], 4)[0]
    assert (4 in olivine.large_units, max(olivine.units) * 7 <= 20) == (True, True)
    assert ask_formulas([parse_formula("LiFePO4")], 4, max_atoms=20)[0].large_units == ()
