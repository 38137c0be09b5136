"""Networks of CDVAE: encoders of crystals, decoders of noisy ones, and what is read from z.

Encoder and decoder stand over one of several backbones. With CSPNet, which searches no neighbours,
both are dense products, and hold for reduced cells; PairFormer and GemsNet hold for any choice of
cell vectors, and DimeNet++ on bonds by CrystalNN for supercells too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysgen.diffusion.lattice import normalize_lengths
from crysgen.matrices import determinants
from crysgen.models.crysldm_networks import atom_means
from crysgen.models.fields import build_fields
from crysgen.networks.base import build_network, check_settings
from crysgen.networks.cspnet import CSPNet, combine_rows, gram_entries
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER, AtomEmbedding, step_features

_LOG_SIGMA = (-8.0, 4.0)
"""Between which the logarithms of standard deviations of z are."""
_FIRST_MEAN, _FIRST_LOG_SIGMA = 4.0, -2.0
"""Factor of the first weights of means of z, and shift of its first standard deviations: where the
noise of z hides its means, hundreds of steps pass before anything is learned from them."""
_EDGE = 2.5
"""Å: edge of the cube an atom takes, in which CSPNet sees cells; about that of the data."""


class Distribution(NamedTuple):
    """Normal distributions of z (B, D).

    Attributes:
        mean: (B, D).
        log_sigma: (B, D).
    """

    mean: Tensor
    log_sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return z by normal numbers (B, D)."""
        return self.mean + self.log_sigma.exp() * noise

    def divergence(self) -> Tensor:
        """Compute KL(q || N(0, 1)) (B,)."""
        each = (self.mean.square() + (2 * self.log_sigma).exp() - 1) / 2 - self.log_sigma
        return each.sum(-1)


class Denoised(NamedTuple):
    """Predictions of the decoder.

    Attributes:
        moves: (B, N, 3) Cartesian, σ_X times the score s_X: toward the clean positions in units of
            σ_X, turning with the crystal.
        logits: (B, N, 118) of atomic numbers from 1 on, invariant.
    """

    moves: Tensor
    logits: Tensor


class CrystalEncoder(nn.Module, ABC):
    """Features of atoms of clean crystals.

    Attributes:
        channels: of an atom.
        static: whether the shapes of `search` follow from those of its arguments.
    """

    static = True
    channels: int

    def search(self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor) -> Any:
        """Search the neighbours or bonds that `forward` wants, without gradients."""
        return ()

    @abstractmethod
    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """Return features (B, N, C); without meaning on padding.

        Args:
            atomic_numbers: (B, N).
            frac_coords: (B, N, 3).
            lattices: (B, 3, 3) rows in Å.
            neighbours: of `search`.
        """


class CSPEncoder(CrystalEncoder):
    """CSPNet over embedded atoms and their number.

    Args:
        settings: keyword arguments of `CSPNet`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        check_settings(CSPNet, settings)
        self.network = CSPNet(**settings)
        self.channels = self.network.channels
        self.embedding = AtomEmbedding(self.channels, step=False)
        self.size = nn.Linear(1, self.channels)

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """See `CrystalEncoder`."""
        mask = atomic_numbers > 0
        nodes = self.embedding(atomic_numbers, lattices[:, 0, 0])
        nodes = nodes + self.size(_log_sizes(mask, nodes))
        found: Tensor = self.network(nodes, frac_coords, _cells(lattices, mask), mask, lattices)
        return found


class NetworkEncoder(CrystalEncoder):
    """A backbone over nearest neighbours.

    Args:
        name: of the backbone.
        settings: its keyword arguments.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = build_network(name, settings)
        self.channels = self.network.channels

    def search(self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor) -> Any:
        """See `CrystalEncoder`."""
        return self.network.search(frac_coords, lattices, atomic_numbers > 0)

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """See `CrystalEncoder`."""
        step = torch.zeros_like(lattices[:, 0, 0])
        nodes: Tensor = self.network(atomic_numbers, lattices, step, neighbours).nodes
        return nodes


class BondEncoder(CrystalEncoder):
    """DimeNet++ on bonds by CrystalNN (Appendix B): the paper's encoder.

    Args:
        settings: fields of DimeNet++'s settings.
    """

    static = False

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        from crysmetrics.features.cdvae_property.network import DimeNetPlusPlus, Settings

        unknown = set(settings) - set(Settings.__dataclass_fields__)
        if unknown:
            raise ValueError(f"DimeNet++ has no setting {', '.join(sorted(unknown))}")
        chosen = Settings(**{"num_outputs": 256, **settings})
        self.network, self.channels = DimeNetPlusPlus(chosen), chosen.num_outputs

    def search(self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor) -> Any:
        """See `CrystalEncoder`: bonds, found on the CPU."""
        from crysgen.training.batch import Batch
        from crysmetrics.features.bonds import crystalnn_bonds
        from crysmetrics.features.cdvae_property.graph import bond_graph

        crystals = Batch(atomic_numbers, frac_coords, lattices).to_crystals()
        return bond_graph(crystals, crystalnn_bonds(crystals), str(lattices.device))

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """See `CrystalEncoder`."""
        atoms = self.network.atoms(neighbours)
        mask = atomic_numbers > 0
        return atoms.new_zeros(*mask.shape, atoms.shape[-1]).masked_scatter(mask[..., None], atoms)


ENCODERS: dict[str, Callable[[Mapping[str, Any]], CrystalEncoder]] = {
    "cspnet": CSPEncoder,
    "pairformer": lambda settings: NetworkEncoder("pairformer", settings),
    "gemsnet": lambda settings: NetworkEncoder("gemsnet", settings),
    "dimenet": BondEncoder,
}
"""Encoders by name."""


class NoisyDecoder(nn.Module, ABC):
    """PGNN_DEC: noisy crystals and z to `Denoised`."""

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> Any:
        """Search the neighbours that `forward` wants, without gradients."""
        return ()

    @abstractmethod
    def forward(
        self,
        latents: Tensor,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        lattices: Tensor,
        share: Tensor | None,
        neighbours: Any,
    ) -> Denoised:
        """Predict scores and types.

        Args:
            latents: (B, D) z.
            atomic_numbers: (B, N) noisy; 0 is padding.
            frac_coords: (B, N, 3) noisy.
            lattices: (B, 3, 3) rows in Å.
            share: (B,) the level between 0 and 1; None if it is not told.
            neighbours: of `search`.
        """


class _Conditioned(nn.Module):
    """h_0 = MLP(e_a || z), and the level and number of atoms where they are told."""

    def __init__(self, channels: int, latent_channels: int, told_level: bool) -> None:
        super().__init__()
        self.atoms = nn.Linear(channels, channels)
        self.latents = nn.Linear(latent_channels, channels, bias=False)
        self.level = nn.Linear(channels, channels, bias=False) if told_level else None
        self.out = nn.Linear(channels, channels)

    def forward(self, embedded: Tensor, latents: Tensor, share: Tensor | None) -> Tensor:
        about = self.latents(latents)
        if self.level is not None and share is not None:
            about = about + self.level(step_features(share, embedded.shape[-1]))
        nodes: Tensor = self.out(silu(self.atoms(embedded) + about[:, None]))
        return nodes


class CSPDecoder(NoisyDecoder):
    """CSPNet, whose moves are sums of lattice vectors with invariant weights.

    Args:
        settings: keyword arguments of `CSPNet`.
        latent_channels: D.
        told_level: see `CDVAEConfig`.
    """

    def __init__(
        self, settings: Mapping[str, Any], latent_channels: int = 1, told_level: bool = False
    ) -> None:
        super().__init__()
        check_settings(CSPNet, settings)
        self.network = CSPNet(**settings)
        channels = self.network.channels
        self.embedding = AtomEmbedding(channels, step=False)
        self.size = nn.Linear(1, channels)
        self.first = _Conditioned(channels, latent_channels, told_level)
        self.positions = perceptron(channels, channels, 3)
        self.types = perceptron(channels, channels, MAX_ATOMIC_NUMBER)

    def forward(
        self,
        latents: Tensor,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        lattices: Tensor,
        share: Tensor | None,
        neighbours: Any,
    ) -> Denoised:
        """See `NoisyDecoder`."""
        mask = atomic_numbers > 0
        nodes = self.embedding(atomic_numbers, lattices[:, 0, 0])
        nodes = nodes + self.size(_log_sizes(mask, nodes))
        nodes = self.first(nodes, latents, share)
        nodes = self.network(nodes, frac_coords, _cells(lattices, mask), mask, lattices)
        edge = determinants(lattices).abs().pow(1 / 3)[:, None, None]
        moves = combine_rows(self.positions(nodes).to(lattices), lattices / edge)
        return Denoised(moves, self.types(nodes).to(lattices))


class NetworkDecoder(NoisyDecoder):
    """A backbone over nearest neighbours, with the fields of GemsDiff as scores.

    Args:
        name: of the backbone.
        settings: its keyword arguments.
        latent_channels: D.
        told_level: see `CDVAEConfig`.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        latent_channels: int = 1,
        told_level: bool = False,
    ) -> None:
        super().__init__()
        self.network = build_network(name, settings)
        self.fields = build_fields(self.network, {})
        channels = self.network.channels
        self.first = _Conditioned(channels, latent_channels, told_level)
        self.types = perceptron(channels, channels, MAX_ATOMIC_NUMBER)

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> Any:
        """See `NoisyDecoder`."""
        return self.network.search(frac_coords, lattices, mask)

    def forward(
        self,
        latents: Tensor,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        lattices: Tensor,
        share: Tensor | None,
        neighbours: Any,
    ) -> Denoised:
        """See `NoisyDecoder`."""
        mask = atomic_numbers > 0
        step = torch.zeros_like(lattices[:, 0, 0]) if share is None else share
        embedded = self.network.embedding(atomic_numbers, step)  # type: ignore[operator]
        nodes = self.first(embedded, latents, share)
        features = self.network(atomic_numbers, lattices, step, neighbours, embedded=nodes)
        moved = self.fields(features, lattices, mask).displacement
        with torch.autocast(lattices.device.type, enabled=False):
            edge = (determinants(lattices).abs() / mask.sum(1)).pow(1 / 3)[:, None, None]
            moves = combine_rows(moved.to(lattices), lattices / edge)
        return Denoised(moves, self.types(features.nodes).to(lattices))


DECODERS: dict[str, Callable[..., NoisyDecoder]] = {
    "cspnet": CSPDecoder,
    "pairformer": lambda *args: NetworkDecoder("pairformer", *args),
    "gemsnet": lambda *args: NetworkDecoder("gemsnet", *args),
}
"""Decoders by name, from settings, D and whether the level is told."""


class LatentHead(nn.Module):
    """From features of atoms to the distribution of z.

    Args:
        channels: of an atom.
        hidden_channels: of the mean over atoms.
        latent_channels: D.
    """

    def __init__(self, channels: int, hidden_channels: int, latent_channels: int) -> None:
        super().__init__()
        self.atoms = nn.Linear(channels, hidden_channels)
        self.mean = nn.Linear(hidden_channels, latent_channels)
        self.spread = nn.Linear(hidden_channels, latent_channels)
        with torch.no_grad():
            self.mean.weight.mul_(_FIRST_MEAN)
            self.spread.bias.add_(_FIRST_LOG_SIGMA)

    def forward(self, nodes: Tensor, mask: Tensor) -> Distribution:
        """Return distributions of z of atoms (B, N, C) with mask (B, N)."""
        pooled = atom_means(silu(self.atoms(nodes)), mask)
        mean, spread = full(self.mean(pooled)), full(self.spread(pooled))
        return Distribution(mean, (spread - 1).clamp(*_LOG_SIGMA))


class Flow(nn.Module):
    """Velocities of a flow from normal numbers to the latents of real crystals.

    Appendix D.3 finds that latents are not normal, so that z ~ N(0, 1) gives crystals of too many
    elements, and suggests a flow.

    Args:
        latent_channels: D.
        hidden_channels: of its layers.
        layers: how many.
    """

    def __init__(self, latent_channels: int, hidden_channels: int, layers: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(latent_channels, hidden_channels)
        self.time = nn.Linear(hidden_channels, hidden_channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden_channels),
                nn.Linear(hidden_channels, hidden_channels),
                nn.SiLU(),
                nn.Linear(hidden_channels, hidden_channels),
            )
            for _ in range(layers)
        )
        self.last = nn.Linear(hidden_channels, latent_channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, points: Tensor, time: Tensor) -> Tensor:
        """Return velocities (B, D) at points (B, D) and times (B,), 0 for noise and 1 for data."""
        described = step_features(time, self.time.in_features)
        hidden = self.first(points) + self.time(described)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        velocities: Tensor = self.last(silu(hidden))
        return velocities.to(points)


def full(values: Tensor) -> Tensor:
    """Widen numbers of 16 bits to 32; others stay as they are."""
    return values.float() if values.element_size() < 4 else values


def perceptron(channels: int, hidden: int, size: int) -> nn.Sequential:
    """Make two layers."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, size))


def _cells(lattices: Tensor, mask: Tensor) -> Tensor:
    """Describe cells by invariant numbers (B, 6) of about 1."""
    return gram_entries(normalize_lengths(lattices, mask.sum(1).clamp_min(1)) / _EDGE)


def _log_sizes(mask: Tensor, like: Tensor) -> Tensor:
    """Return the logarithms of the numbers of atoms (B, 1, 1), of size 1."""
    return mask.sum(1).clamp_min(1).to(like).log()[:, None, None] - 2
