import numpy as np
import pytest
import torch
from fake_model import FakeModel
from sets import one, random_crystals, rocksalt

from crysgen.compositions.formulas import Formula, parse_formula
from crysgen.requests import (
    ask_formulas,
    ask_free,
    ask_path,
    ask_structures,
    derived_seed,
    digest,
    draws,
    read_formulas,
)
from crysgen.sampling import ATTEMPTS, plan_batches, sample
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals, write


def requests(*texts, count=4, units=None):
    return ask_formulas([parse_formula(t) for t in texts], count, units)


# --- what is asked for -----------------------------------------------------------------------


def test_a_formula_asked_twice_gets_twice_as_many():
    found = requests("Li2O", "NaCl", "Li2O", count=5)
    assert [(a.formula.text, a.count) for a in found] == [("Li2O", 10), ("NaCl", 5)]
    assert all(not a.is_exact for a in found)


def test_crystals_of_a_model_s_choice_have_targets_without_atoms():
    (request,) = ask_free(3)
    made = draws([request], seed=4)
    assert request.is_free
    assert not ask_formulas([parse_formula("Li2O")], 1)[0].is_free
    assert [draw.target.given for draw in made] == [frozenset()] * 3
    assert len({draw.seed for draw in made}) == 3
    assert [draw.seed for draw in draws(ask_free(5), seed=4)[:3]] == [d.seed for d in made]
    sized = draws(ask_free(3, 7), seed=4)
    assert {draw.target.num_atoms for draw in sized} == {7}
    assert not {draw.seed for draw in sized} & {draw.seed for draw in made}
    again = sized[0].again(1)
    assert again.target.num_atoms == 7
    assert again.seed != sized[0].seed
    found = {digest(ask_free(3, atoms)) for atoms in (None, 6, 7)}
    assert len(found) == 3


def test_formula_files(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# binaries\nLi2O\n\n  Ca(OH)2  # slaked lime\n[NH4]2SO4\nLi2O\n")
    assert [f.text for f in read_formulas(path)] == ["Li2O", "CaH2O2", "H8SN2O4", "Li2O"]
    assert [a.count for a in ask_path(path, 2)] == [4, 2, 2]
    path.write_text("Li2O\nnacl\n")
    with pytest.raises(InputError, match=r"line 2.*NaCl"):
        ask_path(path, 2)
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="no formula"):
        ask_path(path, 2)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="neither text"):
        ask_path(path, 2)
    with pytest.raises(InputError, match="does not exist"):
        ask_path(tmp_path / "nowhere", 2)
    # Without a suffix the first bytes decide; a line with a bracket is no JSON for a .txt.
    bare = tmp_path / "formulas"
    bare.write_text("TiO2\n")
    assert ask_path(bare, 1)[0].formula.text == "TiO2"
    brackets = tmp_path / "brackets.txt"
    brackets.write_text("[NH4]2SO4\n")
    assert ask_path(brackets, 1)[0].formula.num_atoms == 15


def test_named_references_are_structures():
    found = ask_path("mp20-test-bt", 1)
    assert len(found) == 7118
    assert all(a.is_exact and a.formula.num_atoms <= 20 for a in found)
    with pytest.raises(InputError, match="does not exist"):
        ask_path("mp20-test-xx", 1)


def test_structures_ask_for_their_own_cells(tmp_path):
    double = one([11, 11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0.2, 0, 0], [0.7, 0, 0]], 6.0, "two")
    write(Crystals.concatenate([rocksalt(name="salt"), double]), tmp_path / "ref")
    found = ask_path(tmp_path / "ref", 3)
    assert [(a.ref_id, a.formula.text, a.sizes) for a in found] == [
        ("salt", "NaCl", ((1, 3),)),
        ("two", "Na2Cl2", ((1, 3),)),
    ]
    made = draws(found, seed=0)
    assert [d.target.size for d in made] == [2] * 3 + [4] * 3
    with pytest.raises(UserError, match="--formula-units"):
        ask_path(tmp_path / "ref", 3, units=(1,))
    with pytest.raises(UserError, match=r"1 of the 2 .*two has 4.*--max-atoms"):
        ask_structures(tmp_path / "ref", 1, max_atoms=3)
    (tmp_path / "ref" / "bad.cif").write_text("")
    with pytest.raises(InputError, match=r"1 of the 3 .*bad.cif is empty"):
        ask_path(tmp_path / "ref", 1)


# --- draws -----------------------------------------------------------------------------------


def test_seeds_follow_from_seed_cell_and_number_alone():
    few, many = draws(requests("Li2O", count=4), 7), draws(requests("NaCl", "Li2O", count=32), 7)
    known = {(tuple(sorted(d.target.atomic_numbers)), d.index): d.seed for d in many}
    assert len(set(known.values())) == len(many)
    for d in few:
        assert known[tuple(sorted(d.target.atomic_numbers)), d.index] == d.seed
        assert 0 <= d.seed < 2**53
        assert d.again(1).seed not in known.values()
        assert d.again(0) == d
    assert {d.seed for d in draws(requests("Li2O"), 8)}.isdisjoint(d.seed for d in few)
    assert derived_seed(0, (3, 3, 8), 0) == derived_seed(0, (8, 3, 3), 0)


def test_polymorphs_of_one_cell_get_different_draws(tmp_path):
    both = Crystals.concatenate([rocksalt(name="a"), rocksalt(5.0, name="b")])
    write(both, tmp_path / "ref")
    seeds = [d.seed for d in draws(ask_path(tmp_path / "ref", 2), 0)]
    assert len(set(seeds)) == 4


def test_digests_tell_requests_apart():
    same = digest(requests("Li2O")), digest(requests("Li2O"))
    assert same[0] == same[1]
    others = [
        requests("Na2O"),
        requests("Li2O", count=5),
        requests("Li2O", units=(1,)),
        requests("Li4O2"),
    ]
    assert len({same[0], *map(digest, others)}) == 5


# --- batches and sampling --------------------------------------------------------------------


def requested(count=40, seed=3):
    rng = np.random.default_rng(seed)
    cells = [Formula.of_atoms(rng.choice([3, 8, 26], n)) for n in rng.integers(1, 21, count)]
    return draws(ask_formulas(cells, 1, (1,)), seed)


@pytest.mark.parametrize(("batch_size", "workers"), [(None, 1), (None, 4), (1, 1), (7, 2)])
def test_batches_hold_every_draw_once(batch_size, workers):
    wanted = requested(200)
    batches = plan_batches(wanted, "cpu", batch_size, workers)
    assert sorted(d.number for b in batches for d in b) == [d.number for d in wanted]
    sizes = [d.target.size for b in batches for d in b]
    assert sizes == sorted(sizes, reverse=True)
    assert all(len(b) <= (batch_size or 400) for b in batches)
    if batch_size is None:
        assert all(len(b) * b[0].target.size <= 400 for b in batches)
        assert len(batches) >= min(workers, 4)


def test_few_small_cells_share_a_batch_with_large_ones():
    wanted = draws(requests("Li2O", count=8, units=(1, 4)), 0)
    assert len(plan_batches(wanted)) == 1
    assert plan_batches([]) == []


def contents(parts):
    return {
        int(crystal.ids[0]): (crystal.content_hashes()[0], int(crystal.properties["seed"][0]))
        for part in parts
        for crystal in part
    }


def test_results_do_not_depend_on_batches_threads_or_memory():
    wanted = requested()
    whole = contents(sample(FakeModel(), plan_batches(wanted)))
    assert sorted(whole) == [d.number for d in wanted]
    for model, size, workers in (
        (FakeModel(), 1, 1),
        (FakeModel(), 7, 3),
        (FakeModel(memory=20), None, 1),
        (FakeModel(memory=55), 16, 2),
    ):
        batches = plan_batches(wanted, batch_size=size, workers=workers)
        assert contents(sample(model, batches, workers=workers)) == whole


def test_memory_is_asked_for_less_once_it_ran_out():
    model = FakeModel(memory=40)
    wanted = draws(ask_formulas([parse_formula("Li2O")], 64, (1,)), 0)
    list(sample(model, [wanted[:32], wanted[32:]]))
    sizes = [len(seeds) for seeds in model.calls]
    assert sizes[0] == 32
    assert max(sizes[-8:]) <= 13
    with pytest.raises(UserError, match="not enough memory on cpu for a cell of 3 atoms"):
        list(sample(FakeModel(memory=2), [wanted]))


def test_other_errors_are_not_taken_for_memory():
    class Broken(FakeModel):
        def sample(self, *args):
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        list(sample(Broken(), plan_batches(requested(2))))


def test_progress_counts_every_structure_once():
    wanted, told = requested(30), []
    list(sample(FakeModel(memory=60), plan_batches(wanted), steps=5, advance=told.append))
    assert sum(told) == 30 * 5


def test_what_is_no_crystal_is_drawn_again_with_a_new_seed():
    wanted = draws(requests("Li2O", count=6, units=(1, 2)), 0)
    bad, hopeless = wanted[1], wanted[4]
    never = {hopeless.again(k).seed for k in range(ATTEMPTS)}
    model = FakeModel(bad={bad.seed, *never})
    (part,) = sample(model, plan_batches(wanted))
    found = dict(zip(part.ids, part.properties["seed"].tolist(), strict=True))
    again = dict(zip(part.ids, part.properties["redrawn"].tolist(), strict=True))
    assert found[str(bad.number)] == bad.again(1).seed
    assert again == {str(d.number): int(d == bad) for d in wanted if d != hopeless}
    (failure,) = part.failures
    assert failure.file == str(hopeless.number)
    assert failure.reason.endswith(f"after {ATTEMPTS} draws")
    assert [len(seeds) for seeds in model.calls] == [6, 2, 1, 1, 1]


def test_atoms_on_top_of_each_other_are_drawn_again_unless_told_not_to():
    wanted = draws(requests("Li2O", count=6, units=(1,)), 0)
    unlucky, hopeless = wanted[1], wanted[4]
    never = [hopeless.again(k).seed for k in range(ATTEMPTS)]

    def drawn(redraw):
        model = FakeModel(clashing={unlucky.seed, *never})
        (part,) = sample(model, plan_batches(wanted), redraw_clashes=redraw)
        assert not part.failures
        return dict(zip(part.ids, part.properties["seed"].tolist(), strict=True))

    assert drawn(redraw=False) == {str(d.number): d.seed for d in wanted}
    expected = {str(d.number): d.seed for d in wanted}
    expected |= {str(unlucky.number): unlucky.again(1).seed, str(hopeless.number): never[-1]}
    assert drawn(redraw=True) == expected


def test_atoms_are_those_asked_for():
    wanted = requested()
    for part in sample(FakeModel(), plan_batches(wanted)):
        for crystal in part:
            atoms = wanted[int(crystal.ids[0])].target.atomic_numbers
            assert crystal.atomic_numbers.tolist() == list(atoms)
    assert torch.get_num_threads() >= 1


def test_random_structures_keep_their_composition(tmp_path):
    crystals = random_crystals(20, 5)
    write(crystals, tmp_path / "ref.npz")
    found = ask_structures(tmp_path / "ref.npz", 1)
    for crystal, one_asked in zip(crystals, found, strict=True):
        assert sorted(one_asked.formula.atoms) == sorted(crystal.atomic_numbers.tolist())
