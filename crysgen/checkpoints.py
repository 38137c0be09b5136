"""Models on disk: weights as safetensors, and beside them what they are as JSON.

`NAME.safetensors` holds the weights, `NAME.json` the kind of model, its configuration and the facts
of its card, `NAME.md` the card for people. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysmetrics.errors import InputError, UserError
from crysmetrics.folders import data_folder
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.json_files import read_json_object, write_json

if TYPE_CHECKING:
    import torch

    from crysgen.models.base import Model

FORMAT = "crysgen-model/1"
DEFAULT_MODEL = "gemsdiff-mp-v3"
"""Name of the default model; the only place that says it."""
SHIPPED = Path(__file__).parent / "weights"
BEST = "best.safetensors"
"""Name of the best model in the folder of a training run."""


@dataclass(frozen=True)
class ModelInfo:
    """A model with a name.

    Attributes:
        name: for `--model`.
        path: of its weights.
        card: what its JSON says.
    """

    name: str
    path: Path
    card: dict[str, Any]


def user_models() -> Path:
    """Return the folder where users' own models are found by name."""
    return data_folder("crysgen") / "models"


def known_models() -> list[ModelInfo]:
    """List shipped models and those in the user's folder by name; a user's own wins."""
    found = {}
    for folder in (SHIPPED, user_models()):
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            try:
                found[path.stem] = ModelInfo(path.stem, path, _card(path))
            except InputError:  # a foreign file must not hide the others
                continue
    return [found[name] for name in sorted(found)]


def save_model(
    model: Model,
    path: Path,
    facts: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `path` (`.safetensors`) and the JSON beside it, each whole or not at all.

    Args:
        model: with its configuration and weights.
        path: of the weights.
        facts: for the card: data, hashes, steps, metrics.
        weights: instead of `model.state_dict()`, an average of it for example.
        dtype: in which numbers are stored; their own by default.
    """
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in (weights or model.state_dict()).items()
    }
    content = save(tensors, {"format": FORMAT})
    card = {
        "format": FORMAT,
        "kind": model.kind,
        "config": model.config.to_json(),
        "sha256": hashlib.sha256(content).hexdigest(),
        **facts,
    }
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    write_json(card, path.with_suffix(".json"))


def load_model(name: str | Path | None = None, device: str = "cpu") -> Model:
    """Load a model of any kind, ready to sample.

    Args:
        name: of a known model, or the path of a `.safetensors` file or of a training run; None for
            the default one.
        device: where it computes.

    Raises:
        UserError: if there is no such model.
        InputError: if its files are damaged or not ours.
    """
    import torch
    from safetensors.torch import load

    from crysgen.models import model_class

    path = find_model(name)
    card = _card(path)
    try:
        content = path.read_bytes()
        weights = load(content)
    except Exception as error:
        raise InputError(f"{path} can't be read as safetensors ({error}).") from error
    if card.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise InputError(f"{path} is not the file that {path.stem}.json describes.")
    cls = model_class(card.get("kind"))
    try:
        model = cls(cls.Config.from_json(card["config"]))
        floats = {
            name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        model.load_state_dict(floats)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} does not fit its configuration ({reason}).") from error
    model.requires_grad_(False)
    return model.eval().to(device)


def model_identity(name: str | Path | None = None) -> dict[str, str]:
    """Hash a model's files, by which a run recognises it under any name.

    Raises:
        UserError: if there is no such model.
    """
    path = find_model(name)
    identity = {"weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    try:
        card = _card(path)
    except InputError:  # said when the model is loaded
        return identity
    config = json.dumps([card.get("kind"), card.get("config")], sort_keys=True)
    return identity | {"config_sha256": hashlib.sha256(config.encode()).hexdigest()}


def find_model(name: str | Path | None = None) -> Path:
    """Find the weights of a model by name, kind or path; an existing path wins.

    Args:
        name: None for the default model; a kind, such as `crysldm`, for the newest of that kind.

    Raises:
        UserError: if there is no such model.
    """
    name = DEFAULT_MODEL if name is None else name
    path = Path(name)
    if path.is_dir() and (path / BEST).is_file():
        return path / BEST
    if path.is_file():
        return path
    for model in known_models():
        if model.name == str(name):
            return model.path
    of_kind = [model for model in known_models() if model.card.get("kind") == str(name)]
    if of_kind:
        return max(of_kind, key=lambda model: _version(model.name)).path
    names = ", ".join(model.name for model in known_models()) or "none"
    raise UserError(
        f"There is no model {str(name)!r}: known are {names}; or give the path of a .safetensors "
        "file or of a training run."
    )


def kind_of(name: str | Path | None = None) -> str:
    """Return the kind of a model by its card, without loading it.

    Raises:
        UserError: if there is no such model.
        InputError: if it has no card.
    """
    return str(_card(find_model(name)).get("kind"))


def _version(name: str) -> tuple[int, str]:
    """Order models of a kind: `NAME-v10` after `NAME-v9`."""
    digits = re.search(r"-v(\d+)$", name)
    return int(digits[1]) if digits else 0, name


def _card(path: Path) -> dict[str, Any]:
    """Read the JSON beside the weights.

    Raises:
        InputError: if it is missing, damaged or of another program.
    """
    described = path.with_suffix(".json")
    try:
        card = read_json_object(described)
    except FileNotFoundError:
        raise InputError(f"{path} has no {described.name} that says what it is.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{described} can't be read as a model's card: {error}.") from error
    if card.get("format") != FORMAT:
        raise InputError(f"{described} does not describe a model of ours.")
    return card
