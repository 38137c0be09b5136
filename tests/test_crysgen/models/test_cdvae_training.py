"""CDVAE trained on the command line, and until it knows a few crystals by heart."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sets import random_crystals, rocksalt

import crysmetrics
from crysgen.cli import main
from crysgen.latent import decode, encode
from crysgen.models.cdvae import CDVAE
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.models.cdvae_training import AUTOENCODER
from crysgen.training.batch import Batch
from crysgen.training.data import canonical
from crysgen.training.optimizer import GeneratorOptimizer
from crysmetrics.io import Crystals, read, write

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")

CSP = {"channels": 16, "layers": 1, "frequencies": 3, "radial": 4}
PAIRS = {"channels": 16, "pair_channels": 8, "triangle_channels": 8, "layers": 1, "heads": 2}
PAIRS |= {"radial": 6, "k": 12}


@pytest.mark.parametrize("graphs", ["--graphs", "--no-graphs"])
def test_a_run_is_trained_in_two_stages_and_samples(graphs, tmp_path):
    write(random_crystals(12, seed=5), tmp_path / "data")
    model = {"encoder_settings": CSP, "decoder": "pairformer", "decoder_settings": PAIRS}
    model |= {"latent_channels": 8, "hidden_channels": 16, "prior_channels": 8}
    training = {"batch_atoms": 24, "val_steps": 2, "val_draws": 1, "warmup_steps": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model": model, "training": training}))

    def command(*words):
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    run = tmp_path / "run"
    options = ("--config", tmp_path / "config.json", "--steps", 6, graphs)
    command("train", "cdvae", "--data", tmp_path / "data", *options, "-o", run, "--quiet")
    assert (run / "best.autoencoder.safetensors").is_file()
    log = (run / "log.csv").read_text()
    assert "formula_right" in log
    assert "prior" in log
    options = ("--model", run, "--steps", 3, "--workers", 1, "--quiet")
    command("sample", "-n", 3, "-o", tmp_path / "free", *options)
    table = pd.read_csv(tmp_path / "free" / "samples.csv")
    assert len(table) == 3
    command("reconstruct", tmp_path / "data", "-o", tmp_path / "again.npz", *options)
    assert len(read(tmp_path / "again.npz")) == 12


@pytest.mark.slow
def test_a_few_crystals_that_are_learned_by_heart_come_back():
    torch.manual_seed(0)
    crystals = Crystals.concatenate([rocksalt(), *canonical(random_crystals(3, 6, (3, 4)))])
    settings = {"channels": 64, "layers": 2, "frequencies": 6, "radial": 8}
    pairs = {"channels": 64, "pair_channels": 32, "triangle_channels": 16, "layers": 2, "heads": 4}
    config = CDVAEConfig(
        encoder_settings=settings,
        decoder="pairformer",
        decoder_settings=pairs | {"radial": 12, "k": 24},
        latent_channels=64,
        hidden_channels=128,
        prior_channels=16,
        type_weights="uniform",
    )
    batch = Batch.from_crystals(crystals, torch.float32)
    model = CDVAE(CDVAE.fitted(config, batch))
    many, steps = batch[torch.arange(4).repeat(8)], 400
    optimizer = GeneratorOptimizer(model, list(model.parameters_of(AUTOENCODER)), 2e-3, 0.0, 2.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        rate = 2e-3 * min(1, (step + 1) / 50) * max(0.02, 1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        model.loss(many, generator, AUTOENCODER)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    model.config = replace(
        model.config, sampler="langevin", type_steps="likeliest", steps_per_level=10
    )
    made = decode(model, encode(model, crystals), crystals.ids, workers=1)
    report = crysmetrics.evaluate(made, crystals, metrics=["match_rate", "rmse"], workers=1)
    assert report["match_rate"] >= 0.75
    assert report["rmse"] < 0.3
