"""Read results that were saved as JSON, and check them against the schema and the declarations.

A gate believes what it reads: a NaN would compare as equal, a flipped direction would turn worse
into better. So a document is checked in full before anything is compared.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crysmetrics.errors import InputError, UserError
from crysmetrics.metrics.intervals import Z95
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.reporting.report import SCHEMA
from crysmetrics.weights import weights_name

SIZE_TOLERANCE = 0.02
"""Share by which two numbers of structures may differ and still count as equal."""


class IncomparableError(UserError):
    """Results that say nothing about each other."""


def load_document(path: str | Path) -> dict[str, Any]:
    """Read and check a `crysmetrics/1` document.

    Args:
        path: the file, or the folder of results that holds it.

    Raises:
        InputError: if there is none, or it breaks the schema or a metric's declaration.
    """
    path = Path(path)
    file = path / "metrics.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{file} is no JSON ({reason}).") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f"{file} holds no results of schema {SCHEMA}.")
    for fault in faults(document):
        raise InputError(f"{file} is damaged: {fault}.")
    return document


def result_paths(paths: Sequence[str]) -> list[str]:
    """List the results that some paths hold: files, folders, and folders of several models.

    Raises:
        InputError: if a folder holds no result.
    """
    found: list[str] = []
    for path in paths:
        folder = Path(path)
        if not folder.is_dir() or (folder / "metrics.json").is_file():
            found.append(path)
            continue
        inner = sorted(folder.glob("*/metrics.json"))
        if not inner:
            raise InputError(f"{path} holds no results: neither metrics.json nor folders with one.")
        found += [str(file.parent) for file in inner]
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number")


def faults(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield every way in which a document breaks the schema or the declarations of metrics."""
    broken = False
    for name in ("metrics", "settings", "extractors", "inputs"):
        if not isinstance(document.get(name), dict):
            broken = True
            yield f"it lacks {name}"
    if broken:
        return
    for name, kind in (("failures", list), ("versions", dict), ("timing", dict)):
        if not isinstance(document.get(name, kind()), kind):
            yield f"its {name} are no {kind.__name__}"
    for role, entry in document["inputs"].items():
        if fault := _input_fault(entry):
            yield f"input {role} {fault}"
    if "gen" not in document["inputs"]:
        yield "it lacks the input gen"
    for name, entry in document["extractors"].items():
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(part), str) for part in ("version", "hash")
        ):
            yield f"features {name} lack version or hash"
    for key, entry in document["metrics"].items():
        if fault := _metric_fault(key, entry):
            yield fault


def _input_fault(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "is no object"
    if not all(_is_count(entry.get(name)) for name in ("read", "failed")):
        return "lacks the numbers read and failed"
    if not isinstance(entry.get("sha256"), str):
        return "lacks sha256"
    if not isinstance(entry.get("path"), (str, type(None))):
        return "has a path that is no text"
    return None


def _metric_fault(key: str, entry: Any) -> str | None:
    """Describe the fault in the entry of one metric; None if there is none."""
    declared = all_metrics()
    if key not in declared:
        return f"it holds a metric {key!r}, which this version of crysmetrics does not know"
    if not isinstance(entry, dict):
        return f"{key} is no object"
    metric = declared[key]
    for name in ("better", "unit"):
        if entry.get(name) != (wanted := getattr(metric, name)):
            return f"{key} has {name} {entry.get(name)!r}, but is declared with {wanted!r}"
    for name in ("value", "stderr"):
        if name not in entry:
            return f"{key} lacks {name}"
        if entry[name] is not None and not is_number(entry[name]):
            return f"{key} has a {name} that is no number"
    for name in ("n_gen", "n_ref"):
        if entry.get(name) is not None and not _is_count(entry[name]):
            return f"{key} has an {name} that is no number of structures"
    for name in ("reason", "note"):
        if not isinstance(entry.get(name, ""), str):
            return f"{key} has a {name} that is no text"
    if entry["value"] is None:
        return None if entry.get("reason") else f"{key} has neither value nor reason"
    return _uncertainty_fault(key, entry, bounded=metric.unit == "share")


def _uncertainty_fault(key: str, entry: Mapping[str, Any], bounded: bool) -> str | None:
    """Describe the fault of a value, its standard error and its interval taken together."""
    value, stderr, interval = float(entry["value"]), entry["stderr"], entry.get("ci95")
    if bounded and not 0 <= value <= 1:
        return f"{key} is a share of {value:g}"
    if stderr is not None and (stderr < 0 or (bounded and stderr > 0.5)):
        return f"{key} has a stderr of {stderr:g}"
    if interval is None:
        return None
    if not (isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval))):
        return f"{key} has a ci95 that is no pair of numbers"
    low, high = map(float, interval)
    slack = 1e-9 * max(1.0, abs(value))
    if not low - slack <= value <= high + slack:
        return f"{key} has a value outside its interval"
    if stderr is None:
        return None
    # Intervals of shares (Wilson's) are wider than the error near 0 and 1; all others are
    # 1.96 errors wide, or less where they are cut at what is possible.
    too_large = Z95 * stderr > 2 * (high - low) + slack
    too_small = not bounded and high - value - Z95 * stderr > 1e-3 * (high - value)
    if too_large or too_small:
        return f"{key} has a stderr that does not fit its interval"
    return None


def is_number(value: Any) -> bool:
    """Tell whether this is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer of hundreds of digits
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and is_number(value) and value >= 0


def check_comparable(documents: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `IncomparableError` unless all results have been made alike.

    Protocols, settings, extractors of features, references and training sets must be the same
    wherever two results both have them.
    """
    items = list(documents.items())
    first_name, first = items[0]
    for name, other in items[1:]:
        differences = list(_differences(first, other))
        if differences:
            raise IncomparableError(
                f"{first_name} and {name} can't be compared: {'; '.join(differences)}."
            )


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    ours, theirs = a["settings"], b["settings"]
    for name in dict.fromkeys((*ours, *theirs)):
        one, two = ours.get(name), theirs.get(name)
        shared = name in ours and name in theirs
        if one != two and (shared or name in ("protocol", "limit")):
            title = "protocol" if name == "protocol" else f"setting {name.replace('_', ' ')}"
            yield f"{title} {_say(one)} against {_say(two)}"
    for name in sorted(a["extractors"].keys() & b["extractors"].keys()):
        one, two = (d["extractors"][name] for d in (a, b))
        if one["hash"] != two["hash"]:
            yield _different_features(name, one["version"], two["version"])
    for role, title in (("ref", "references"), ("train", "training sets")):
        sets = [d["inputs"].get(role) for d in (a, b)]
        if all(sets) and sets[0]["sha256"] != sets[1]["sha256"]:
            one, two = (s.get("path") or "a set without a name" for s in sets)
            yield f"{title} {one} and {two} differ"


def _different_features(name: str, one: str, two: str) -> str:
    """Say which versions made two features, and what to do where the shipped weights changed."""
    found = [re.search(r"weights ([0-9a-f]{8})", version) for version in (one, two)]
    names = [None if match is None else weights_name(match[1]) for match in found]
    if all(names) and names[0] != names[1]:
        return (
            f"features {name} by the weights {names[0]} against {names[1]}, whose energies and "
            "distances differ; evaluate both sets with the same weights"
        )
    return f"features {name} by {one!r} against {two!r}"


def _say(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def sizes_differ(sizes: list[int]) -> bool:
    """Tell whether numbers of structures differ by more than SIZE_TOLERANCE."""
    return bool(sizes) and max(sizes) - min(sizes) > SIZE_TOLERANCE * max(sizes)
