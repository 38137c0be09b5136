"""Find metrics: the modules of this package are scanned, and imported when they are needed.

A module that declares `MEASURE` or `MEASURES` is a *family*: a command of its name, a Python
function of its name, and measures named after it. What a command needs to know for `--help` is
read from the module's source, so that no array package is imported for it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import find_spec
from inspect import cleandoc
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from crysmetrics import metrics
from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysmetrics.metrics.base import Measure, Metric

_DECLARES = re.compile(r"^MEASURES? = ", re.MULTILINE)


@dataclass(frozen=True)
class Family:
    """The declaration of a module as its source has it.

    Attributes:
        name: of module, command and Python function.
        text: docstring of the function of that name.
        roles, features, settings: of its measures, see `metrics.base.Measure`.
    """

    name: str
    text: str
    roles: tuple[str, ...]
    features: tuple[str, ...]
    settings: tuple[str, ...]


@cache
def family_names() -> tuple[str, ...]:
    """List the families in alphabetical order."""
    return tuple(sorted(_sources()))


@cache
def _sources() -> dict[str, str]:
    """Sources of the modules that declare measures, by name."""
    found = {}
    for module in iter_modules(metrics.__path__):
        spec = find_spec(f"{metrics.__name__}.{module.name}")
        if spec is None or not isinstance(spec.loader, InspectLoader):
            continue
        source = spec.loader.get_source(spec.name)
        if source and _DECLARES.search(source):
            found[module.name] = source
    return found


@cache
def family(name: str) -> Family:
    """Read the declaration of a family from its source.

    Raises:
        UserError: if there is none of this name.
    """
    if name not in _sources():
        raise UserError(f"There are no metrics {name!r}; known are {', '.join(family_names())}.")
    tree = ast.parse(_sources()[name])
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    text = ast.get_docstring(functions[0]) if functions else ast.get_docstring(tree)
    parts: dict[str, list[str]] = {"roles": [], "features": [], "settings": []}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            if call.func.id != "Measure":
                continue
            for keyword in call.keywords:
                if keyword.arg in parts:
                    # Where it is no literal, the family's command is written by hand.
                    with suppress(ValueError):
                        parts[keyword.arg] += ast.literal_eval(keyword.value)
    distinct = {key: tuple(dict.fromkeys(values)) for key, values in parts.items()}
    return Family(name, cleandoc(text or ""), **distinct)


def measures_of(name: str) -> tuple[Measure, ...]:
    """Import a family and list its measures."""
    module = import_module(f"{metrics.__name__}.{name}")
    declared: tuple[Measure, ...] = getattr(module, "MEASURES", None) or (module.MEASURE,)
    return declared


def all_measures() -> dict[str, Measure]:
    """Import every measure, by name, in the order of tables."""
    found = [measure for name in family_names() for measure in measures_of(name)]
    found.sort(key=lambda measure: (measure.position, measure.name))
    return {measure.name: measure for measure in found}


def find_measures(names: Iterable[str]) -> list[Measure]:
    """Import the measures of these names, and no others.

    Raises:
        UserError: if there is none of a name.
    """
    found = []
    for name in names:
        candidates = [f for f in family_names() if name == f or name.startswith(f"{f}_")]
        measures = {m.name: m for f in candidates for m in measures_of(f)}
        if name not in measures:
            raise UserError(
                f"There are no metrics {name!r}; known are {', '.join(all_measures())}."
            )
        found.append(measures[name])
    return found


def metrics_of(measures: Iterable[Measure]) -> dict[str, Metric]:
    """List the metrics of some measures by key; `KEY_topK` is known for every K."""
    found = _Metrics()
    for measure in measures:
        found |= {m.key: m for m in measure.metrics}
        if measure.ranked:
            found.ranked |= {m.key for m in measure.metrics}
            for top in USUAL_TOPS:
                found |= {top_key(m.key, top): found[top_key(m.key, top)] for m in measure.metrics}
    return found


def all_metrics() -> dict[str, Metric]:
    """List every metric by key, in the order of tables; imports all modules."""
    return metrics_of(all_measures().values())


USUAL_TOPS = (5, 10, 20)
"""Numbers of predictions that tables have a place for."""


def top_key(key: str, top: int) -> str:
    """Name a metric for the best of the first `top` predictions."""
    return key if top == 1 else f"{key}_top{top}"


class _Metrics(dict[str, "Metric"]):
    """Metrics by key, with those of the best of K predictions made when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ranked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or self._parts(key) is not None

    def __missing__(self, key: str) -> Metric:
        parts = self._parts(key)
        if parts is None:
            raise KeyError(key)
        metric = self[parts[0]]
        label = f"{metric.label}, best of {parts[1]}"
        definition = f"{metric.definition} Of the first {parts[1]} predictions the best counts."
        return replace(metric, key=key, label=label, gated=False, definition=definition)

    def _parts(self, key: object) -> tuple[str, str] | None:
        name, found, top = str(key).rpartition("_top")
        good = found and name in self.ranked and top.isascii() and top.isdigit() and top[0] != "0"
        return (name, top) if good and top != "1" else None
