"""The atoms of a latent vector: the likeliest formula, by what z predicts and by what is known.

CDVAE rounds the shares of elements that z predicts. A small error of a share then makes another
formula, and a z between those of crystals makes a mixture of all their elements. Here shares and
number of atoms are evidence for a formula, beside how often training crystals have its
stoichiometry, and whether its charges balance. On `val` (`cdvae-mp-v2`) so 0.64 of the formulas of
encoded crystals are right, and 0.41 by rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crysgen.models.stoichiometries import Amounts, of_size
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.packages import is_installed

_TRUST = 2.0
"""Weight of the shares for each atom, in units of their relative entropy: chosen on `val`."""
_BALANCED = 2.0
"""Logarithm of how much likelier a formula is whose charges can balance: chosen on `val`."""
_STATES = "smact14"
"""Oxidation states of `crysmetrics`' composition validity."""
_STOICHIOMETRIES, _FORMULAS = 32, 48
"""Stoichiometries that elements are tried in, and formulas whose charges are looked at."""


def likeliest_amounts(
    shares: Tensor, sizes: Tensor, formulas: Mapping[Amounts, int], num_atoms: Tensor
) -> Tensor:
    """Choose the likeliest formulas.

    A stoichiometry with n_i of N atoms has -T N KL(n_i/N || shares) + ln p(N) + ln p(n), where
    p(N) is what z predicts and p(n) its frequency among training crystals. Its largest number goes
    to the element with the largest share, and so on; any one of the elements may be left out for
    the next.

    Args:
        shares: (B, Z) logarithms of the shares of elements.
        sizes: (B, M) logarithms of the probabilities of 1 to M atoms.
        formulas: how many training crystals have numbers of atoms of elements, see
            `stoichiometries`.
        num_atoms: (B,) int64 that are told; 0 where they are not.

    Returns:
        (B, Z) int64 atoms of each element, on the device of `shares`.
    """
    logarithms = shares.detach().double().cpu().numpy()
    of_sizes = sizes.detach().double().cpu().numpy()
    told = num_atoms.cpu().numpy()
    found = np.zeros(logarithms.shape, dtype=np.int64)
    for size in np.unique(told).tolist():
        rows = np.flatnonzero(told == size)
        known = of_size(formulas, size) if size else formulas
        chances = of_sizes[rows] if not size else None
        found[rows] = _likeliest(logarithms[rows], chances, known)
    return torch.as_tensor(found, device=shares.device)


def _likeliest(
    shares: NDArray[np.float64],
    sizes: NDArray[np.float64] | None,
    formulas: Mapping[Amounts, int],
) -> NDArray[np.int64]:
    """Choose formulas (B, Z); `sizes` is None where they are all of one size."""
    if sizes is not None:
        formulas = {a: n for a, n in formulas.items() if sum(a) <= sizes.shape[1]}
    width = min(max(map(len, formulas)), shares.shape[1] - 1)
    formulas = {a: n for a, n in formulas.items() if len(a) <= width}
    amounts = np.array([[*a, *[0] * (width - len(a))] for a in formulas], dtype=np.int64)
    total = amounts.sum(1)
    prior = np.log(np.array(list(formulas.values()), dtype=np.float64))
    order = np.argsort(-shares, axis=1, kind="stable")[:, : width + 1]
    best = np.take_along_axis(shares, order, axis=1)
    # -T N KL: of what each atom adds, only the shares' part depends on the elements.
    part = amounts / total[:, None]
    entropy = -(part * np.log(np.where(part > 0, part, 1.0))).sum(1)
    fixed = prior + _TRUST * total * entropy + np.zeros((len(shares), 1))
    if sizes is not None:
        fixed += sizes[:, total - 1]
    first = fixed + _TRUST * best[:, :width] @ amounts.T
    kept = np.argsort(-first, axis=1, kind="stable")[:, :_STOICHIOMETRIES]
    tried = amounts[kept]
    scores, elements = [], []
    for out in range(width + 1):
        places = np.delete(np.arange(width + 1), out)
        score = np.take_along_axis(fixed, kept, axis=1)
        score = score + _TRUST * (tried * best[:, None, places]).sum(2)
        # Without an element that it has no atoms of it is the same formula again.
        is_new = (out == width) | (tried[:, :, min(out, width - 1)] > 0)
        scores.append(np.where(is_new, score, -np.inf))
        elements.append(np.broadcast_to(order[:, None, places], tried.shape))
    score = np.concatenate(scores, axis=1)
    chosen = np.argsort(-score, axis=1, kind="stable")[:, :_FORMULAS]
    rows = np.arange(len(shares))[:, None]
    cells = np.zeros((*chosen.shape, shares.shape[1] + 1), dtype=np.int64)
    numbers = np.concatenate(elements, axis=1)[rows, chosen] + 1
    counts = np.concatenate([tried] * (width + 1), axis=1)[rows, chosen]
    np.put_along_axis(cells, numbers, counts, axis=2)
    final = score[rows, chosen] + _BALANCED * _are_balanced(cells)
    winners: NDArray[np.int64] = cells[rows[:, 0], final.argmax(1), 1:]
    return winners


def _are_balanced(cells: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which compositions (B, K, 119) can be charge-neutral; all, where SMACT is missing.

    Machines that only train and sample may lack it (benchmarks/gpu_training.py).
    """
    if not (is_installed("smact") and is_installed("pandas")):
        warnings.warn("formulas are chosen whatever their charges: smact is missing", stacklevel=2)
        return np.ones(cells.shape[:2], dtype=np.bool_)
    return valid_compositions(cells.reshape(-1, cells.shape[2]), _STATES).reshape(cells.shape[:2])
