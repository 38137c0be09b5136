"""Small CDVAE models, for tests."""

from __future__ import annotations

import torch
from sets import random_crystals

from crysgen.models.cdvae import CDVAE
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.training.batch import Batch
from crysgen.training.data import canonical

CSP = {"channels": 16, "layers": 1, "frequencies": 3, "radial": 4}
PAIRS = {"channels": 16, "pair_channels": 8, "triangle_channels": 8, "layers": 1, "heads": 2}
PAIRS |= {"radial": 6, "k": 12}
GEMS = {"channels": 16, "edge_channels": 16, "triplet_channels": 8, "layers": 1, "radial": 8}
GEMS |= {"lengths": 6, "angular": 3, "k": 12, "triplet_k": 12}
DIME = {"hidden_channels": 16, "num_blocks": 1, "int_emb_size": 8, "out_emb_channels": 16}
DIME |= {"num_outputs": 16}
SETTINGS = {"cspnet": CSP, "pairformer": PAIRS, "gemsnet": GEMS, "dimenet": DIME}


def config(encoder="cspnet", decoder="cspnet", **settings):
    return CDVAEConfig(
        **{
            "encoder": encoder,
            "encoder_settings": SETTINGS[encoder],
            "decoder": decoder,
            "decoder_settings": SETTINGS[decoder],
            "latent_channels": 12,
            "hidden_channels": 16,
            "prior_channels": 8,
            **settings,
        }
    )


def batch_of(count=6, seed=0):
    crystals = canonical(random_crystals(count, seed=seed))
    return Batch.from_crystals(crystals, torch.float64)


def model_of(batch=None, **settings):
    torch.manual_seed(0)
    batch = batch_of() if batch is None else batch
    model = CDVAE(CDVAE.fitted(config(**settings), batch)).eval()
    return model if settings.get("encoder") == "dimenet" else model.double()
