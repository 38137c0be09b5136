"""CDVAE within space groups: latent vectors whose atoms have a place in the group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crysgen.compositions.formulas import Formula
from crysgen.wyckoff.fillings import Fillings, contents_of
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import space_group

_AT_ONCE, _MOST = 32, 1024
"""Latent vectors that are tried together, and in all."""


def fitting_latent(
    number: int, draw: Callable[[int], Tensor], atoms_of: Callable[[Tensor], list[tuple[int, ...]]]
) -> Tensor:
    """Draw latent vectors until one has atoms that have a place in a space group.

    Args:
        number: of the space group.
        draw: draws so many vectors (K, D).
        atoms_of: atomic numbers of each of these vectors.

    Returns:
        The first one (D,) that fits.

    Raises:
        UserError: if none of many does.
    """
    group = space_group(number)
    known: dict[tuple[int, ...], bool] = {}
    for _ in range(_MOST // _AT_ONCE):
        latents = draw(_AT_ONCE)
        for vector, atoms in zip(latents, atoms_of(latents), strict=True):
            formula = Formula.of_atoms(torch.tensor(atoms).numpy())
            key = tuple(sorted(formula.amounts))
            if key not in known:
                known[key] = bool(Fillings(group, contents_of(formula, 1, group)).count)
            if known[key]:
                return vector
    raise UserError(
        f"None of {_MOST:,} compositions of the model has a place in space group {number} "
        f"({group.symbol})."
    )


def atoms_of(amounts: Tensor) -> list[tuple[int, ...]]:
    """List the atomic numbers of crystals by how many atoms (B, Z) of each element they have."""
    rows = amounts.tolist()
    return [tuple(z for z, n in enumerate(row, start=1) for _ in range(n)) for row in rows]
