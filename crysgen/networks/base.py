"""The interface of all backbones, and the table of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from crysgen.config_values import at_least, shown
from crysgen.networks.neighbours import nearest_images

_NETWORKS = {
    "cspnet": ("crysgen.networks.csp_backbone", "CSPBackbone"),
    "gemsnet": ("crysgen.networks.gemsnet", "GemsNet"),
    "pairformer": ("crysgen.networks.pairformer", "PairFormer"),
}


class Features(Protocol):
    """Features of B crystals from a backbone, for the heads of models.

    All features are the same under rotation, reflection, translation and a change of cell vectors
    (CSPNet's not under the last, and it has none of neighbours). Heads that move atoms or bend
    cells make vectors and tensors of `units`, weighted by edges.
    """

    @property
    def nodes(self) -> Tensor:
        """(B, N, C) features of atoms; without meaning on padding."""

    @property
    def edges(self) -> Tensor:
        """(B, N, k, E) features of each atom's neighbours, fading to zero at the cutoff."""

    @property
    def units(self) -> Tensor:
        """(B, N, k, 3) Cartesian directions to the neighbours."""


class Estimate(NamedTuple):
    """An earlier prediction of the clean crystals, for self-conditioning.

    Attributes:
        displacement: (B, N, 3) from where atoms are now, in fractional coordinates.
        lattices: (B, 3, 3) rows in Å.
        known: (B,) 1 where there is a prediction, else 0.
    """

    displacement: Tensor
    lattices: Tensor
    known: Tensor


class Network(nn.Module):
    """A backbone: a map from a crystal, a step and its neighbour lists to `Features`.

    The neighbour search stays outside, so that what is compiled has static shapes.

    Attributes:
        k: how many neighbours of each atom the network wants; 0 for none.
        channels: C, the width of node features.
        edge_channels: E, the width of edge features; 0 for none.
        can_drop: whether there is dropout, with the shape `droppable` of layers and channels.
    """

    can_drop: ClassVar[bool] = False
    k: int
    channels: int
    edge_channels: int
    droppable: tuple[int, int]

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> Any:
        """Search the neighbours that `forward` wants, in full precision; not compiled.

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
    ) -> Any:
        """Return the `Features` of B crystals.

        Args:
            atomic_numbers: (B, N) int64; 0 is padding.
            lattices: (B, 3, 3) rows in Å, of the noisy crystals.
            step: (B,) float, the diffusion step divided by T.
            neighbours: of the noisy crystals, from `search`.
        """
        raise NotImplementedError


LARGEST_SETTING = 1024
LARGEST_NETWORK = 1_000_000_000
"""Widths and numbers of layers, and weights in all: what is larger is a typing error."""


def network_names() -> list[str]:
    """List the names that `build_network` knows."""
    return list(_NETWORKS)


def network_class(name: str) -> type[Network]:
    """Import the class of a backbone.

    Raises:
        ValueError: if there is no backbone of this name.
    """
    if name not in _NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(_NETWORKS)}")
    module, cls = _NETWORKS[name]
    found: type[Network] = getattr(import_module(module), cls)
    return found


def check_settings(cls: type[nn.Module], settings: Mapping[str, Any]) -> None:
    """Check keyword arguments of a module, which are numbers and switches, without building it.

    Raises:
        ValueError: naming a setting that is unknown, of another type, or out of range.
    """
    known = inspect.signature(cls, eval_str=True).parameters
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{cls.__name__} has no setting {name!r}; it has {', '.join(known)}")
        hint = known[name].annotation
        if hint is bool and not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {shown(value)}")
        if hint is int:
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, not {shown(value)}")
            at_least(name, value, 1, LARGEST_SETTING)


def build_network(name: str, settings: Mapping[str, Any]) -> Network:
    """Build a backbone with new weights.

    Args:
        name: of `network_names`.
        settings: keyword arguments of the network's class.

    Raises:
        ValueError: for an unknown name, or settings that can't be.
    """
    cls = network_class(name)
    check_settings(cls, settings)
    with torch.device("meta"):  # takes no memory
        weights = sum(p.numel() for p in cls(**settings).parameters())
    if weights > LARGEST_NETWORK:
        raise ValueError(f"the network would have {weights:.1e} weights")
    return cls(**settings)
