"""Equivariant backbones: maps from a crystal and a step to features of its atoms and edges."""

from crysgen.networks.base import Features, Network, build_network, network_names

__all__ = ["Features", "Network", "build_network", "network_names"]
