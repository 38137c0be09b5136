"""Configuration of CrysLDM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from crysgen.config_values import MOST_STEPS, at_least, positive
from crysgen.diffusion.positions import FlowProcess, ScoreProcess
from crysgen.diffusion.schedules import (
    Exploding,
    Preserving,
    Straight,
    exploding_geometric,
    linear_betas,
    preserving_powers,
)
from crysgen.models.base import ModelConfig
from crysgen.models.crysldm_cells import MatrixCells, VectorCells
from crysgen.models.crysldm_process import LatentDiffusion
from crysgen.models.stoichiometries import check_stoichiometries
from crysgen.networks.base import LARGEST_NETWORK, check_settings
from crysgen.networks.cspnet import CSPNet

_LARGEST = 1e6
_LARGEST_POWER = 100.0
_FLOW_SPREAD, _FLOW_FLOOR = 0.29, 0.003
"""Sizes of a flow's displacements: at the start in one direction, and what is added at the end."""


@dataclass(frozen=True)
class CrysLDMConfig(ModelConfig):
    """Everything that decides a CrysLDM model beside its weights.

    Attributes:
        autoencoder_settings: keyword arguments of `CSPNet` in encoder and decoder.
        denoiser_settings: the same of the denoiser.
        latent_channels: D, numbers of an atom in the latent space.
        lattice_weight: of the squared error of the cell, summed over its entries in units of
            `lattice_scale`, beside the cross-entropy of an atom's type.
        kl_weight: λ of Eq. 5.
        cell_form: `matrix`, lattice vectors as in the paper, or `vector`, the standardised
            logarithm of the cell: six invariant numbers, whose noise makes no flat cells.
        standardize_latents: whether latents are brought to unit size before they are noised.
        sample_latents: whether the diffusion learns latents drawn from the encoder's distributions,
            or their means, which leave less to be learned.
        steps: T.
        latent_betas: (β_1, β_T) of the latents; linear.
        latent_power: if given, the latents' noise is (t/T)^power instead. Where it is large, atoms
            and cell are known before positions are (as in GemsDiff's `lattice_power`).
        position_process: `score` of the wrapped normal distribution, as in the paper, or `flow`
            from uniform positions (FlowMM, OMatG); see `crysgen.diffusion.positions`.
        position_sigmas: (σ_1, σ_T) of positions; geometric; of `score` alone.
        coupling: whether a flow begins at positions that are paired with atoms of the same element
            by the smallest total displacement (`crysgen.diffusion.coupling`).
        snr_cap: if given, latents' errors are those of velocities, times snr_cap divided by the
            ratio of signal and noise where that is larger; the paper's are those of ε.
        type_loss: λ_A.
        lattice_loss: λ_L.
        position_loss: λ_X.
        told_share: of the training crystals whose composition the denoiser is told, so that it can
            make crystals of a composition; 0 for the paper's model, which makes none.
        stoichiometry: whether it is drawn from the training data, as the number of atoms is in the
            paper, which atoms are of one element, and the denoiser is told; which elements they are
            remains its choice.
        lattice_scale: root mean square of the entries of the training data's cells divided by
            N^(1/3), in Å (set by training).
        lattice_mean: of the logarithms of the training data's cells (set by training).
        lattice_std: of the same.
        atom_counts: training crystals with 1, 2, ... atoms (set by training).
        formulas: training crystals by numbers of atoms of their elements, the largest first, as in
            `3 1 1` (set by training where there is `stoichiometry`).
        latent_noise: factor of the noise that sampling adds to latents on the way back: 1 is the
            paper's, 0 deterministic (DDIM).
        position_noise: the same for positions.
        corrector: size of the corrector's steps in units of σ²; 0 for none, which halves the
            calls of the network. Of `score` alone.
        anti_annealing: a: displacements of a flow are multiplied by 1 + a (1 - t/T) (OMatG), unless
            a step would lead beyond their ends.
        refine_strength: share of the steps by which refinement noises a crystal.
    """

    autoencoder_settings: dict[str, Any] = field(default_factory=dict)
    denoiser_settings: dict[str, Any] = field(default_factory=dict)
    latent_channels: int = 8
    lattice_weight: float = 10.0
    kl_weight: float = 1e-3
    cell_form: Literal["matrix", "vector"] = "matrix"
    standardize_latents: bool = False
    sample_latents: bool = True
    steps: int = 100
    latent_betas: tuple[float, float] = (1e-3, 0.2)
    latent_power: float | None = None
    position_process: Literal["score", "flow"] = "score"
    position_sigmas: tuple[float, float] = (0.005, 0.5)
    coupling: bool = False
    snr_cap: float | None = None
    type_loss: float = 1.0
    lattice_loss: float = 1.0
    position_loss: float = 1.0
    told_share: float = 0.5
    stoichiometry: bool = False
    lattice_scale: float = 1.0
    lattice_mean: tuple[float, ...] = (0.0,) * 6
    lattice_std: tuple[float, ...] = (1.0,) * 6
    atom_counts: tuple[int, ...] = ()
    formulas: dict[str, int] = field(default_factory=dict)
    latent_noise: float = 1.0
    position_noise: float = 1.0
    corrector: float = 0.4
    anti_annealing: float = 0.0
    refine_strength: float = 0.1

    def __post_init__(self) -> None:
        for settings in (self.autoencoder_settings, self.denoiser_settings):
            check_settings(CSPNet, settings)
            with torch.device("meta"):  # takes no memory
                layer = CSPNet(**{**settings, "layers": 1})
            weights = settings.get("layers", 1) * sum(p.numel() for p in layer.parameters())
            if weights > LARGEST_NETWORK:
                raise ValueError(f"the network would have {weights:.1e} weights")
        at_least("latent_channels", self.latent_channels, 1, 1024)
        at_least("steps", self.steps, 1, MOST_STEPS)
        first, last = self.latent_betas
        if not 0 < first <= last < 1:
            raise ValueError("latent_betas must be two numbers that rise between 0 and 1")
        first, last = self.position_sigmas
        # Wider noise is uniform, and has images that nobody sums.
        if not 0 < first <= last <= 0.7:
            raise ValueError("position_sigmas must be two numbers that rise between 0 and 0.7")
        for name, most in (("latent_power", _LARGEST_POWER), ("snr_cap", _LARGEST)):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name), most)
        if self.position_process == "flow" and self.corrector:
            raise ValueError("corrector is of the process 'score' alone")
        if self.position_process != "flow" and (self.coupling or self.anti_annealing):
            raise ValueError("coupling and anti_annealing are of the process 'flow' alone")
        if self.autoencoder_settings.keys() & {"radial", "alike", "same"}:
            raise ValueError("radial and alike are settings of the denoiser alone")
        if "same" in self.denoiser_settings:
            raise ValueError("whether it is told which atoms are the same is `stoichiometry`")
        check_stoichiometries(self.formulas)
        if self.denoiser_settings.get("radial") and self.cell_form != "vector":
            raise ValueError("radial functions need the cell_form 'vector'")
        if (len(self.lattice_mean), len(self.lattice_std)) != (6, 6) or min(self.lattice_std) <= 0:
            raise ValueError(
                "lattice_mean and lattice_std must be six numbers, the latter positive"
            )
        for name in ("lattice_weight", "lattice_scale", "refine_strength"):
            positive(name, getattr(self, name), _LARGEST)
        for name in ("kl_weight", "type_loss", "lattice_loss", "position_loss"):
            at_least(name, getattr(self, name), 0, _LARGEST)
        for name in ("corrector", "anti_annealing"):
            at_least(name, getattr(self, name), 0, _LARGEST)
        for name in ("told_share", "latent_noise", "position_noise", "refine_strength"):
            at_least(name, getattr(self, name), 0, 1)
        if any(count < 0 for count in self.atom_counts) or (
            self.atom_counts and not sum(self.atom_counts)
        ):
            raise ValueError("atom_counts must be numbers of crystals")


def cell_form(config: CrysLDMConfig) -> MatrixCells | VectorCells:
    """Make the form in which networks see cells."""
    if config.cell_form == "vector":
        return VectorCells(config.lattice_mean, config.lattice_std)
    return MatrixCells(config.lattice_scale)


def diffusion(config: CrysLDMConfig) -> LatentDiffusion:
    """Make the process of latents and positions."""
    betas = (
        linear_betas(config.steps, *config.latent_betas)
        if config.latent_power is None
        else preserving_powers(config.steps, config.latent_power)
    )
    if config.position_process == "flow":
        times = Straight(config.steps)
        flow = FlowProcess(times, _FLOW_SPREAD, _FLOW_FLOOR, config.coupling)
        return LatentDiffusion(Preserving(betas), flow)
    sigmas = exploding_geometric(config.steps, *config.position_sigmas)
    return LatentDiffusion(Preserving(betas), ScoreProcess(Exploding(sigmas)))
