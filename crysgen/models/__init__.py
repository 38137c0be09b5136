"""Generative models: one file each, behind the interface of `crysgen.models.base`.

A model is a module with a class, a folder of configurations in `crysgen/training/configs/KIND`,
and a line in `MODELS`. Training, checkpoints, sampling, cards and commands know only the interface.
Nothing heavy is imported here: commands list the kinds of models without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.models.base import Model

MODELS: dict[str, str] = {
    "gemsdiff": "crysgen.models.gemsdiff:GemsDiff",
    "cdvae": "crysgen.models.cdvae:CDVAE",
    "crysldm": "crysgen.models.crysldm:CrysLDM",
    "adaptive_cell": "crysgen.models.adaptive_cell:AdaptiveCell",
}
"""Module and class of each kind of model."""


def model_class(kind: object) -> type[Model]:
    """Import the class of a kind of model.

    Raises:
        UserError: if there is no such kind.
    """
    place = MODELS.get(kind) if isinstance(kind, str) else None
    if place is None:
        raise UserError(f"There is no kind of model {kind!r}; known are {', '.join(MODELS)}.")
    module, _, name = place.partition(":")
    found: type[Model] = getattr(import_module(module), name)
    return found
