"""The configuration of the adaptive-cell model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crysgen.config_values import MOST_STEPS, at_least, positive
from crysgen.models.base import ModelConfig
from crysgen.networks.base import check_settings
from crysgen.networks.sitenet import SiteNet
from crysgen.training.site_data import NUM_SITES, SPACE_GROUP


@dataclass(frozen=True)
class AdaptiveCellConfig(ModelConfig):
    """Everything that decides an adaptive-cell model beside its weights.

    Attributes:
        network_settings: keyword arguments of `SiteNet`.
        levels: L, noise levels.
        position_sigmas: smallest and largest noise of positions, in units of (V/N)^(1/3); between
            them each level has the same factor.
        lattice_sigmas: the same of the lattice, as strain.
        separate: whether positions are learned in lattices without noise, as in the paper. Else
            one look of the network gives both scores, of crystals with both noises, which is what
            sampling shows it.
        max_sites: non-equivalent sites of a crystal to learn from.
        volume: mean and standard deviation of the logarithm of the volume of an atom in Å³ (set by
            training).
        shapes: by Bravais lattice, means and standard deviations of the logarithms of a, b and c
            of conventional cells of volume 1 (set by training).
        position_step: step size of Langevin dynamics of positions, in units of σ²; more where the
            next level asks for it.
        lattice_step: the same of the lattice.
        position_temperature: factor of the noise that sampling adds to positions.
        lattice_temperature: the same of the lattice; low, so that lattices are near to likeliest.
    """

    network_settings: dict[str, Any] = field(default_factory=dict)
    levels: int = 100
    position_sigmas: tuple[float, float] = (0.005, 1.5)
    lattice_sigmas: tuple[float, float] = (0.003, 0.5)
    separate: bool = False
    max_sites: int = 10
    volume: tuple[float, float] = (2.9, 0.4)
    shapes: dict[str, Any] = field(default_factory=dict)
    position_step: float = 0.12
    lattice_step: float = 0.12
    position_temperature: float = 1.0
    lattice_temperature: float = 0.3

    def __post_init__(self) -> None:
        check_settings(SiteNet, self.network_settings)
        at_least("levels", self.levels, 2, MOST_STEPS)
        at_least("max_sites", self.max_sites, 1, 200)
        for name in ("position_sigmas", "lattice_sigmas"):
            first, last = getattr(self, name)
            if not 0 < first < last <= 10:
                raise ValueError(f"{name} must be two numbers that rise between 0 and 10")
        for name in ("position_step", "lattice_step"):
            positive(name, getattr(self, name), 1.0)
        for name in ("position_temperature", "lattice_temperature"):
            at_least(name, getattr(self, name), 0, 10)
        for key, values in self.shapes.items():
            numbers = isinstance(values, (list, tuple)) and len(values) == 6
            if not numbers or not all(isinstance(x, (int, float)) for x in values):
                raise ValueError(f"shapes must hold six numbers of each lattice, not so for {key}")

    @property
    def properties(self) -> tuple[str, ...]:
        """See `ModelConfig`."""
        return (SPACE_GROUP, NUM_SITES)
