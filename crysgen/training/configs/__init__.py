"""Training set-ups: a model's configuration and a run's settings in one JSON file.

Those of the package are `KIND/NAME.json` in this folder, one folder for each kind of model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysgen.config_values import from_values
from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.models.base import ModelConfig
    from crysgen.training.settings import TrainingSettings

FOLDER = Path(__file__).parent
DEFAULT = "default"
_PARTS = {"about", "model", "training"}


def config_names(kind: str) -> list[str]:
    """List the set-ups of a kind of model that come with the package."""
    return sorted(path.stem for path in (FOLDER / kind).glob("*.json"))


def load_config(
    kind: str, name: str | Path = DEFAULT, overrides: dict[str, Any] | None = None
) -> tuple[ModelConfig, TrainingSettings]:
    """Load a set-up by name or path; an existing path wins.

    Args:
        kind: of the model.
        name: `default`, `paper`, ... or a JSON file with the objects `model` and `training`.
        overrides: settings of the run that win over the file's.

    Raises:
        UserError: if there is no such set-up, or it sets a value that can't be.
    """
    from crysgen.models import model_class
    from crysgen.training.settings import TrainingSettings
    from crysmetrics.io.json_files import read_json_object

    cls = model_class(kind)
    path = Path(name)
    if not path.is_file():
        names = config_names(kind)
        if str(name) not in names:
            known = f"known for {kind} are {', '.join(names)}; or" if names else "please"
            raise UserError(f"There is no configuration {str(name)!r}: {known} give a JSON file.")
        path = FOLDER / kind / f"{name}.json"
    try:
        content = read_json_object(path)
        if set(content) - _PARTS:
            raise ValueError("it must hold the objects `model` and `training`")
        model = cls.Config.from_json(content.get("model", {}))
        settings = from_values(TrainingSettings, content.get("training", {}))
        return model, settings.changed(overrides or {}).for_stages(cls.stages)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no configuration: {error}.") from error
