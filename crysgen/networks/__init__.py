"""Equivariant networks: maps from a noisy crystal and a step to fields on it."""

from crysgen.networks.base import Fields, Network, build_network, network_names

__all__ = ["Fields", "Network", "build_network", "network_names"]
