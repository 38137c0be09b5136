"""`Target`: one structure that a model is asked to make."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Target:
    """One structure to make; None leaves a choice to the model.

    Attributes:
        seed: of all its random numbers, below 2^53.
        atomic_numbers: of the cell's atoms.
        num_atoms: of the cell, where `atomic_numbers` is not given.
        space_group: number from 1 to 230.
        sites: atomic numbers of the non-equivalent sites, where `atomic_numbers` is not given: how
            many atoms each stands for is left to the model.
        latent: vector of the model's latent space that is decoded.
        failed: number of earlier draws of the same structure that came to nothing: a model may be
            more careful then.
    """

    seed: int
    atomic_numbers: tuple[int, ...] | None = None
    num_atoms: int | None = None
    space_group: int | None = None
    sites: tuple[int, ...] | None = None
    latent: tuple[float, ...] | None = None
    failed: int = 0

    @property
    def size(self) -> int | None:
        """Number of atoms, where it is known."""
        return self.num_atoms if self.atomic_numbers is None else len(self.atomic_numbers)

    @property
    def given(self) -> frozenset[str]:
        """Names of the fields beside the seed that are not left to the model."""
        return frozenset(name for name in FIELDS if getattr(self, name) is not None)


FIELDS = tuple(field.name for field in fields(Target) if field.name not in ("seed", "failed"))
"""Names of all that a model can be told about a structure."""
