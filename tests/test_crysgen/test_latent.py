"""The latent space on the command line: reconstruction, vectors, ways, better properties."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sets import random_crystals, rocksalt

from crysgen.checkpoints import save_model
from crysgen.cli import main
from crysgen.latent import between
from crysgen.models.cdvae import CDVAE
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.optimization import OptimizationSettings, _best, property_name, way
from crysgen.training.batch import Batch
from crysgen.training.data import canonical
from crysmetrics.errors import UserError
from crysmetrics.io import read, write

CSP = {"channels": 16, "layers": 1, "frequencies": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with six structures and an untrained model that predicts energies of them."""
    folder = tmp_path_factory.mktemp("latent")
    crystals = random_crystals(6, seed=3)
    write(crystals, folder / "six")
    write(rocksalt(), folder / "NaCl.cif")
    torch.manual_seed(0)
    name = "formation_energy_per_atom"
    batch = Batch.from_crystals(canonical(crystals), torch.float32, (), (name,))
    batch.properties[name][:] = torch.arange(6.0) - 4
    config = CDVAEConfig(
        encoder_settings=CSP, decoder_settings=CSP, latent_channels=6, hidden_channels=16
    )
    model = CDVAE(CDVAE.fitted(config, batch))
    save_model(model, folder / "model.safetensors", {})
    return folder


def command(place, *arguments, model="model.safetensors"):
    words = [str(place / a[1:]) if a.startswith("@") else a for a in arguments]
    return CliRunner().invoke(main, [*words, "--model", str(place / model), "--workers", "1"])


def test_reconstructions_keep_their_names_and_follow_from_the_seed(place):
    options = ("--steps", "3", "--quiet")
    for out in ("once", "again"):
        done = command(place, "reconstruct", "@six", "-o", f"@{out}.npz", *options)
        assert done.exit_code == 0, done.output
    once, again = read(place / "once.npz"), read(place / "again.npz")
    assert sorted(once.ids) == [f"random-3-{i}" for i in range(6)]
    assert once.sha256() == again.sha256()
    done = command(place, "reconstruct", "@six", "-o", "@twice", "-n", "2", *options)
    assert done.exit_code == 0, done.output
    assert len(list((place / "twice").glob("*.cif"))) == 12
    assert (place / "twice" / "random-3-0-2.cif").is_file()
    assert command(place, "reconstruct", "@six", "-o", "@twice", *options).exit_code == 2


def test_a_command_that_was_interrupted_goes_on_with_what_was_done(place, monkeypatch):
    from crysgen.kept_decodings import KeptDecodings

    options = ("--steps", "3", "--quiet", "--batch-size", "2")
    assert command(place, "reconstruct", "@six", "-o", "@whole.npz", *options).exit_code == 0
    kept, add = [], KeptDecodings.add

    def interrupted(self, crystals):
        add(self, crystals)
        kept.append(crystals)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeptDecodings, "add", interrupted)
    again = ("reconstruct", "@six", "-o", "@part.npz", *options)
    assert command(place, *again).exit_code != 0
    folder = place / "part.npz.unfinished"
    assert not (place / "part.npz").exists()
    assert len(list(folder.glob("batch-*.npz"))) == 2
    other = command(place, *again, "--seed", "7")
    assert other.exit_code == 2
    assert "unfinished work of another command" in other.output
    done = command(place, *again)
    assert done.exit_code == 0, done.output
    assert len(kept) < 2 * 3  # not all once more
    assert sum(len(part) for part in kept) == 6
    assert not folder.exists()
    assert read(place / "part.npz").sha256() == read(place / "whole.npz").sha256()


def test_vectors_do_not_depend_on_the_cell_that_was_given(place):
    done = command(place, "encode", "@six", "-o", "@z.npz")
    assert done.exit_code == 0, done.output
    with np.load(place / "z.npz", allow_pickle=False) as arrays:
        ids, latents = arrays["ids"], arrays["latents"]
        assert latents.shape == (6, 6)
        assert arrays["formation_energy_per_atom"].shape == (6,)
        assert arrays["num_atoms"].min() >= 1
    crystals = read(place / "six")
    (place / "doubled").mkdir()
    for name, structure in zip(crystals.ids, crystals.to_pymatgen(), strict=True):
        structure.make_supercell([[2, 0, 0], [0, 1, 0], [1, 0, 1]])
        structure.to(str(place / "doubled" / f"{name}.cif"))
    assert command(place, "encode", "@doubled", "-o", "@z2.npz").exit_code == 0
    with np.load(place / "z2.npz", allow_pickle=False) as arrays:
        order = [arrays["ids"].tolist().index(name) for name in ids]
        assert np.abs(arrays["latents"][order] - latents).max() < 1e-3


def test_a_way_between_two_crystals_is_straight_and_holds_both_ends(place):
    found = between(np.zeros(3, np.float32), np.ones(3, np.float32), 5)
    assert np.allclose(found, np.array([0, 0.25, 0.5, 0.75, 1])[:, None])
    ends = ("@six/random-3-0.cif", "@NaCl.cif")
    options = ("--steps", "4", "--decoder-steps", "2", "-o", "@way")
    done = command(place, "interpolate", *ends, *options)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (place / "way").glob("*.cif")) == [
        f"{i}.cif" for i in range(1, 5)
    ]
    done = command(place, "interpolate", "@six", "@NaCl.cif", "-o", "@way2")
    assert done.exit_code == 2
    assert "an end is one" in done.output


def test_outputs_without_a_name_are_named_after_the_inputs(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ends = ("@six/random-3-0.cif", "@NaCl.cif", "--steps", "2", "--decoder-steps", "2")
    assert command(place, "interpolate", *ends).exit_code == 0
    short = ("--gradient-steps", "2", "--candidates", "1", "--steps", "2", "--first", "1")
    asked = ("--property", "formation_energy", "--from", "@six")
    assert command(place, "optimize", *asked, *short).exit_code == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "random-3-0-to-NaCl",
        "six-optimized",
    ]
    again = command(place, "interpolate", *ends)
    assert again.exit_code == 2
    assert "random-3-0-to-NaCl exists" in again.output


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("formation_energy", "formation_energy_per_atom"),
        ("heat", "heat_ref"),
        ("heat_ref", "heat_ref"),
        ("energy", "energy_per_atom"),
    ],
)
def test_properties_have_short_names(asked, name):
    config = SimpleNamespace(property_name=name, property_std=1.0)
    assert property_name(SimpleNamespace(config=config), asked) == name
    with pytest.raises(UserError, match=f"predicts {name}.*not gap"):
        property_name(SimpleNamespace(config=config), "gap")


def test_gradients_lower_what_the_model_predicts(place):
    from crysgen.latent import encode, load_autoencoder

    model = load_autoencoder(str(place / "model.safetensors"), "cpu")
    z = encode(model, canonical(read(place / "six")))
    for maximize in (False, True):
        points = way(model, z, OptimizationSettings(maximize, 60, 1e-2, 3))
        assert points.shape == (3, 6, 6)
        values = [model.property_of(torch.as_tensor(p)).detach().numpy() for p in (z, *points)]
        steps = np.diff(np.stack(values), axis=0)
        assert ((steps > 0) if maximize else (steps < 0)).all()


def test_the_best_is_a_valid_one_with_the_best_value():
    values = np.array([-3.0, -2.0, np.nan, -1.0])
    valid = np.array([False, True, True, True])
    every = [(row, row) for row in range(4)]
    assert _best(every, values, valid, False) == (1, 1)
    assert _best(every, values, valid, True) == (3, 3)
    assert _best(every[:1], values, valid, False) == (0, 0)


def test_optimised_crystals_come_with_energies_before_and_after(place):
    options = ("--gradient-steps", "20", "--candidates", "2", "--steps", "2", "--first", "3")
    asked = ("optimize", "--property", "formation_energy", "--from", "@six", "-o", "@better")
    done = command(place, *asked, *options)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(place / "better" / "optimized.csv")
    assert table.id.tolist() == sorted(path.stem for path in (place / "better").glob("*.cif"))
    assert set(table.candidate) <= {1, 2}
    assert np.isfinite(table.start).all()
    done = command(place, "optimize", "--property", "band_gap", "--from", "@six", "-o", "@no")
    assert done.exit_code == 2
    assert "formation_energy_per_atom" in done.output


def test_a_model_without_a_latent_space_is_refused(place):
    done = command(place, "encode", "@six", "-o", "@x.npz", model="../../none")
    assert done.exit_code == 2
    done = CliRunner().invoke(
        main,
        ["encode", str(place / "six"), "-o", str(place / "x.npz"), "--model", "gemsdiff-mp-v3"],
    )
    assert done.exit_code == 2
    assert "no latent space" in done.output


def test_vectors_are_written_as_npz_alone(place):
    done = command(place, "encode", "@six", "-o", "@z.txt")
    assert done.exit_code == 2
    assert f"written as .npz; {place / 'z.txt'}" in done.output
    assert not (place / "z.txt").exists()
