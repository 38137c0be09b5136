"""Settings of a small GemsDiff over PairFormer."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "network": "pairformer",
    "network_settings": {"channels": 16, "layers": 2, "heads": 2, "radial": 6, "k": 8},
    "standardize_lattice": True,
    "cell_decoder": "residual",
    "lattice_loss": "vector",
    "position_loss": "scaled",
}
