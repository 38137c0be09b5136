"""`eval_gen.pt` and `eval_recon.pt`, as CDVAE's and DiffCSP's scripts write them, in a protocol."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from click.testing import CliRunner
from sets import random_crystals

from crysmetrics.cli import main
from crysmetrics.io import write
from crysmetrics.io.lattice import lattice_parameters
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.metrics.settings import EvaluationSettings

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def reference():
    """Random crystals, of which some have valid compositions."""
    crystals = random_crystals(24, seed=11)
    crystals = crystals[crystals.num_atoms <= 8][:12]
    settings = EvaluationSettings()
    assert valid_compositions(crystals.element_counts, settings.oxidation_states).any()
    return crystals


def saved(path, evaluations, single=False):
    """Write a file of the scripts; several evaluations are one behind the other."""
    parts = [
        {
            "frac_coords": crystals.frac_coords,
            "atom_types": crystals.atomic_numbers,
            "num_atoms": crystals.num_atoms,
            "lengths": np.array([lattice_parameters(m)[0] for m in crystals.lattices]),
            "angles": np.array([lattice_parameters(m)[1] for m in crystals.lattices]),
        }
        for crystals in evaluations
    ]
    tensors = {k: torch.as_tensor(np.stack([part[k] for part in parts])) for k in parts[0]}
    if single:
        tensors = {key: value[0] for key, value in tensors.items()}
    torch.save({"eval_setting": argparse.Namespace(label=""), **tensors, "time": 1.0}, path)
    return str(path)


def moved(crystals, size, seed=0):
    noise = np.random.default_rng(seed).normal(scale=size, size=crystals.frac_coords.shape)
    return crystals.__class__(
        crystals.atomic_numbers,
        crystals.frac_coords + noise,
        crystals.lattices,
        crystals.num_atoms,
        crystals.ids,
    )


def run(*arguments, status=0):
    done = CliRunner().invoke(main, [*arguments, "--workers", "1", "--quiet", "--json", "-"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)["metrics"] if status == 0 else done.output


def values(metrics, *names):
    return [metrics[name]["value"] for name in names]


def test_a_generated_set_has_the_figures_of_the_same_set_in_any_form(reference, tmp_path):
    made = moved(reference, 0.05)
    write(made, tmp_path / "made.npz")
    write(reference, tmp_path / "ref.npz")
    options = ("--protocol", "cdvae", "--subset", "valid:all")
    published = saved(tmp_path / "eval_gen.pt", [made])
    found = run("evaluate", published, str(tmp_path / "ref.npz"), *options)
    other = run("evaluate", str(tmp_path / "made.npz"), str(tmp_path / "ref.npz"), *options)
    own = ["struct_validity", "comp_validity", "emd_density", "emd_energy_cdvae", "cov_recall"]
    np.testing.assert_allclose(values(found, *own), values(other, *own), rtol=1e-3, atol=1e-6)
    assert "match_rate" not in found  # nothing says that they belong together


def test_reconstructions_are_paired_with_what_was_encoded(reference, tmp_path):
    write(reference, tmp_path / "ref.npz")
    half = np.arange(len(reference)) % 2 == 0
    far = moved(reference, 0.3, seed=1)
    near = moved(reference, 0.002)
    mixed = near.__class__.concatenate(
        [(near if right else far)[[i]] for i, right in enumerate(half)]
    )
    options = (str(tmp_path / "ref.npz"), "--protocol", "cdvae", "--paired")
    metrics = ("--metrics", "match_rate,rmse,struct_validity")
    for single in (True, False):
        path = saved(tmp_path / f"eval_recon{single}.pt", [mixed], single)
        found = run("evaluate", path, *options, *metrics)
        assert 0.5 <= found["match_rate"]["value"] < 1
        assert found["match_rate"]["n_ref"] == len(reference)
    path = saved(tmp_path / "eval_recon.pt", [near])
    found = run("evaluate", path, *options, *metrics)
    assert found["match_rate"]["value"] == 1
    assert 0 < found["rmse"]["value"] < 0.02


def test_of_several_evaluations_the_best_counts_and_broken_ones_are_missed(reference, tmp_path):
    write(reference, tmp_path / "ref.npz")
    far, near = moved(reference, 0.3, seed=1), moved(reference, 0.002)
    lattices = near.lattices.copy()
    lattices[near.num_atoms.argmax()] *= 1e-9
    broken = near.__class__(
        near.atomic_numbers, near.frac_coords, lattices, near.num_atoms, near.ids
    )
    path = saved(tmp_path / "eval_diff.pt", [far, broken])
    command = ("match", path, str(tmp_path / "ref.npz"), "--in-order", "--no-metre")
    found = run(*command, "--top", "1,2")
    first = found["match_rate"]["value"]
    best = found["match_rate_top2"]["value"]
    assert first < 1
    assert best == pytest.approx((len(reference) - 1) / len(reference))
    # A set of another length, whose ids are names, stays refused.
    write(reference[:5], tmp_path / "five")
    wrong = run("match", str(tmp_path / "five"), *command[2:], status=2)
    assert "can't be paired in order" in wrong
