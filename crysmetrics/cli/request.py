"""What a command was asked: its shared options, gathered into one `Request`.

A command says which options it has, and gets a `Run` (how features are computed),
`EvaluationSettings` (what decides the numbers) and its outputs, in place of a dozen parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from crysmetrics.cli.options import (
    FAILURE_NOTES,
    SEED,
    Command,
    Finite,
    cache_option,
    check_outputs,
    cif_column_option,
    device_option,
    id_column_option,
    json_option,
    overwrite_option,
    per_structure_option,
    progress,
    quiet_option,
    show,
    user_errors,
    workers_option,
)
from crysmetrics.features.registry import BACKENDS, FEATURES, backends
from crysmetrics.metrics.settings import EvaluationSettings

if TYPE_CHECKING:
    from crysmetrics.features.extractor import Run
    from crysmetrics.reporting.report import Report


def _backend(*features: str) -> Callable[[Command], Command]:
    """Make the option that chooses whose code computes these features."""
    known = backends(features)
    words = ", ".join(f"{name}: {BACKENDS[name]}" for name in known)
    return click.option(
        "--backend",
        type=click.Choice(known),
        default=known[0],
        show_default=True,
        help=f"Compute features by this code; {words}.",
    )


_RUN: dict[str, Callable[[Command], Command]] = {
    "fingerprint-backend": _backend("crystalnn", "magpie"),
    "alignn-backend": _backend("alignn"),
    "backend": _backend(*FEATURES),
    "alignn": click.option(
        "--alignn",
        metavar="WEIGHTS",
        help="Use published weights such as mp_e_form_alignn; ours by default.",
    ),
    "device": device_option,
    "cache": cache_option,
    "dask": click.option(
        "--dask",
        metavar="SCHEDULER",
        help="Compute features on a Dask cluster: its address, or its file (extra: dask).",
    ),
    "id_column": id_column_option,
    "cif_column": cif_column_option,
    "workers": workers_option,
}
READING = ("id_column", "cif_column", "workers")
"""Options of commands that read sets."""
FINGERPRINTS = ("fingerprint-backend", "cache", "dask", *READING)
"""Options of commands that compute fingerprints."""
NETWORK = ("alignn-backend", "alignn", "device", "cache", "dask", *READING)
"""Options of commands that run ALIGNN."""
EVERYTHING = ("backend", "alignn", "device", "cache", "dask", *READING)
"""Options of commands that may compute any feature."""


def run_options(features: Sequence[str]) -> tuple[str, ...]:
    """List the options of a command that computes these features."""
    if not features:
        return READING
    networks = ("alignn", "device") if "alignn" in features else ()
    backend = f"backend of {', '.join(features)}"
    if len(backends(features)) > 1:
        _RUN.setdefault(backend, _backend(*features))
        return (backend, *networks, "cache", "dask", *READING)
    return (*networks, "cache", "dask", *READING)


def _setting_option(name: str) -> Callable[[Command], Command]:
    """Make the option of a field of `EvaluationSettings`, as that declares it."""
    declared = next(field for field in fields(EvaluationSettings) if field.name == name)
    default, more = declared.default, declared.metadata
    flag = f"--{name.replace('_', '-')}"
    kind: click.ParamType | None = None
    if isinstance(default, bool):
        flag = f"{flag}/--no-{name}"
    elif isinstance(default, float):
        kind = Finite(min=0, min_open=more["positive"])
    elif isinstance(default, int):
        kind = SEED
    elif hasattr(default, "name"):  # a usual choice of several numbers
        default = default.name
    return click.option(
        flag,
        name,
        type=kind,
        default=default,
        show_default=True,
        metavar=more["metavar"] or _placeholder(default),
        help=more["meaning"],
    )


def _placeholder(default: Any) -> str | None:
    """Name the value of an option in its help, by the type of its default."""
    if isinstance(default, bool):
        return None
    return {int: "N", float: "X"}.get(type(default))


MATCHING = ("metre", "stol", "angle_tol", "ltol")
"""Settings of what matches."""
_OUTPUT: dict[str, Callable[[Command], Command]] = {
    "per_structure": per_structure_option,
    "json": json_option,
    "quiet": quiet_option,
    "overwrite": overwrite_option,
}
WITH_TABLE = ("per_structure", "json", "quiet", "overwrite")
"""Outputs of commands that have a row for each structure."""
_OUTPUT_NAMES = {
    "per_structure": "per_structure_path",
    "json": "json_path",
    "quiet": "quiet",
    "overwrite": "overwrite",
}


@dataclass(frozen=True)
class Request:
    """The shared options of one call.

    Attributes:
        run: how features are computed.
        settings: what decides the numbers.
        chosen: names of the settings that were given on the command line.
        json_path, per_structure_path: files asked for.
        quiet, overwrite: as given.
    """

    run: Run
    settings: EvaluationSettings
    chosen: frozenset[str] = frozenset()
    json_path: str | None = None
    per_structure_path: str | None = None
    quiet: bool = False
    overwrite: bool = False

    def check_outputs(self, *more: str | None) -> None:
        """Refuse outputs that exist, these and those of the shared options."""
        check_outputs(self.overwrite, self.json_path, self.per_structure_path, *more)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show progress bars, unless quiet."""
        with progress(self.quiet):
            yield

    def evaluate(
        self,
        measures: Sequence[str],
        gen: Any,
        ref: Any = None,
        train: Any = None,
        *,
        metrics: list[str] | None = None,
        lenient: bool = False,
    ) -> Report:
        """Run some measures, with progress; see `evaluation.evaluate_measures`."""
        from crysmetrics.evaluation import evaluate_measures

        with self.progress():
            return evaluate_measures(
                measures,
                gen,
                ref,
                self.settings,
                train=train,
                metrics=metrics,
                run=self.run,
                lenient=lenient,
            )

    def show(self, report: Report, notes: Mapping[str, str] = FAILURE_NOTES) -> None:
        """Write the files asked for, then the table and the failures for people."""
        show(
            report,
            json_path=self.json_path,
            quiet=self.quiet,
            per_structure_path=self.per_structure_path,
            notes=notes,
        )


def requested(
    run: Sequence[str] = READING,
    settings: Sequence[str] = (),
    output: Sequence[str] = ("json", "quiet", "overwrite"),
) -> Callable[[Command], Command]:
    """Give a command these options; it gets them as `request`, and user errors are caught.

    Args:
        run: names in READING, FINGERPRINTS, NETWORK or EVERYTHING.
        settings: names of fields of `EvaluationSettings`.
        output: of `per_structure`, `json`, `quiet`, `overwrite`.
    """
    chosen = [
        *(_setting_option(name) for name in settings),
        *(_RUN[name] for name in run),
        *(_OUTPUT[name] for name in output),
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return command(*args, request=_gather(kwargs, run, settings, output), **kwargs)

        decorated = user_errors(wrapped)
        for option in reversed(chosen):
            decorated = option(decorated)
        return decorated

    return decorate


def _gather(
    kwargs: dict[str, Any], run: Sequence[str], settings: Sequence[str], output: Sequence[str]
) -> Request:
    """Take the shared options out of a command's parameters."""
    from crysmetrics.device import refuse_missing_device
    from crysmetrics.features.cache import open_cache
    from crysmetrics.features.extractor import Run

    context = click.get_current_context()
    given = frozenset(
        name
        for name in settings
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    )
    outputs = {_OUTPUT_NAMES[name]: kwargs.pop(_OUTPUT_NAMES[name]) for name in output}
    chosen: dict[str, Any] = {name: kwargs.pop(name) for name in settings}
    for declared in fields(EvaluationSettings):
        parse = declared.metadata.get("parse")
        if declared.name in chosen and parse is not None:
            chosen[declared.name] = parse(chosen[declared.name])
    how: dict[str, Any] = {}
    for name in run:
        field = "backend" if "backend" in name else name
        how[field] = kwargs.pop(field)
    if "device" in how and how.get("dask") is None:  # a cluster's workers have their own
        refuse_missing_device(how["device"])
    if "cache" in how:
        how["cache"] = open_cache(how["cache"])
    # user_errors looks here whether to be quiet.
    return Request(Run(**how), EvaluationSettings(**chosen), given, **outputs)
