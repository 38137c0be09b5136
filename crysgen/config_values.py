"""Configurations from JSON: frozen dataclasses whose every value is checked against its type.

What a file may hold is wider than what a computation can use: NaN, texts for numbers, whole numbers
of hundreds of digits. All of that ends here, in one sentence.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

LARGEST_INTEGER = 2**53
"""Whole numbers beyond it are not held exactly by every reader of JSON."""
MOST_STEPS = 100_000
"""Of a diffusion, in training or sampling."""


def from_values(cls: type[T], values: Any) -> T:
    """Build a dataclass from values as JSON has them.

    Args:
        cls: a dataclass with fields of bool, int, float, str, Literal, X | None, tuple, or dict of
            plain values.
        values: by the names of fields; those left out keep their defaults.

    Raises:
        ValueError: naming the first value that can't be, or names that are unknown.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"settings must be an object, not {shown(values)}")
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(sorted(map(str, unknown)))}")
    return cls(**{name: _value(name, hints[name], value) for name, value in values.items()})


def shown(value: Any) -> str:
    """Shorten a value of any type for a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits; nested lists
        return f"such a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."


def at_least(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Check that a number is in a range, both ends included.

    Raises:
        ValueError: if it is outside.
    """
    if not least <= value <= most:
        limit = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} must be {limit}, not {shown(value)}")


def positive(name: str, value: float, most: float = math.inf) -> None:
    """Check that a number is above zero.

    Raises:
        ValueError: if it is not, or above `most`.
    """
    if not 0 < value <= most:
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise ValueError(f"{name} must be above 0{limit}, not {shown(value)}")


def _value(name: str, hint: Any, value: Any) -> Any:
    """Convert a value to the field's type; lists become tuples, whole numbers floats."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (hint,) = (one for one in inner if one is not type(None))
        return _value(name, hint, value)
    if kind is Literal:
        if not isinstance(value, str) or value not in inner:
            known = ", ".join(map(str, inner))
            raise ValueError(f"{name} must be one of {known}, not {shown(value)}")
        return value
    if kind is tuple:
        return _tuple(name, inner, value)
    if kind is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be an object, not {shown(value)}")
        of = inner[1] if len(inner) > 1 else Any
        check = _plain if of is Any else lambda part, one: _value(part, of, one)
        return {str(key): check(f"{name}.{key}", one) for key, one in value.items()}
    if hint is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {shown(value)}")
        return value
    if hint is str:
        if not isinstance(value, str):
            raise ValueError(f"{name} must be text, not {shown(value)}")
        return value
    if hint in (int, float):
        return _number(name, hint, value)
    raise TypeError(f"{name} has a type that JSON can't hold: {hint}")


def _tuple(name: str, inner: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, not {shown(value)}")
    if len(inner) == 2 and inner[1] is ...:
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        raise ValueError(f"{name} must be {len(inner)} numbers, not {len(value)}")
    return tuple(_value(name, hint, one) for hint, one in zip(inner, value, strict=True))


def _number(name: str, hint: type, value: Any) -> int | float:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and abs(value) > LARGEST_INTEGER:
        raise ValueError(f"{name} must be below 2^53, not {shown(value)}")
    if hint is int:
        if not whole:
            raise ValueError(f"{name} must be a whole number, not {shown(value)}")
        return int(value)
    if not whole and not isinstance(value, float):
        raise ValueError(f"{name} must be a number, not {shown(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {shown(value)}")
    return float(value)


def _plain(name: str, value: Any) -> Any:
    """Check a number, a text, true or false, null, an object of such, or a list of such."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return _number(name, int, value)
    if isinstance(value, float):
        return _number(name, float, value)
    if isinstance(value, (list, tuple)) and not any(isinstance(x, (list, dict)) for x in value):
        return [_plain(name, one) for one in value]
    raise ValueError(f"{name} must be a plain value, not {shown(value)}")
