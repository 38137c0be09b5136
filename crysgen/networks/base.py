"""What every network offers a diffusion process, and the table of all networks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor, nn

from crysgen.neighbours import nearest_images

_NETWORKS = {
    "gemsnet": ("crysgen.networks.gemsnet", "GemsNet"),
    "pairformer": ("crysgen.networks.pairformer", "PairFormer"),
}


class Fields(NamedTuple):
    """How a network would move a crystal (GemsDiff, Eq. 7).

    Attributes:
        displacement: (B, N, 3) y^x, in fractional coordinates: the same under rotation,
            reflection and translation, turning with the axes under a unimodular change of cell.
            Zero on padding.
        strain: (B, 3, 3) y^ρ - 1, a symmetric tensor of Cartesian space: turning with a rotation,
            the same under translation and a unimodular change of cell.
    """

    displacement: Tensor
    strain: Tensor


class Network(nn.Module):
    """A map from a crystal, a step and its neighbour lists to `Fields`.

    The neighbour search stays outside, so that what is compiled has static shapes.

    Attributes:
        k: how many neighbours of each atom the network wants.
    """

    k: int

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> Any:
        """What `forward` wants to know of who is near, in full precision; not compiled.

        Args:
            frac_coords: (B, N, 3).
            lattices: (B, 3, 3) rows in Å.
            mask: (B, N) where atoms are.
        """
        return nearest_images(frac_coords, lattices, mask, self.k)

    def forward(
        self,
        atomic_numbers: Tensor,
        lattices: Tensor,
        step: Tensor,
        neighbours: Any,
    ) -> Fields:
        """The fields on B crystals.

        Args:
            atomic_numbers: (B, N) int64; 0 is padding.
            lattices: (B, 3, 3) rows in Å, of the noisy crystals.
            step: (B,) float, the diffusion step divided by T.
            neighbours: of the noisy crystals, from `search`.
        """
        raise NotImplementedError


def network_names() -> list[str]:
    """Names that `build_network` knows."""
    return list(_NETWORKS)


def build_network(name: str, settings: Mapping[str, Any]) -> Network:
    """A network with new weights.

    Args:
        name: `gemsnet` or `pairformer`.
        settings: keyword arguments of the network's class.

    Raises:
        ValueError: for a name that is none.
    """
    if name not in _NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(_NETWORKS)}")
    module, cls = _NETWORKS[name]
    network: Network = getattr(import_module(module), cls)(**settings)
    return network
