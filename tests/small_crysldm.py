"""Small models of CrysLDM in both forms of its settings, and crystals for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sets import random_crystals

from crysgen.models.crysldm import CrysLDM
from crysgen.models.crysldm_config import CrysLDMConfig
from crysgen.models.crysldm_latents import AUTOENCODER, DIFFUSION
from crysgen.training.batch import Batch

SMALL = {"channels": 16, "layers": 1, "frequencies": 3}
CONFIG = CrysLDMConfig(
    autoencoder_settings=SMALL, denoiser_settings=SMALL, latent_channels=4, steps=12
)
FLOW = replace(
    CONFIG,
    denoiser_settings=SMALL | {"radial": 5, "alike": 3},
    cell_form="vector",
    standardize_latents=True,
    sample_latents=False,
    stoichiometry=True,
    latent_power=3.0,
    snr_cap=10.0,
    position_process="flow",
    coupling=True,
    corrector=0.0,
    anti_annealing=5.0,
)
FORMS = pytest.mark.parametrize("config", [CONFIG, FLOW], ids=["paper", "flow"])
BOTH = pytest.mark.parametrize("stage", [AUTOENCODER, DIFFUSION])


def crystals_of(count: int, seed: int = 1) -> Batch:
    return Batch.from_crystals(random_crystals(count, seed=seed), torch.float64)


def model_of(batch: Batch, config: CrysLDMConfig = CONFIG) -> CrysLDM:
    """Random weights, in double precision, that bend and move things visibly."""
    torch.manual_seed(0)
    model = CrysLDM(CrysLDM.fitted(config, batch)).double().eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.05 * torch.randn_like(weights)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turns(count: int, determinant: int) -> torch.Tensor:
    matrices = np.linalg.qr(np.random.default_rng(0).normal(size=(count, 3, 3)))[0]
    return torch.tensor(matrices * (determinant * np.linalg.det(matrices))[:, None, None])
