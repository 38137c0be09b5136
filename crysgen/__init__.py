"""Generators of crystals for an exact composition."""

from crysmetrics._version import __version__

__all__ = ["__version__"]
