"""Weights of ALIGNN: ours, those that NIST published, and files of the user."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from crysmetrics.errors import UserError
from crysmetrics.features.alignn.graph import GRAPH_RULES, GraphRule
from crysmetrics.packages import require

if TYPE_CHECKING:
    from crysmetrics.features.alignn.network import ALIGNN

DEFAULT_WEIGHTS = "alignn-mp-v1"
FEATURE_WIDTH = 256


@dataclass(frozen=True)
class Weights:
    """A network that is ready to be used.

    Attributes:
        name: as it was asked for.
        sha256: of the file it came from.
        network: on the CPU, for inference.
        gives_energy: whether its one output is a formation energy in eV/atom.
        rule: of the graphs that it was trained on.
    """

    name: str
    sha256: str
    network: ALIGNN
    gives_energy: bool
    rule: GraphRule


def load_weights(weights: str | Path) -> Weights:
    """Load the network with these weights; kept for the next time.

    Args:
        weights: a name (shipped here or published by NIST) or a `.safetensors` file.

    Raises:
        UserError: if there are none, or they are not ALIGNN's.
    """
    require("torch", "torch", "ALIGNN")
    from crysmetrics.features.alignn.published import PUBLISHED, published_file
    from crysmetrics.weights import weights_path

    name = str(weights)
    if name in PUBLISHED:
        path = published_file(name)
    elif isinstance(weights, Path) or name.endswith(".safetensors"):
        path = Path(weights)
        if not path.is_file():
            raise UserError(f"There is no file {path} with weights.")
    else:
        path = weights_path(name)
    status = path.stat()
    return _read(name, path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read(name: str, path: Path, changed: int, size: int) -> Weights:
    """Read a file; its time and size are there to notice that it is another one now."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from crysmetrics.features.alignn.network import ALIGNN
    from crysmetrics.features.alignn.published import PUBLISHED, state_from_zip

    data = path.read_bytes()
    try:
        state = state_from_zip(name, data) if name in PUBLISHED else load(data)
        rule = "published" if name in PUBLISHED else _graph_rule(data)
        network = ALIGNN.from_state(state)
        if network.fc.in_features != FEATURE_WIDTH:
            raise ValueError(f"it is {network.fc.in_features} wide, not {FEATURE_WIDTH}")
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} holds no weights of ALIGNN: {error}.") from error
    energy = PUBLISHED[name].gives_energy if name in PUBLISHED else network.fc.out_features == 1
    return Weights(name, hashlib.sha256(data).hexdigest(), network, energy, rule)


def _graph_rule(data: bytes) -> GraphRule:
    """Read the rule of graphs that a safetensors file names; the published one if it names none.

    Raises:
        ValueError: if it names another one.
    """
    # Eight bytes with the length of a JSON header, which safetensors has checked by now.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    named = header.get("__metadata__", {}).get("graph_rule", "published")
    for rule in GRAPH_RULES:
        if rule == named:
            return rule
    raise ValueError(f"its graphs follow an unknown rule, {named!r}")


@lru_cache(maxsize=2)
def network_on(weights: Weights, device: str) -> ALIGNN:
    """Copy the network to another device; kept for the next time."""
    from crysmetrics.features.alignn.network import ALIGNN

    return ALIGNN.from_state(weights.network.state_dict()).to(device)
