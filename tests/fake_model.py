"""A model that draws random crystals at once, for tests of everything around sampling."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from crysgen.training.batch import Batch, pad_atomic_numbers


class FakeModel:
    """Crystals that follow from seed and atoms alone.

    Args:
        bad: seeds whose crystals are none.
        clashing: seeds whose first two atoms lie on top of each other.
        memory: atoms (with padding) of a batch beyond which memory runs out.
        stop_at: the call of `sample` that is interrupted; the first is 1.
    """

    kind = "fake"
    accepts = requires = frozenset({"atomic_numbers"})
    num_steps = default_steps = 10
    refine_strength = 0.1

    def __init__(self, bad=(), memory=None, stop_at=None, clashing=()):
        self.clashing = set(clashing)
        self.bad, self.memory, self.stop_at = set(bad), memory, stop_at
        self.calls: list[list[int]] = []

    def size_of(self, target):
        return target.size

    def sample(self, targets, steps=None, on_step=None):
        atomic_numbers = pad_atomic_numbers([target.atomic_numbers for target in targets])
        seeds = [target.seed for target in targets]
        self.calls.append(seeds)
        if self.stop_at == len(self.calls):
            raise KeyboardInterrupt
        rows, width = atomic_numbers.shape
        if self.memory is not None and rows * width > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        for k in range(steps or self.num_steps):
            if on_step is not None:
                on_step(k + 1, steps or self.num_steps)
        frac, lattices = np.zeros((rows, width, 3)), np.zeros((rows, 3, 3))
        for i, seed in enumerate(seeds):
            count = int((atomic_numbers[i] > 0).sum())
            rng = np.random.default_rng(seed)
            frac[i, :count] = rng.random((count, 3))
            lattices[i] = (15 * count) ** (1 / 3) * (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
            if seed in self.clashing:
                frac[i, 1] = frac[i, 0]
            if seed in self.bad:
                lattices[i] = np.nan if seed % 2 else 0.0
        return Batch(atomic_numbers, torch.tensor(frac), torch.tensor(lattices))

    def noise(self, batch, step, seeds):
        moved = batch.frac_coords.clone()
        for i, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            moved[i] += torch.tensor(0.01 * step * rng.normal(size=moved[i].shape)).to(moved)
        return batch.with_geometry(moved % 1, batch.lattices)

    def refine(self, batch, seeds, strength=None):
        return self.noise(batch, 1, seeds)


def use(monkeypatch, tmp_path, model, name="fake"):
    """Let `--model` find this model; returns what to give there."""
    path = tmp_path / f"{name}.safetensors"
    if not path.exists():
        path.write_bytes(hashlib.sha256(name.encode()).digest())
    monkeypatch.setattr("crysgen.checkpoints.load_model", lambda name=None, device="cpu": model)
    return str(path)
