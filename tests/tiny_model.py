"""A second kind of model, as small as one can be: it draws the atoms itself, and has two stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from crysgen.config_values import at_least
from crysgen.models import MODELS
from crysgen.models.base import Model, ModelConfig
from crysgen.training.batch import Batch, pad_atomic_numbers

ELEMENTS = 119
PLACE = {"tiny": "tiny_model:Tiny"}


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    """Attributes:
    width: of the network.
    mean_volume: Å³ per atom of the training data.
    disorder: standard deviation of the logarithm of sampled volumes.
    """

    width: int = 8
    mean_volume: float = 0.0
    disorder: float = 0.1

    def __post_init__(self) -> None:
        at_least("width", self.width, 1, 64)


class Tiny(Model):
    """How often elements are, and how much room they take."""

    kind = "tiny"
    paper = "Nobody et al., A model for tests (2026)"
    Config = TinyConfig
    accepts = frozenset({"num_atoms", "space_group"})
    requires = frozenset({"num_atoms"})
    stages = ("elements", "volumes")
    sampling_settings = frozenset({"disorder"})

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.logits = nn.Parameter(torch.zeros(ELEMENTS))
        self.volumes = nn.Sequential(
            nn.Embedding(ELEMENTS, config.width), nn.Linear(config.width, 1)
        )

    @classmethod
    def fitted(cls, config, train):
        volumes = torch.linalg.det(train.lattices).abs() / train.num_atoms
        return replace(config, mean_volume=float(volumes.mean()))

    def parameters_of(self, stage):
        return [self.logits] if stage == "elements" else list(self.volumes.parameters())

    def loss(self, batch, generator, stage):
        mask = batch.mask
        if stage == "elements":
            surprise = -self.logits.log_softmax(0)[batch.atomic_numbers[mask]].mean()
            return {"loss": surprise, "surprise": surprise}
        noise = 0.01 * torch.randn(len(batch), generator=generator)
        wanted = (torch.linalg.det(batch.lattices).abs() / batch.num_atoms).log() + noise
        error = (self._log_volumes(batch.atomic_numbers) - wanted).square().mean()
        return {"loss": error, "volume_error": error}

    def _log_volumes(self, numbers):
        mask = numbers > 0
        each = self.volumes(numbers)[..., 0] * mask
        return each.sum(1) / mask.sum(1) + torch.tensor(self.config.mean_volume).log()

    @property
    def num_steps(self):
        return 1

    @torch.no_grad()
    def sample(self, targets, steps=None, on_step=None):
        atoms, frac, shape = [], [], []
        size = max(target.num_atoms for target in targets)
        for target in targets:
            generator = torch.Generator().manual_seed(target.seed)
            chances = self.logits.softmax(0)
            drawn = torch.multinomial(chances, target.num_atoms, True, generator=generator)
            atoms.append(drawn.clamp_min(1).tolist())
            frac.append(torch.rand(size, 3, generator=generator))
            shape.append(torch.randn(1, generator=generator))
        numbers = pad_atomic_numbers(atoms)
        per_atom = self._log_volumes(numbers) + self.config.disorder * torch.cat(shape)
        edges = (per_atom.exp() * (numbers > 0).sum(1)).pow(1 / 3)
        if on_step is not None:
            on_step(1, 1)
        return Batch(numbers, torch.stack(frac), edges[:, None, None] * torch.eye(3))


def register(monkeypatch=None):
    """Make the model known under its kind."""
    if monkeypatch is None:
        MODELS.update(PLACE)
    else:
        monkeypatch.setitem(MODELS, "tiny", PLACE["tiny"])
