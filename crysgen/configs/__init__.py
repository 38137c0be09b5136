"""Training set-ups: a model's configuration and a run's settings in one JSON file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.models.gemsdiff import GemsDiffConfig
    from crysgen.training import TrainingSettings

FOLDER = Path(__file__).parent
DEFAULT = "default"


def config_names() -> list[str]:
    """Set-ups that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_config(
    name: str | Path, overrides: dict[str, Any] | None = None
) -> tuple[GemsDiffConfig, TrainingSettings]:
    """A set-up by name or path; an existing path wins.

    Args:
        name: `default`, `paper`, ... or a JSON file with the objects `model` and `training`.
        overrides: settings of the run that win over the file's.

    Raises:
        UserError: if there is none, or it sets what can't be set.
    """
    from crysgen.models.gemsdiff import GemsDiffConfig
    from crysgen.training import TrainingSettings

    path = Path(name)
    if not path.is_file():
        path = FOLDER / f"{name}.json"
        if not path.is_file() or Path(name).name != str(name):
            raise UserError(
                f"There is no configuration {str(name)!r}: known are {', '.join(config_names())}; "
                "or give a JSON file."
            )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) - {"about", "model", "training"}:
            raise ValueError("it must hold the objects `model` and `training`")
        model = GemsDiffConfig.from_json(content.get("model", {}))
        settings = content.get("training", {}) | (overrides or {})
        unknown = set(settings) - {f.name for f in fields(TrainingSettings)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return model, TrainingSettings(**settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no configuration: {error}.") from error
