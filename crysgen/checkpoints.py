"""Models on disk: weights as safetensors, and beside them what they are as JSON.

`NAME.safetensors` holds the weights, `NAME.json` the kind of model, its configuration and the facts
of its card, `NAME.md` the card for people. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysmetrics.errors import InputError, UserError
from crysmetrics.folders import data_folder
from crysmetrics.io.atomic import atomic_file

if TYPE_CHECKING:
    import torch

    from crysgen.models.gemsdiff import GemsDiff

FORMAT = "crysgen-model/1"
DEFAULT_MODEL = "gemsdiff-mp-v1"
SHIPPED = Path(__file__).parent / "weights"
_BEST = "best.safetensors"


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be named.

    Attributes:
        name: for `--model`.
        path: of its weights.
        card: what its JSON says.
    """

    name: str
    path: Path
    card: dict[str, Any]


def user_models() -> Path:
    """The folder where users' own models are found by name."""
    return data_folder("crysgen") / "models"


def known_models() -> list[ModelInfo]:
    """Shipped models and those in the user's folder, by name; a user's own wins."""
    found = {}
    for folder in (SHIPPED, user_models()):
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            try:
                found[path.stem] = ModelInfo(path.stem, path, _card(path))
            except InputError:  # a file that is no model of ours does not hide the others
                continue
    return [found[name] for name in sorted(found)]


def save_model(
    model: GemsDiff,
    path: Path,
    facts: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `path` (`.safetensors`) and the JSON beside it, each whole or not at all.

    Args:
        model: whose configuration and weights are kept.
        path: of the weights.
        facts: for the card: data, hashes, steps, metrics.
        weights: instead of the model's own, an average of them for example.
        dtype: in which numbers are stored; their own by default.
    """
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in (weights or model.network.state_dict()).items()
    }
    content = save(tensors, {"format": FORMAT})
    card = {
        "format": FORMAT,
        "kind": "gemsdiff",
        "config": model.config.to_json(),
        "sha256": hashlib.sha256(content).hexdigest(),
        **facts,
    }
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_model(name: str | Path = DEFAULT_MODEL, device: str = "cpu") -> GemsDiff:
    """A model, ready to sample.

    Args:
        name: of a known model, or the path of a `.safetensors` file or of a training run.
        device: where it computes.

    Raises:
        UserError: if there is no such model.
        InputError: if its files are damaged or not ours.
    """
    import torch
    from safetensors.torch import load

    from crysgen.models.gemsdiff import GemsDiff, GemsDiffConfig

    path = find_model(name)
    card = _card(path)
    try:
        content = path.read_bytes()
        weights = load(content)
    except Exception as error:
        raise InputError(f"{path} can't be read as safetensors ({error}).") from error
    if card.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise InputError(f"{path} is not the file that {path.stem}.json describes.")
    try:
        config = GemsDiffConfig.from_json(card["config"])
        model = GemsDiff(config)
        floats = {k: v.to(torch.float32) for k, v in weights.items()}
        model.network.load_state_dict(floats)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} does not fit its configuration ({reason}).") from error
    model.requires_grad_(False)
    return model.eval().to(device)


def find_model(name: str | Path) -> Path:
    """The weights of a model by name or path; an existing path wins.

    Raises:
        UserError: if there is none.
    """
    path = Path(name)
    if path.is_dir() and (path / _BEST).is_file():
        return path / _BEST
    if path.is_file():
        return path
    for model in known_models():
        if model.name == str(name):
            return model.path
    names = ", ".join(model.name for model in known_models()) or "none"
    raise UserError(
        f"There is no model {str(name)!r}: known are {names}; or give the path of a .safetensors "
        "file or of a training run."
    )


def _card(path: Path) -> dict[str, Any]:
    """The JSON beside the weights.

    Raises:
        InputError: if there is none, or it is not ours.
    """
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} has no {path.stem}.json that says what it is.") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise InputError(f"{path.with_suffix('.json')} does not describe a model of ours.")
    return card
