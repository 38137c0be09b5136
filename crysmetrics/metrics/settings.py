"""What decides the numbers beside structures and features, each setting declared once.

Its default, its meaning and how it is given on the command line stand here; options, JSON and
comparisons follow. Imports nothing heavy: `--help` reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from crysmetrics.errors import UserError
from crysmetrics.matching.tolerances import TOLERANCES, Tolerances, parse_tolerances

ROLE_TITLES = {"gen": "generated", "ref": "reference", "train": "training"}
"""The sets that metrics compare, in a word for people."""


@dataclass(frozen=True)
class Thresholds:
    """Largest distances at which one crystal covers another (CDVAE, Appendix G)."""

    structure: float
    composition: float
    name: str | None = None


THRESHOLDS: dict[str, Thresholds] = {
    "mp20": Thresholds(0.4, 10.0, "mp20"),
    "perov5": Thresholds(0.2, 4.0, "perov5"),
    "carbon24": Thresholds(0.2, 4.0, "carbon24"),
}


def parse_thresholds(text: str) -> Thresholds:
    """Read thresholds from a data set's name, or from `STRUCTURE,COMPOSITION`.

    Raises:
        UserError: if it is neither.
    """
    if text in THRESHOLDS:
        return THRESHOLDS[text]
    try:
        structure, composition = (float(part) for part in text.split(","))
    except ValueError:
        known = ", ".join(THRESHOLDS)
        raise UserError(
            f"Thresholds are {known}, or two numbers such as 0.4,10 (structure, composition); "
            f"not {text!r}."
        ) from None
    if not (0 <= structure < math.inf and 0 <= composition < math.inf):
        raise UserError(f"Thresholds must be finite and not negative; not {text!r}.")
    return Thresholds(structure, composition)


def parse_subset(text: str) -> tuple[bool, int | None]:
    """Split `all`, `N`, `valid:all`, `valid` (the same) or `valid:N` into its parts.

    Returns:
        Whether only valid structures enter, and how many; None for all of them.

    Raises:
        UserError: if it is none of these.
    """
    match = re.fullmatch(r"(all)|(valid(?::all)?)|(valid:)?([1-9][0-9]{0,17})", text)
    if match is None:
        raise UserError(f"A subset is all, a number, valid:all, or valid:NUMBER; not {text!r}.")
    return bool(match[2] or match[3]), int(match[4]) if match[4] else None


def _setting(
    default: Any,
    meaning: str,
    metavar: str | None = None,
    *,
    parse: Callable[[str], Any] | None = None,
    positive: bool = False,
) -> Any:
    """Declare a setting that has an option on the command line.

    Args:
        default: its value unless given; decides the kind of option.
        meaning: for `--help`.
        metavar: placeholder of the value.
        parse: reads the value from text, where that is not the value itself.
        positive: whether 0 is refused.
    """
    metadata = {"meaning": meaning, "metavar": metavar, "parse": parse, "positive": positive}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that decides a number beside the structures and the features.

    Attributes:
        min_distance: Å; structural validity asks for larger distances.
        min_volume: Å³; structural validity asks for at least this.
        oxidation_states: set of states for composition validity.
        thresholds: of coverage.
        subset: generated structures that enter EMDs: `all`, `N`, `valid:all`, or `valid:N`.
        seed: of all random draws.
        limit: generated structures that are drawn before anything else, if there are more.
        reference_space_groups: the first and the last number of those that reference structures
            may have (within 0.1 Å); the others are left out before anything else.
        top: numbers of predictions among which the best counts, in match rates.
        pairing: what predictions and references are paired by: `auto` or `order`.
        metre: whether all predictions of a composition are compared with all its references.
        stol, angle_tol, ltol: tolerances of StructureMatcher in match rates: of sites as a share
            of (V/N)^(1/3), of angles in degrees, of lengths as a share.
        tolerances: the same of uniqueness and novelty: how far two crystals may differ and still
            count as the same one.
        steps_per_sample: sampling steps (network calls) that one generated structure took.
        protocol: name of the paper's set-up that chose these settings, if one did.

    Raises:
        UserError: if a number is negative, not finite, or 0 where that means nothing, or a subset
            can't be read.
    """

    min_distance: float = _setting(
        0.5, "Call structures valid whose distances are all above this, in Å."
    )
    min_volume: float = 0.1
    oxidation_states: str = _setting(
        "smact14",
        "Judge compositions by these oxidation states: smact14, icsd16, icsd24, icsd24-filtered "
        "(SMACT 4's default), pymatgen_sp or wiki.",
        "SET",
    )
    thresholds: Thresholds = _setting(  # noqa: RUF009 (a field)
        THRESHOLDS["mp20"],
        "Cover within these: mp20, perov5 or carbon24, or a structure and a composition distance "
        "such as 0.4,10.",
        "NAME|S,C",
        parse=parse_thresholds,
    )
    subset: str = _setting(
        "all",
        "Take these generated structures: all, N, valid:all or valid:N (CDVAE's is valid:1000).",
        "SUBSET",
    )
    seed: int = _setting(0, "Seed random draws.")
    limit: int | None = None
    reference_space_groups: tuple[int, int] | None = None
    top: tuple[int, ...] = (1,)
    pairing: str = "auto"
    metre: bool = _setting(
        True, "Compare all predictions with all references of their composition."
    )
    stol: float = _setting(0.5, "Match positions within this share of (V/N)^(1/3).", positive=True)
    angle_tol: float = _setting(10.0, "Match cell angles within so many degrees.", positive=True)
    ltol: float = _setting(0.3, "Match cell lengths within this share.", positive=True)
    tolerances: Tolerances = _setting(  # noqa: RUF009 (a field)
        TOLERANCES["pymatgen"],
        "Call crystals the same within these: pymatgen (0.2,0.3,5), csp (0.3,0.5,10), or those "
        "of lengths, positions and angles (degrees) of its StructureMatcher.",
        "NAME|L,S,A",
        parse=parse_tolerances,
    )
    steps_per_sample: float | None = None
    protocol: str | None = None

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            title = declared.name.replace("_", " ")
            if isinstance(declared.default, float):
                positive = declared.metadata.get("positive", False)
                low = isinstance(value, (int, float)) and (value > 0 if positive else value >= 0)
                if isinstance(value, bool) or not low or not math.isfinite(value):
                    kind = "positive" if positive else "not negative"
                    raise UserError(f"The setting {title} is a number that is {kind}; not {value}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UserError(f"The seed is a whole number from 0; not {self.seed!r}.")
        steps = self.steps_per_sample
        if steps is not None and not (steps > 0 and math.isfinite(steps)):
            raise UserError(f"Steps per sample are a positive number; not {steps}.")
        if not isinstance(self.thresholds, Thresholds):
            raise UserError(f"Thresholds are made by parse_thresholds; not {self.thresholds!r}.")
        if not isinstance(self.tolerances, Tolerances):
            raise UserError(f"Tolerances are made by parse_tolerances; not {self.tolerances!r}.")
        parse_subset(self.subset)

    def as_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Give the settings of these names as plain values."""
        values: dict[str, Any] = {}
        for name in names:
            value = getattr(self, name)
            if isinstance(value, (Thresholds, Tolerances)):
                # Whoever gives the numbers of a usual choice has made that choice.
                value = {k: v for k, v in asdict(value).items() if k != "name"}
            values[name] = value
        return values


VALIDITY = ("oxidation_states", "min_distance")
"""Settings with an option that decide what is valid."""


def options_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """List the settings among these that have an option, and those that a subset depends on."""
    with_option = {field.name for field in fields(EvaluationSettings) if field.metadata}
    more = VALIDITY if "subset" in names else ()
    return tuple(name for name in dict.fromkeys((*names, *more)) if name in with_option)
