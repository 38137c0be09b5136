"""The atoms of a latent vector: the likeliest formula, and which atom gets which type."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from crysgen.checkpoints import load_model
from crysgen.models.cdvae_contents import _BALANCED, _TRUST, likeliest_amounts
from crysgen.models.cdvae_types import assigned_types, whole_amounts
from crysgen.models.stoichiometries import check_stoichiometries, of_size, parsed
from crysmetrics.metrics.oxidation import valid_compositions

FORMULAS = {(1,): 3, (1, 1): 40, (2, 1): 30, (3, 1): 5, (3, 1, 1): 50, (2, 2, 1): 4, (2, 2, 2): 9}


def shares_of(*pairs: tuple[int, float]) -> torch.Tensor:
    """Return logarithms (1, 118) of shares by atomic number."""
    found = torch.full((1, 118), 1e-4)
    for number, share in pairs:
        found[0, number - 1] = share
    return (found / found.sum()).log()


def formula_of(amounts: torch.Tensor) -> dict[int, int]:
    return {z: n for z, n in enumerate(amounts.tolist(), start=1) if n}


FREE = torch.zeros(1, dtype=torch.int64)


def test_a_share_that_is_a_little_wrong_does_not_make_another_formula():
    """A perovskite, whose rounded shares would be Sr1 Ti2 O2."""
    shares = shares_of((38, 0.17), (22, 0.32), (8, 0.51))
    sizes = torch.zeros(1, 6).log_softmax(-1)
    five = torch.tensor([5])
    assert formula_of(likeliest_amounts(shares, sizes, FORMULAS, five)[0]) == {8: 3, 22: 1, 38: 1}


def test_of_like_shares_the_formula_whose_charges_balance_is_the_likelier(monkeypatch):
    shares, sizes = shares_of((56, 0.45), (9, 0.55)), torch.zeros(1, 3).log_softmax(-1)
    formulas = {(1, 1): 10, (2, 1): 10}
    assert formula_of(likeliest_amounts(shares, sizes, formulas, FREE)[0]) == {9: 2, 56: 1}
    monkeypatch.setitem(sys.modules, "smact", None)
    with pytest.warns(UserWarning, match="whatever their charges"):
        found = likeliest_amounts(shares, sizes, formulas, FREE)
    assert formula_of(found[0]) == {9: 1, 56: 1}


def test_the_number_of_atoms_is_evidence_unless_it_is_told():
    shares = shares_of((12, 0.5), (8, 0.5))
    sizes = torch.tensor([[0.01, 0.5, 0.01, 0.01, 0.01, 0.46]]).log()
    assert likeliest_amounts(shares, sizes, FORMULAS, FREE).sum() == 2
    for size in (2, 4, 5, 6, 7):  # of 7 there is no stoichiometry: one element is left
        found = likeliest_amounts(shares, sizes, FORMULAS, torch.tensor([size]))
        assert found.sum() == size
    found = likeliest_amounts(shares, sizes, FORMULAS, torch.tensor([2]))
    assert formula_of(found[0]) == {8: 1, 12: 1}


def test_no_formula_has_a_higher_score_than_the_chosen_one():
    """Every stoichiometry, with every choice of elements that leaves out at most one."""
    generator = torch.Generator().manual_seed(0)
    shares = (3 * torch.randn(40, 118, generator=generator)).log_softmax(-1)
    sizes = torch.randn(40, 6, generator=generator).log_softmax(-1)
    found = likeliest_amounts(shares, sizes, FORMULAS, torch.zeros(40, dtype=torch.int64))
    for row, amounts in enumerate(found):
        order = shares[row].argsort(descending=True)[:4].tolist()
        best = (-np.inf, {})
        for parts, count in FORMULAS.items():
            total = sum(parts)
            for places in combinations(range(len(parts) + 1), len(parts)):
                cell = np.zeros((1, 119), dtype=np.int64)
                score = float(sizes[row, total - 1]) + np.log(count)
                for place, n in zip(places, parts, strict=True):
                    cell[0, order[place] + 1] = n
                    score -= _TRUST * n * (np.log(n / total) - float(shares[row, order[place]]))
                score += _BALANCED * valid_compositions(cell, "smact14")[0]
                best = max(best, (score, formula_of(torch.tensor(cell[0, 1:]))), key=lambda x: x[0])
        assert formula_of(amounts) == best[1]


def test_the_shipped_model_knows_the_stoichiometries_of_its_training_crystals():
    model = load_model("cdvae-mp-v2", "cpu")
    known = parsed(model.config.formulas)
    assert sum(known.values()) == 19_509
    z = torch.zeros(2, model.config.latent_channels)
    amounts = model.contents(z, torch.tensor([0, 10]))
    assert amounts[1].sum() == 10
    for row in amounts.tolist():
        assert tuple(sorted((n for n in row if n), reverse=True)) in known
    assert model.sizes(z).tolist() == [int(amounts[0].sum())] * 2


def test_stoichiometries_are_those_of_a_size_or_multiples_of_smaller_ones():
    assert of_size(FORMULAS, 2) == {(1, 1): 40}
    assert of_size(FORMULAS, 10) == {(10,): 3, (5, 5): 40, (6, 2, 2): 50, (4, 4, 2): 4}
    assert of_size({(3, 1): 2}, 5) == {(5,): 1}
    check_stoichiometries({"3 1": 2})
    with pytest.raises(ValueError, match="not '3 x'"):
        check_stoichiometries({"3 x": 2})


def test_compositions_become_whole_numbers_of_atoms_by_largest_remainders():
    shares = torch.zeros(2, 118)
    shares[0, [0, 1, 2]] = torch.tensor([0.5, 0.3, 0.2])
    shares[1, [5, 6]] = torch.tensor([0.51, 0.49])
    found = whole_amounts(shares, torch.tensor([5, 2]))
    # 2.5, 1.5, 1.0 of 5: the first of the two largest remainders.
    assert found.sum(1).tolist() == [5, 2]
    assert found[0, 2] == 1
    assert found[1, [5, 6]].tolist() == [1, 1]


def test_atoms_get_the_types_of_the_composition_where_they_are_likeliest():
    logits = torch.full((1, 4, 118), -9.0)
    logits[0, :3, 7] = torch.tensor([3.0, 1.0, 2.0])  # all three would be oxygen
    logits[0, :, 11] = 0.0
    mask = torch.tensor([[True, True, True, False]])
    amounts = torch.zeros(1, 118, dtype=torch.int64)
    amounts[0, [7, 11]] = torch.tensor([2, 1])
    assert assigned_types(logits, amounts, mask).tolist() == [[8, 12, 8, 0]]
