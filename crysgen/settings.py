"""What decides the structures of a run, and what only decides how fast they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from crysgen.compositions.formula_units import MAX_ATOMS


@dataclass(frozen=True)
class Settings:
    """Everything beside the asked compositions that decides what comes out.

    Attributes:
        method: a name of `crysgen.methods.METHODS`.
        model: name or path of a diffusion model; None for the default one.
        steps: of the reverse diffusion; None for all of the model's.
        seed: from which every structure's own seed follows.
        max_atoms: of a cell.
        energies: whether ALIGNN predicts formation energies, which then rank samples from noise.
        relax: whether CHGNet relaxes the likeliest structures, and its energies order them.
        dispersion: whether relaxation adds dispersion (D3) where an element is no metal.
        symmetrize: CIFs in the space group found, in its conventional cell.
        tolerance: Å within which symmetry is found.
        space_group: number of the only space group that is wanted; crystals are symmetrised.
        exclude: ids of known structures that must not be proposed.
    """

    method: str = "auto"
    model: str | None = None
    steps: int | None = None
    seed: int = 0
    max_atoms: int = MAX_ATOMS
    energies: bool = True
    relax: bool = False
    dispersion: bool = True
    symmetrize: bool = False
    tolerance: float = 0.1
    space_group: int | None = None
    exclude: tuple[str, ...] = ()

    @property
    def makes_symmetric(self) -> bool:
        """Whether crystals are symmetrised: asked for, or needed for a space group."""
        return self.symmetrize or self.space_group is not None

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """Where and how fast; results do not depend on it but for rounding.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        workers: cores to use; None for all.
        batch_size: structures that are denoised together; None to choose.
        cache: where features are kept between runs, as `--cache` has it.
    """

    device: str = "auto"
    workers: int | None = None
    batch_size: int | None = None
    cache: str | None = None
