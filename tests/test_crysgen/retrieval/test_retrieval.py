"""Known structures as proposals: matching, prototypes, the library file and the user's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from crysgen.retrieval.library.anonymous import (
    composed_permutations,
    species_of,
    species_permutations,
)
from crysgen.retrieval.library.entries import SCHEMA, load_entries, pack, save_entries
from crysgen.retrieval.library.library import Library, shipped_library
from crysgen.retrieval.library.prototypes import (
    displacements,
    niggli_cells,
    primitive_crystal,
    sort_into_prototypes,
)
from crysgen.retrieval.library.user import add_to_user_library
from crysgen.retrieval.proposals.decoration import (
    decorated,
    hermite_forms,
    permutations_of,
    supercells,
)
from crysgen.retrieval.proposals.proposal import repeated, to_crystals
from crysgen.retrieval.proposals.raising import raised_to
from crysgen.retrieval.propose import propose
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals, write
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.locking import locked
from crysmetrics.matching.distances import permuted_distances, rms_distances
from crysmetrics.symmetry import space_groups

Z = ATOMIC_NUMBERS


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.load(extra=[])


def rock_salt(a: str, b: str, length: float) -> Crystals:
    lattice = length / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    return Crystals(np.array([Z[a], Z[b]]), frac, lattice[None], [2], [f"{a}{b}"])


# --- species and matching ------------------------------------------------------------------------


def test_species_are_sorted_by_count_then_number() -> None:
    elements, counts = species_of(np.array([8, 8, 3, 27]))
    assert elements.tolist() == [3, 27, 8]
    assert counts == (1, 1, 2)


def test_renamings_keep_counts_and_compose() -> None:
    counts = (1, 1, 2, 2)
    all_ = species_permutations(counts)
    assert len(all_) == 4
    assert all_[0].tolist() == [0, 1, 2, 3]
    table = composed_permutations(counts)
    for p in range(4):
        for q in range(4):
            assert (all_[table[p, q]] == all_[q][all_[p]]).all()


def test_the_smaller_window_loses_only_poor_matches(library: Library) -> None:
    members = library.entries.by_counts[(2, 4)][::12][:40]
    pairs = [(i, j) for i in range(len(members)) for j in range(i)]
    niggli = library.entries.niggli_cells(members)
    case = np.arange(2)[None]
    whole = permuted_distances(niggli, niggli, pairs, case)[:, 0]  # equal to pymatgen's
    ours = displacements(niggli, niggli, pairs, case)[:, 0]
    both = np.isfinite(whole) & np.isfinite(ours)
    assert both.sum() > 10
    assert not (np.isfinite(ours) & np.isnan(whole)).any()
    assert (whole <= ours + 1e-9)[both].all()
    lost = np.isfinite(whole) & np.isnan(ours)
    assert lost.mean() < 0.03
    assert (whole[lost] > 0.2).all()


def test_shipped_prototypes_are_those_of_the_matcher(library: Library) -> None:
    entries = library.entries
    stored = set(
        zip(
            entries.match_entry.tolist(),
            entries.match_representative.tolist(),
            entries.match_permutation.tolist(),
            strict=True,
        )
    )
    rng = np.random.default_rng(0)
    compared = differ = found = 0
    for counts in [(1, 1), (1, 2), (2, 2), (1, 1, 2), (2, 4), (1, 1, 1), (2, 2, 4)]:
        members = entries.by_counts[counts]
        representatives = np.flatnonzero(np.isin(entries.representatives, members))
        chosen = rng.choice(members, 12)
        index = np.stack(np.meshgrid(chosen, representatives, indexing="ij"), -1).reshape(-1, 2)
        pairs = np.stack([index[:, 0], entries.representatives[index[:, 1]]], axis=1)
        used, where = np.unique(pairs, return_inverse=True)
        niggli = entries.niggli_cells(used)
        now = np.isfinite(
            displacements(niggli, niggli, where.reshape(-1, 2), species_permutations(counts))
        )
        then = [[(i, j, k) in stored for k in range(now.shape[1])] for i, j in index.tolist()]
        compared += now.size
        found += int(now.sum())
        differ += int((now != np.array(then)).sum())
    assert compared > 5000
    assert found > 100
    assert differ <= compared // 1000


def test_sorting_finds_one_prototype_and_its_symmetry() -> None:
    cells = [primitive_crystal(rock_salt(*pair)) for pair in (("Mg", "O", 4.2), ("Na", "Cl", 5.6))]
    assert {c.space_group for c in cells} == {225}
    niggli = niggli_cells([(c.lattice, c.frac_coords, c.species) for c in cells])
    representatives, matches = sort_into_prototypes(niggli, (1, 1))
    assert representatives == [0]
    # Both kinds of atoms can change places in rock salt.
    assert sorted(zip(matches.entry, matches.permutation, strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def test_reduced_is_the_same_crystal_in_a_primitive_cell() -> None:
    lattice = np.eye(3) * 4.2
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    frac = np.concatenate([frac, frac + 0.5])
    cubic = Crystals([12] * 4 + [8] * 4, frac, lattice[None], [8], ["MgO"])
    cell = primitive_crystal(cubic)
    assert cell.counts == (1, 1)
    assert abs(np.linalg.det(cell.lattice)) == pytest.approx(4.2**3 / 4)


# --- proposals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "atoms",
    [
        {"Li": 1, "Co": 1, "O": 2},
        {"Na": 4, "Cl": 4},
        {"Sr": 1, "Ti": 1, "O": 3},
        {"V": 4, "O": 5, "F": 7},
        {"Si": 2},
        {"La": 2, "Fe": 1, "As": 3, "S": 1},
    ],
)
def test_proposals_have_exactly_the_asked_atoms(library: Library, atoms: dict[str, int]) -> None:
    wanted = {Z[symbol]: count for symbol, count in atoms.items()}
    found = propose(library, wanted, 8)
    assert found
    for proposal in found:
        elements, counts = np.unique(proposal.atomic_numbers, return_counts=True)
        assert dict(zip(elements.tolist(), counts.tolist(), strict=True)) == wanted
        assert proposal.template_id in library.entries.position
        assert proposal.licence
        assert 4 < proposal.volume / proposal.num_atoms < 80
    assert all(a.score >= b.score for a, b in pairwise(found))


def test_proposals_differ(library: Library) -> None:
    crystals = to_crystals(propose(library, {Z["Ca"]: 2, Z["Ge"]: 2, Z["O"]: 6}, 6, decorate=False))
    pairs = [(i, j) for i in range(len(crystals)) for j in range(i)]
    distances = rms_distances(crystals, crystals, pairs, workers=1)
    assert np.isfinite(distances).mean() < 0.4


def test_well_known_crystals_come_first(library: Library) -> None:
    assert propose(library, {Z["K"]: 1, Z["Br"]: 1}, 1)[0].space_group == 225
    assert propose(library, {Z["Sr"]: 1, Z["Ti"]: 1, Z["O"]: 3}, 1)[0].space_group in (221, 99)


def test_excluded_entries_have_no_voice(library: Library) -> None:
    atoms = {Z["Rb"]: 1, Z["I"]: 1}
    first = propose(library, atoms, 1)[0]
    again = propose(library, atoms, 20, exclude_ids=[first.template_id])
    assert first.template_id not in {p.template_id for p in again}


def test_leaving_out_the_formula_leaves_out_all_its_polymorphs(library: Library) -> None:
    entries = library.entries
    found = propose(library, {Z["Ti"]: 2, Z["O"]: 4}, 20, exclude_formula=True)
    own = {
        entries.ids[i]
        for i in entries.by_counts[(2, 4)]
        if entries.species(int(i)).tolist() == [Z["Ti"], Z["O"]]
    }
    assert found
    assert not own & {p.template_id for p in found}


def test_space_group_chooses_templates(library: Library) -> None:
    found = propose(library, {Z["Ti"]: 2, Z["O"]: 4}, 5, space_group=136)
    assert found
    assert {p.space_group for p in found} == {136}


def test_cell_sizes_compete(library: Library) -> None:
    found = propose(library, {Z["Ti"]: 1, Z["O"]: 2}, 10, units=(1, 2, 4))
    assert len({p.num_atoms for p in found}) > 1


def test_an_unknown_formula_is_decorated(library: Library) -> None:
    # No entry has these counts, but rock salt and its like can hold the atoms.
    atoms = {Z["Li"]: 1, Z["Ni"]: 7, Z["Co"]: 2, Z["O"]: 10}
    found = propose(library, atoms, 10)
    assert any(p.method == "decoration" for p in found)


def test_a_hopeless_formula_is_no_error(library: Library) -> None:
    atoms = dict.fromkeys(range(3, 17), 1)
    assert propose(library, atoms, 5) == []


def test_no_atoms_are_refused(library: Library) -> None:
    with pytest.raises(UserError):
        propose(library, {}, 5)


def test_symmetry_permutes_sites(library: Library) -> None:
    parent = propose(library, {Z["Mg"]: 4, Z["O"]: 4}, 1)[0]
    sites = np.flatnonzero(parent.atomic_numbers == Z["Mg"])
    images = permutations_of(parent, sites)
    assert len(images) >= 4
    assert (np.sort(images, axis=1) == np.arange(4)).all()


def test_sublattices_are_as_many_as_known() -> None:
    # Sums of d * sigma(d) over divisors: OEIS A001001.
    assert [len(hermite_forms(m)) for m in range(1, 7)] == [1, 7, 13, 35, 31, 91]


def test_cells_of_a_size_hold_the_same_crystal(library: Library) -> None:
    entry = library.entries.by_counts[(2, 4)][5]
    one = library.entries.crystal(int(entry))
    numbers = np.repeat(one.elements, one.counts)
    cells = supercells(one.lattice, 3)
    assert len(cells) > 1
    for matrix in cells:
        lattice, frac, species = repeated(one.lattice, one.frac_coords, numbers, matrix)
        assert len(species) == 3 * len(numbers)
        larger = Crystals(species, frac, lattice[None], [len(species)], ["larger"])
        again = primitive_crystal(larger)
        assert again.counts == one.counts
        niggli = niggli_cells([(c.lattice, c.frac_coords, c.species) for c in (again, one)])
        same = np.arange(len(one.counts))[None]
        assert displacements(niggli, niggli, [(0, 1)], same)[0, 0] < 1e-3


def test_orderings_of_differently_shaped_cells_are_proposed(library: Library) -> None:
    # Rock salt with three of eight cations replaced has several cells of sixteen atoms.
    atoms = {Z["Mn"]: 3, Z["Li"]: 5, Z["O"]: 8}
    found = decorated(library, atoms, 60, set(), exclude_formula=True)
    lengths = {tuple(np.round(np.linalg.norm(p.lattice, axis=1), 1)) for p in found}
    assert len(lengths) > 2
    for p in found:
        elements, counts = np.unique(p.atomic_numbers, return_counts=True)
        assert dict(zip(elements.tolist(), counts.tolist(), strict=True)) == atoms


# --- files -------------------------------------------------------------------------------------


def test_users_crystals_are_proposed(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own" / "library.npz"
    monkeypatch.setenv("CRYSGEN_LIBRARY", str(own))
    # A layered square lattice that nobody has: told apart from everything known.
    lattice = np.diag([3.0, 3.0, 14.0])
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.09]])
    write(Crystals([Z["Xe"], Z["Og"]], frac, lattice[None], [2], ["mine"]), tmp_path / "cifs")
    added, total, failures = add_to_user_library([tmp_path / "cifs"])
    assert (added, total, failures) == (1, 1, [])
    both = Library.load()
    assert len(both) == len(library) + 1
    first = propose(both, {Z["Xe"]: 1, Z["Og"]: 1}, 1)[0]
    assert (first.template_id, first.source) == ("mine", "user")
    # Added again under the same id, it takes the old one's place.
    assert add_to_user_library([tmp_path / "cifs"])[1] == 1


def test_eight_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    own = tmp_path / "new" / "library.npz"
    environment = os.environ | {"CRYSGEN_LIBRARY": str(own)}
    commands = []
    for k in range(8):
        salts = [rock_salt("Na", "Cl", 5 + k / 8 + j / 80).with_ids([f"{k}-{j}"]) for j in range(3)]
        write(Crystals.concatenate(salts), tmp_path / f"{k}.npz")
        commands.append([sys.executable, "-c", ADD, "library", "add", str(tmp_path / f"{k}.npz")])
    # All have read and reduced their crystals before the first may write.
    with locked(own.parent.parent / "start", "taken"):
        environment["START"] = str(own.parent.parent / "start")
        running = [subprocess.Popen(c, env=environment, cwd=tmp_path) for c in commands]
        waiting = [tmp_path / f"ready-{process.pid}" for process in running]
        deadline = time.monotonic() + 300
        while not all(path.exists() for path in waiting) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [process.wait() for process in running] == [0] * 8
    entries = load_entries(own)
    assert sorted(entries.ids) == sorted(f"{k}-{j}" for k in range(8) for j in range(3))


ADD = """
import os, sys
from pathlib import Path
from crysgen.retrieval.library import user
from crysmetrics.locking import locked
join = user._join
def together(new, path):
    Path(f"ready-{os.getpid()}").touch()
    with locked(Path(os.environ["START"]), "nobody starts", 300):
        pass
    return join(new, path)
user._join = together
from crysgen.cli import main
main(sys.argv[1:])
"""


def test_what_cant_be_added_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text("no crystal")
    with pytest.raises(UserError, match=r"x\.cif"):
        add_to_user_library([tmp_path], tmp_path / "own.npz")
    assert not (tmp_path / "own.npz").exists()


def test_library_file_round_trip(tmp_path: Path, library: Library) -> None:
    save_entries(library.entries, tmp_path / "copy.npz")
    again = load_entries(tmp_path / "copy.npz")
    assert again.ids == library.entries.ids
    assert again.sources == library.entries.sources
    assert (again.match_representative == library.entries.match_representative).all()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no zip at all"])
def test_damaged_library_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.npz"):
        Library.load(tmp_path / "bad.npz")


def deep_head(arrays: dict[str, np.ndarray]) -> None:
    arrays["head"] = np.frombuffer(b"[" * 100_000, dtype=np.uint8)


def other_sources(arrays: dict[str, np.ndarray]) -> None:
    head = json.dumps({"schema": SCHEMA, "sources": 5, "sorted": 0})
    arrays["head"] = np.frombuffer(head.encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        deep_head,
        other_sources,
        lambda a: a.pop("kinds"),
        lambda a: a.update(elements=a["elements"][:-1]),
        lambda a: a.update(elements=a["elements"] * 0),
        lambda a: a.update(kinds=a["kinds"] * 0),
        lambda a: a.update(lattices=a["lattices"] * np.nan),
        lambda a: a.update(lattices=a["lattices"][0]),
        lambda a: a.update(source=a["source"] + 9),
        lambda a: a.update(frac_coords=a["frac_coords"].astype(str)),
        lambda a: a.update(hit_entry=np.array([7], dtype=np.int32)),
        lambda a: a.update(ids=np.frombuffer(b"a\na", dtype=np.uint8)),
    ],
)
def test_library_with_impossible_content_is_one_sentence(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "bad.npz"
    cells = [primitive_crystal(rock_salt(*pair)) for pair in (("Mg", "O", 4.2), ("Na", "Cl", 5.6))]
    entries = pack(["a", "b"], cells, np.zeros(2), (("user", "unknown"),), np.zeros(2))
    save_entries(entries, path)
    assert len(load_entries(path)) == 2
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"bad\.npz is (damaged|no library)"):
        load_entries(path)


def test_library_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crysgen.cli.library import library as command

    monkeypatch.setenv("CRYSGEN_LIBRARY", str(tmp_path / "own.npz"))
    write(rock_salt("Na", "Cl", 5.6), tmp_path / "cifs")
    runner = CliRunner()
    result = runner.invoke(command, ["add", str(tmp_path / "cifs")])
    assert result.exit_code == 0, result.output
    assert "1 crystal(s) added" in result.output
    result = runner.invoke(command, ["info"])
    assert "Materials Project (CC BY 4.0)" in result.output
    assert "user" in result.output
    result = runner.invoke(command, ["add", str(tmp_path / "nowhere")])
    assert result.exit_code == 2


def test_shipped_library_is_small_and_says_its_licences() -> None:
    path = shipped_library()
    assert path.stat().st_size < 4e6
    entries = load_entries(path)
    assert len(entries) > 15_000
    assert all(licence for _, licence in entries.sources)


# --- space groups --------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [160, 38])
def test_distortions_are_moved_onto_the_group_that_is_wanted(library: Library, lower: int) -> None:
    atoms = {Z["Ba"]: 1, Z["Ti"]: 1, Z["O"]: 3}
    distorted = propose(library, atoms, 3, space_group=lower)
    raised = raised_to(distorted, 221, {5})
    assert raised
    for proposal in raised:
        assert proposal.space_group == space_groups(to_crystals([proposal]), 0.001)[0] == 221
        assert Counter(proposal.atomic_numbers.tolist()) == atoms
    assert not raised_to(distorted, 221, {10})
    assert not raised_to(raised, lower, {5})


def test_proposals_of_a_group_go_on_with_distortions_of_it(library: Library) -> None:
    atoms = {Z["Ba"]: 1, Z["Ti"]: 1, Z["O"]: 3}
    cubic = [i for i in library.group((1, 1, 3)).members if library.entries.space_groups[i] == 221]
    found = propose(
        library, atoms, 9, space_group=221, exclude_ids=[library.entries.ids[i] for i in cubic]
    )
    assert found
    assert set(space_groups(to_crystals(found), 0.01)) == {221}
    own = library.entries.space_groups[[library.entries.position[p.template_id] for p in found]]
    assert (own != 221).all()
    scores = [p.score for p in found]
    assert scores == sorted(scores, reverse=True)
