"""Configuration of CDVAE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from crysgen.config_values import MOST_STEPS, at_least, positive
from crysgen.models.base import ModelConfig
from crysgen.models.cdvae_decoders import DECODERS
from crysgen.models.cdvae_encoders import ENCODERS
from crysgen.models.stoichiometries import check_stoichiometries, parsed
from crysgen.networks.base import LARGEST_NETWORK

_LARGEST = 1e6

Encoder = Literal["cspnet", "pairformer", "gemsnet", "dimenet"]
Decoder = Literal["cspnet", "pairformer", "gemsnet"]
Sampler = Literal["langevin", "renoised", "ancestral", "deterministic"]
TypeWeights = Literal["inverse", "uniform"]
TypeSteps = Literal["likeliest", "drawn"]
Prior = Literal["normal", "flow"]


@dataclass(frozen=True)
class CDVAEConfig(ModelConfig):
    """Everything that decides a CDVAE model beside its weights.

    Attributes:
        encoder: network of PGNN_ENC: the paper's is `dimenet`, on bonds by CrystalNN.
        encoder_settings: its keyword arguments.
        decoder: network of PGNN_DEC: `gemsnet` is the one of the paper's kind.
        decoder_settings: its keyword arguments.
        told_level: whether the decoder is told how strong the noise is; not in the paper.
        latent_channels: D of z.
        hidden_channels: of the perceptrons that read z.
        levels: L, noise levels.
        type_sigmas: (σ_A,max, σ_A,min).
        position_sigmas: (σ_X,max, σ_X,min) in Å.
        centred: whether a common shift of all atoms is neither noise nor error; not in the paper.
        scaled: whether moves are predicted, and their errors counted, in units of their root mean
            square without data, which falls where noise is wider than the cell; the paper, with
            False, counts them in units of σ_X, and hardly sees the widest noise.
        composition_weight: λ_c of Eq. 9.
        lattice_weight: λ_L.
        count_weight: λ_N.
        position_weight: λ_X.
        type_weight: λ_A.
        type_weights: of the cross-entropies of types: `inverse` divides them by σ_A (Eq. 2).
        kl_weight: β.
        property_weight: of the property predictor.
        property_name: number of a crystal that is predicted from z; "" for none. Crystals of the
            training data may lack it.
        lattice_mean: of the six lattice parameters, lengths divided by N^(1/3) in Å, angles in
            radians (set by training).
        lattice_std: their standard deviations (set by training).
        most_atoms: of a training crystal (set by training).
        property_mean: of the property (set by training).
        property_std: its standard deviation; 0 where no crystal has it (set by training).
        sampler: `langevin` is Algorithm 1; the others go from level to level in one step each, and
            `steps` may be any number of levels. `renoised` moves atoms all the way to where the
            decoder sees them, and adds new noise of the next level; `ancestral` keeps a part of the
            noise, and `deterministic` adds none.
        steps_per_level: T of Algorithm 1.
        step_size: ε of Algorithm 1, in Å².
        noise: factor of the random numbers of sampling.
        type_steps: `likeliest` is Algorithm 1; `drawn` types keep the noise of their level.
        predicted_composition: whether the atoms decoded are those of the likeliest formula, by what
            z predicts and by `formulas`, each where it is likeliest; False is Algorithm 1.
        formulas: training crystals by numbers of atoms of their elements, the largest first, as in
            `3 1 1` (set by training); without any, what z predicts is rounded.
        prior: `normal` draws z from N(0, 1), as the paper; `flow` as training crystals' are.
        prior_channels: width of the flow.
    """

    encoder: Encoder = "cspnet"
    encoder_settings: dict[str, Any] = field(default_factory=dict)
    decoder: Decoder = "cspnet"
    decoder_settings: dict[str, Any] = field(default_factory=dict)
    told_level: bool = True
    latent_channels: int = 256
    hidden_channels: int = 256
    levels: int = 50
    type_sigmas: tuple[float, float] = (5.0, 0.01)
    position_sigmas: tuple[float, float] = (10.0, 0.01)
    centred: bool = True
    scaled: bool = True
    composition_weight: float = 1.0
    lattice_weight: float = 10.0
    count_weight: float = 1.0
    position_weight: float = 10.0
    type_weight: float = 1.0
    type_weights: TypeWeights = "inverse"
    kl_weight: float = 0.01
    property_weight: float = 1.0
    property_name: str = "formation_energy_per_atom"
    lattice_mean: tuple[float, ...] = ()
    lattice_std: tuple[float, ...] = ()
    most_atoms: int = 20
    property_mean: float = 0.0
    property_std: float = 0.0
    sampler: Sampler = "renoised"
    steps_per_level: int = 2
    step_size: float = 1e-4
    noise: float = 1.0
    type_steps: TypeSteps = "drawn"
    predicted_composition: bool = False
    formulas: dict[str, int] = field(default_factory=dict)
    prior: Prior = "flow"
    prior_channels: int = 256

    @property
    def partial_properties(self) -> tuple[str, ...]:
        """See `ModelConfig`."""
        return (self.property_name,) if self.property_name else ()

    def __post_init__(self) -> None:
        with torch.device("meta"):  # takes no memory
            networks: list[nn.Module] = [
                ENCODERS[self.encoder](self.encoder_settings),
                DECODERS[self.decoder](self.decoder_settings),
            ]
        for network in networks:
            weights = sum(p.numel() for p in network.parameters())
            if weights > LARGEST_NETWORK:
                raise ValueError(f"the network would have {weights:.1e} weights")
        at_least("latent_channels", self.latent_channels, 1, 4096)
        at_least("hidden_channels", self.hidden_channels, 1, 4096)
        at_least("prior_channels", self.prior_channels, 2, 4096)
        at_least("levels", self.levels, 1, MOST_STEPS)
        at_least("steps_per_level", self.steps_per_level, 1, MOST_STEPS // self.levels)
        at_least("most_atoms", self.most_atoms, 1, 10_000)
        for key in ("type_sigmas", "position_sigmas"):
            first, last = getattr(self, key)
            if not 0 < last <= first <= _LARGEST:
                raise ValueError(f"{key} must be two numbers above 0 that do not rise")
        for name in (
            "composition_weight",
            "lattice_weight",
            "count_weight",
            "position_weight",
            "type_weight",
            "kl_weight",
            "property_weight",
            "noise",
        ):
            at_least(name, getattr(self, name), 0, _LARGEST)
        positive("step_size", self.step_size, _LARGEST)
        check_stoichiometries(self.formulas)
        sizes = [sum(amounts) for amounts in parsed(self.formulas)]
        if min(sizes, default=0) > self.most_atoms:
            raise ValueError(f"none of the formulas has at most {self.most_atoms} atoms")
        at_least("property_std", self.property_std, 0, _LARGEST)
        for name in ("lattice_mean", "lattice_std"):
            if len(getattr(self, name)) not in (0, 6):
                raise ValueError(f"{name} must be six numbers")
        if any(not 0 < std < _LARGEST for std in self.lattice_std):
            raise ValueError("lattice_std must be positive")
