"""Score how plausible structures are for a composition, by small networks over environments.

Template ranking compares a compound only with those of the same anonymous formula. What aluminium
likes to have around it, all other compounds of aluminium know as well. The network sees each atom
with its neighbours within 1.7 (V/N)^(1/3): their elements, distances (in Å, in units of the cell
and of the sum of both radii) and directions, as rotation invariants of an expansion in spherical
harmonics (Drautz, Phys. Rev. B 99, 014104, 2019: the sums themselves and their norms), twice. It is
trained (`training.plausibility`) to find the structure of a compound that was taken out of
the library among those that the library proposes for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysmetrics.errors import InputError
from crysmetrics.io import Crystals

SHIPPED = "plausibility.safetensors"
"""Name of the shipped networks."""

CUTOFF = 1.7
"""Cutoff of neighbours in units of (V/N)^(1/3): two or three shells of most structures."""
MOST_NEIGHBOURS = 32
"""Number of nearest neighbours of each atom."""
PACKED = (0.4, 1.7, 14)
"""First and last centre, and number, of Gaussians over distances in units of (V/N)^(1/3)."""
IN_ANGSTROM = (1.0, 4.5, 15)
"""The same over distances in Å."""
IN_RADII = (0.6, 1.8, 13)
"""The same over distances in sums of radii."""
BASIS = PACKED[2] + IN_ANGSTROM[2] + IN_RADII[2]
"""Number of all Gaussians."""
DEGREES = (1, 2, 3, 4)
"""Degrees of spherical harmonics: 3 tells a tetrahedron, 4 an octahedron."""
SAME_SITE = 1e-3
"""Tolerance of the invariants by which sites are equal."""
STRETCH = 0.3
"""Largest difference of the logarithm of a radius from that of the covalent one."""
TABLE_WIDTH = 32
"""Width of the features of elements."""
STATE = 64
"""Width of the state of a site."""
CHANNELS = 48
"""Number of radial functions of a round."""
HIDDEN = 128
"""Width of hidden layers."""
ROUNDS = 2
"""Number of rounds of message passing between sites."""
ELEMENT_DROPOUT = 0.2
"""Dropout rate of the features of elements."""
STATE_DROPOUT = 0.1
"""Dropout rate of the states of sites."""
AT_ONCE = 4096
"""Number of atoms that are scored together."""

Cell = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Atomic numbers (n,), fractional coordinates (n, 3) and lattice (3, 3) in Å."""


@dataclass(frozen=True)
class LocalEnvironments:
    """Environments of the N different sites of B crystals.

    Attributes:
        elements: (N,) atomic numbers.
        shares: (N,) of the atoms of its crystal that are on such a site.
        sizes: (B,) sites of each crystal.
        scale: (N,) the crystal's (V/N)^(1/3) in Å.
        neighbours: (N, K) neighbouring sites; any number where there is no neighbour.
        vectors: (N, K, 3) to them in units of the scale; beyond the cutoff where there is none.
    """

    elements: Tensor
    shares: Tensor
    sizes: Tensor
    scale: Tensor
    neighbours: Tensor
    vectors: Tensor


def local_environments(crystals: Sequence[Cell]) -> LocalEnvironments:
    """Find the different sites of crystals, and their neighbours."""
    from crysgen.retrieval.scoring._local_environments import equal_sites

    elements, shares, sizes, scale, neighbours, vectors = [], [], [], [], [], []
    total = 0
    for numbers, frac, lattice in crystals:
        cell = np.ascontiguousarray(lattice, dtype=np.float64)
        unit = (abs(np.linalg.det(cell)) / len(numbers)) ** (1 / 3)
        positions = np.ascontiguousarray(frac, dtype=np.float64)
        near, there = _nearest_neighbours(cell / unit, positions)
        kinds = np.ascontiguousarray(numbers, dtype=np.int64)
        # Equal sites have equal states: one of each is enough.
        first = equal_sites(kinds, near, there, CUTOFF, SAME_SITE)
        kept, site, count = np.unique(first, return_inverse=True, return_counts=True)
        elements.append(kinds[kept])
        shares.append(count / len(kinds))
        sizes.append(len(kept))
        scale.append(np.full(len(kept), unit))
        neighbours.append(site[near[kept]] + total)
        vectors.append(there[kept])
        total += len(kept)
    return LocalEnvironments(
        torch.from_numpy(np.concatenate(elements)),
        torch.from_numpy(np.concatenate(shares).astype(np.float32)),
        torch.tensor(sizes),
        torch.from_numpy(np.concatenate(scale).astype(np.float32)),
        torch.from_numpy(np.concatenate(neighbours)),
        torch.from_numpy(np.concatenate(vectors).astype(np.float32)),
    )


def _nearest_neighbours(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest atoms (n, K) of each, and the vectors (n, K, 3) to their images.

    Vectors are longer than the cutoff where there are fewer than K within it.
    """
    from crysmetrics.periodic_neighbours import periodic_neighbours

    n = len(frac_coords)
    kinds = np.ones(n, dtype=np.int64)
    crystal = Crystals(kinds, frac_coords, lattice[None], np.array([n]), ("x",))
    found = periodic_neighbours(crystal, CUTOFF, nearest=MOST_NEIGHBOURS, workers=1)
    atoms = np.zeros((n, MOST_NEIGHBOURS), dtype=np.int64)
    vectors = np.zeros((n, MOST_NEIGHBOURS, 3))
    vectors[:, :, 0] = 2 * CUTOFF
    rank = np.arange(len(found.source)) - found.atom_offsets[found.source]
    atoms[found.source, rank] = found.target
    vectors[found.source, rank] = found.vectors
    return atoms, vectors


class Round(nn.Module):
    """One round of message passing between sites."""

    def __init__(self) -> None:
        super().__init__()
        self.radial = nn.Linear(BASIS, CHANNELS, bias=False)
        self.sent = nn.Linear(STATE, CHANNELS)
        self.update = layers(STATE + (1 + len(DEGREES)) * CHANNELS, HIDDEN, STATE)

    def forward(
        self, state: Tensor, neighbours: Tensor, basis: Tensor, harmonics: Tensor
    ) -> Tensor:
        """Update states (N, H) by those of the neighbours."""
        channels = self.radial(basis) * self.sent(state)[neighbours]
        sums = channels.transpose(1, 2) @ harmonics  # (N, C, 25)
        seen = torch.cat([state, invariants(sums)], dim=-1)
        seen = nn.functional.dropout(seen, STATE_DROPOUT, self.training)
        found: Tensor = state + self.update(seen)
        return found


class PlausibilityNetwork(nn.Module):
    """Network that scores the environments of a crystal; see the module.

    Args:
        elements: (119, f) properties of the elements (`element_table`).
        radii: (119,) covalent radii in Å.
    """

    elements: Tensor
    radii: Tensor

    def __init__(self, elements: Tensor, radii: Tensor) -> None:
        super().__init__()
        self.register_buffer("elements", elements)
        self.register_buffer("radii", radii)
        self.linear = nn.Linear(elements.shape[1], TABLE_WIDTH, bias=False)
        self.own = nn.Parameter(torch.zeros(len(elements), TABLE_WIDTH))
        self.start = layers(3 * TABLE_WIDTH, HIDDEN, STATE)
        self.stretch = nn.Linear(STATE, 1)
        nn.init.zeros_(self.stretch.weight)
        nn.init.zeros_(self.stretch.bias)
        self.rounds = nn.ModuleList(Round() for _ in range(ROUNDS))
        self.score = layers(STATE, STATE, 1)

    def forward(self, around: LocalEnvironments) -> Tensor:
        """Score crystals (B,): log-probabilities up to a constant of each composition."""
        crystal = torch.repeat_interleave(around.sizes)
        shares = around.shares[:, None]

        def mean(x: Tensor) -> Tensor:
            zeros = x.new_zeros(len(around.sizes), x.shape[1])
            return zeros.index_add(0, crystal, x * shares)

        # One mask for all atoms of an element: what is hidden is not seen in its neighbours.
        table = nn.functional.dropout(
            self.linear(self.elements) + self.own, ELEMENT_DROPOUT, self.training
        )
        own = table[around.elements]
        usual = mean(own)[crystal]
        spread = mean((own - usual) ** 2)[crystal]
        state = self.start(torch.cat([own, usual, spread], dim=-1))
        stretch = STRETCH * torch.tanh(self.stretch(state)[:, 0])
        radii = self.radii[around.elements] * torch.exp(stretch)
        distances = around.vectors.norm(dim=-1)
        basis = radial_basis(
            distances, around.scale[:, None], radii[:, None] + radii[around.neighbours]
        )
        harmonics = spherical_harmonics(around.vectors / distances.clamp(min=1e-6)[..., None])
        for look in self.rounds:
            state = look(state, around.neighbours, basis, harmonics)
        return mean(self.score(state))[:, 0]


@dataclass(frozen=True)
class Plausibility:
    """Several networks, whose scores are averaged."""

    networks: tuple[PlausibilityNetwork, ...]

    @torch.no_grad()
    def scores(self, crystals: Sequence[Cell]) -> NDArray[np.float64]:
        """Score crystals (B,); differences between those of one composition are log odds."""
        ends = np.cumsum([len(numbers) for numbers, _, _ in crystals])
        # Large cells in several cell sizes would take gigabytes at once.
        parts = np.split(np.arange(len(crystals)), np.flatnonzero(np.diff(ends // AT_ONCE)) + 1)
        found = []
        for part in parts:
            around = local_environments([crystals[i] for i in part])
            found.append(sum(network(around).double() for network in self.networks))
        scores: NDArray[np.float64] = torch.cat(found).numpy() / len(self.networks)
        return scores


def save_plausibility(networks: Sequence[PlausibilityNetwork], path: str | Path) -> None:
    """Write networks as safetensors in half precision, whole or not at all."""
    from safetensors.torch import save

    from crysmetrics.io.atomic import atomic_file

    arrays = {
        f"{number}.{name}": value.half().contiguous()
        for number, network in enumerate(networks)
        for name, value in network.state_dict().items()
    }
    with atomic_file(path) as temporary:
        temporary.write_bytes(save(arrays))


@lru_cache(maxsize=2)
def load_plausibility(path: str | Path | None = None) -> Plausibility:
    """Load the shipped networks, or those in a file.

    Raises:
        InputError: if the file holds no networks of plausibility.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    source = files("crysgen.retrieval.data").joinpath(SHIPPED) if path is None else Path(path)
    try:
        stored = {name: value.float() for name, value in load(source.read_bytes()).items()}
        networks = []
        for number in sorted({name.partition(".")[0] for name in stored}):
            own = {
                name.partition(".")[2]: value
                for name, value in stored.items()
                if name.startswith(f"{number}.")
            }
            network = PlausibilityNetwork(own["elements"], own["radii"])
            network.load_state_dict(own)
            networks.append(network.eval())
        if not networks:
            raise KeyError("it is empty")
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(f"{source} holds no networks of plausibility: {error}.") from error
    return Plausibility(tuple(networks))


def layers(*widths: int) -> nn.Sequential:
    """Make linear layers of these widths with SiLU between them."""
    parts: list[nn.Module] = []
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*parts[:-1])


def radial_basis(distances: Tensor, scale: Tensor, pairs: Tensor) -> Tensor:
    """Compute Gaussians over distances (N, K, BASIS), which fade towards the cutoff.

    Args:
        distances: (N, K) in units of the scale.
        scale: (N, 1) in Å.
        pairs: (N, K) sums of radii in Å.
    """
    lengths = distances * scale
    parts = []
    for x, (first, last, number) in (
        (distances, PACKED), (lengths, IN_ANGSTROM), (lengths / pairs, IN_RADII)
    ):  # fmt: skip
        centres = torch.linspace(first, last, number, dtype=x.dtype)
        width = (last - first) / (number - 1)
        parts.append(torch.exp(-(((x[..., None] - centres) / width) ** 2) / 2))
    fade = 0.5 + 0.5 * torch.cos(torch.pi * (distances / CUTOFF).clamp(max=1))
    return torch.cat(parts, dim=-1) * fade[..., None]


def invariants(sums: Tensor) -> Tensor:
    """Reduce sums (N, C, 25) to invariants (N, 5 C): those of degree 0, and norms of the others."""
    parts = [sums[..., 0]]
    for degree in DEGREES:
        part = sums[..., degree**2 : (degree + 1) ** 2]
        parts.append(torch.sqrt((part**2).sum(-1) + 1e-4))
    return torch.cat(parts, dim=-1)


def spherical_harmonics(directions: Tensor) -> Tensor:
    """Compute real spherical harmonics (..., 25) of degrees 0 to 4 of unit vectors (..., 3).

    The squares of each degree add up to 1.
    """
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    found = [
        torch.ones_like(x),
        x, y, z,
        3**0.5 * x * y, 3**0.5 * y * z, (3 * zz - 1) / 2, 3**0.5 * x * z, 0.75**0.5 * (xx - yy),
        (5 / 8) ** 0.5 * y * (3 * xx - yy), 15**0.5 * x * y * z,
        (3 / 8) ** 0.5 * y * (5 * zz - 1), z * (5 * zz - 3) / 2,
        (3 / 8) ** 0.5 * x * (5 * zz - 1), 15**0.5 / 2 * z * (xx - yy),
        (5 / 8) ** 0.5 * x * (xx - 3 * yy),
        35**0.5 / 2 * x * y * (xx - yy), (35 / 8) ** 0.5 * y * z * (3 * xx - yy),
        5**0.5 / 2 * x * y * (7 * zz - 1), (5 / 8) ** 0.5 * y * z * (7 * zz - 3),
        (35 * zz * zz - 30 * zz + 3) / 8, (5 / 8) ** 0.5 * x * z * (7 * zz - 3),
        5**0.5 / 4 * (xx - yy) * (7 * zz - 1), (35 / 8) ** 0.5 * x * z * (xx - 3 * yy),
        35**0.5 / 8 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
    ]  # fmt: skip
    return torch.stack(found, dim=-1)
