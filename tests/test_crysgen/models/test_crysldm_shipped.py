"""The shipped CrysLDM: its autoencoder on known crystals, and what it samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from crysgen.checkpoints import find_model, load_model
from crysgen.cli import main
from crysgen.diffusion.lattice import lattice_parameters
from crysgen.models.crysldm import CrysLDM
from crysgen.models.targets import Target
from crysgen.training.batch import Batch
from crysgen.training.data import canonical
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals

FACE = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
KNOWN = {
    "NaCl": (5.64 * FACE, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "CsCl": (4.12 * np.eye(3), [55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "ZnS": (5.41 * FACE, [30, 16], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "SrTiO3": (
        3.91 * np.eye(3),
        [38, 22, 8, 8, 8],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    ),
}


@pytest.fixture(scope="module")
def model() -> CrysLDM:
    found = load_model("crysldm")
    assert isinstance(found, CrysLDM)
    return found


def known() -> Crystals:
    parts = [
        Crystals(np.array(z), np.array(x, dtype=float), lattice[None], np.array([len(z)]), (name,))
        for name, (lattice, z, x) in KNOWN.items()
    ]
    return canonical(Crystals.concatenate(parts))


def test_the_file_is_what_its_card_says() -> None:
    path = find_model("crysldm")
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["kind"] == "crysldm"
    assert path.stat().st_size <= 7_000_000
    assert path.with_suffix(".md").read_text().startswith(f"# {path.stem}")


def test_known_crystals_come_back_from_the_latent_space(model: CrysLDM) -> None:
    batch = Batch.from_crystals(known(), torch.float32)
    made = model.decoded(model.encoded(batch), batch.frac_coords, batch.mask)
    assert torch.equal(made.atomic_numbers, batch.atomic_numbers)
    wrong = lattice_parameters(made.lattices) - lattice_parameters(batch.lattices.double())
    assert wrong[:, :3].abs().max() < 0.1  # Å
    assert wrong[:, 3:].abs().max() < np.radians(1)


def test_what_it_samples_could_be_crystals(model: CrysLDM) -> None:
    made = model.sample([Target(seed) for seed in range(24)], 10).to_crystals()
    volumes = made.volumes / made.num_atoms
    assert ((volumes > 5) & (volumes < 100)).mean() > 0.9
    assert (min_distances(made, 1) > 0.5).mean() > 0.9
    elements = {int(z) for z in made.atomic_numbers}
    assert len(elements) > 15
    assert elements <= set(range(1, 95))


def test_a_composition_is_kept(tmp_path: Path) -> None:
    arguments = ["sample", "--model", "crysldm", "--composition", "SrTiO3", "-n", "2"]
    folder = tmp_path / "out"
    options = ["--method", "diffusion", "--steps", "10", "-o", str(folder), "--quiet"]
    outcome = CliRunner().invoke(main, [*arguments, *options, "--workers", "1"])
    assert outcome.exit_code == 0, outcome.output
    table = pd.read_csv(folder / "samples.csv")
    assert list(table.formula.unique()) == ["SrTiO3"]
