"""`crysmetrics evaluate`: everything at once, for one generated set or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from crysmetrics.cli.options import Command, energies_option, listed
from crysmetrics.cli.request import EVERYTHING, Request, requested
from crysmetrics.cli.stability import steps_option
from crysmetrics.console import echo
from crysmetrics.metrics.registry import family, family_names
from crysmetrics.metrics.settings import VALIDITY
from crysmetrics.protocols import PROTOCOL_NAMES

if TYPE_CHECKING:
    from crysmetrics.features.sample import Sample
    from crysmetrics.protocols import Plan
    from crysmetrics.reporting.report import Report


def train_option(command: Command) -> Command:
    """Add --train, if there is a metric that compares with the training set."""
    if not any("train" in family(name).roles for name in family_names()):
        return command
    return click.option(
        "--train", metavar="TRAIN", help="Compare with this training set: novelty, leakage, S.U.N."
    )(command)


@click.command()
@click.argument("sets", metavar="GEN... REF", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    help="Write metrics.json, tables, and report.html; with several GEN a folder for each, and a "
    "page and tables over all.",
)
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOL_NAMES),
    default="full",
    show_default=True,
    help="Compute every metric; a few that say different things (brief); or those of a paper, "
    "with its subsets and filters.",
)
@click.option(
    "--metrics",
    metavar="LIST",
    help="Compute these metrics alone: comma-separated keys, or families such as coverage.",
)
@click.option(
    "--columns",
    metavar="LIST",
    help="Put these metrics into table.tex: comma-separated keys.  [default: the protocol's, or "
    "those that published rows have where it has many]",
)
@click.option(
    "--paired",
    is_flag=True,
    help="Pair GEN and REF in their order; equal ids are paired anyway.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Read GEN in parts, for sets that do not fit into memory; uniqueness and match rates "
    "are then left out.",
)
@train_option
@energies_option
@steps_option
@requested(
    run=EVERYTHING,
    settings=("thresholds", "tolerances", "subset", "seed", *VALIDITY),
)
def evaluate(
    sets: tuple[str, ...],
    output: str | None,
    protocol: str,
    metrics: str | None,
    columns: str | None,
    paired: bool,
    stream: bool,
    request: Request,
    steps_per_sample: float | None,
    energies: str | None = None,
    train: str | None = None,
) -> None:
    """Compute every metric of generated structures against a reference.

    GEN may be several sets; the last name is the reference. With -o the results are a folder:
    metrics.json, metrics.csv, per_structure.csv, table.tex with references.bib, table.md and
    report.html, which opens offline in any browser.
    """
    from crysmetrics.errors import UserError
    from crysmetrics.protocols import plan

    if len(sets) < 2:
        raise UserError(
            f"REF is missing: crysmetrics evaluate {sets[0]} REF, where REF is a set of real "
            "crystals, or the name of one such as mp20-test-bt. Validity, uniqueness and diversity "
            "need none (crysmetrics validity GEN)."
        )
    *gen, ref = sets
    if len(gen) > 1 and request.json_path is not None:
        raise UserError("--json goes with one GEN; -o writes a folder for each.")
    if stream and paired:
        raise UserError("--stream holds no pairs; evaluate --paired without it.")
    if stream and energies is not None:
        raise UserError("--stream holds no energies; evaluate --energies without it.")
    keys = None if metrics is None else listed(metrics, "--metrics")
    # Bad options are found before anything is read.
    roles = ("gen", "ref") if train is None else ("gen", "ref", "train")
    settings = replace(request.settings, steps_per_sample=steps_per_sample)
    chosen = plan(protocol, keys, settings, request.chosen, roles)
    names = dict(zip(model_names(gen), gen, strict=True))
    how = _Way(output, paired, stream, energies, chosen_columns(columns))
    reports = _evaluate(chosen, names, ref, train, how, request)
    for name, report in reports.items():
        if len(reports) > 1 and not request.quiet:
            echo()
            echo(f"{name}")
        request.show(report)
    if output is not None and not request.quiet:
        echo(err=True)
        echo(f"Results are in {output}; open {Path(output, 'report.html')}.", err=True)


class _Way(NamedTuple):
    """How sets are evaluated, and where results go."""

    output: str | None
    paired: bool
    stream: bool
    energies: str | None
    columns: list[str] | None


def chosen_columns(text: str | None) -> list[str] | None:
    """Parse --columns into keys of metrics; None where it is not given.

    Raises:
        UserError: if there is no such metric.
    """
    from crysmetrics.errors import UserError
    from crysmetrics.metrics.registry import all_metrics

    if text is None:
        return None
    keys = listed(text, "--columns")
    known = all_metrics()
    for key in keys:
        if key not in known:
            raise UserError(f"There is no metric {key!r} for --columns; known: {', '.join(known)}.")
    return keys


def _evaluate(
    chosen: Plan,
    paths: Mapping[str, str],
    ref: str,
    train: str | None,
    how: _Way,
    request: Request,
) -> dict[str, Report]:
    """Evaluate every set and write its results, all of them or none."""
    from crysmetrics.evaluation import as_sample, evaluate_plan, with_energies_of
    from crysmetrics.io.atomic import atomic_folder, refuse_existing
    from crysmetrics.reporting.writing import refuse_foreign, write_comparison, write_results

    request.check_outputs()
    if how.output is not None:
        refuse_existing(how.output, request.overwrite)
        refuse_foreign(Path(how.output))
    reports: dict[str, Report] = {}
    with ExitStack() as stack:
        stack.enter_context(request.progress())
        folder = None if how.output is None else stack.enter_context(atomic_folder(how.output))
        reference = as_sample(ref, "ref", request.run)
        training = None if train is None else as_sample(train, "train", request.run)
        for name, path in paths.items():
            inner = folder
            if folder is not None and len(paths) > 1:
                inner = folder / name
                inner.mkdir()
            if how.stream:
                report = _streamed(chosen, path, reference, training, request, inner)
            else:
                gen: Any = path
                if how.energies is not None:
                    gen = with_energies_of(path, how.energies, request.run)
                report = evaluate_plan(
                    chosen, gen, reference, request.run, train=training, paired=how.paired
                )
            reports[name] = report
            if inner is not None:
                write_results(report, inner, name, how.columns)
        if folder is not None and len(paths) > 1:
            write_comparison(reports, folder, how.columns)
    return reports


def _streamed(
    chosen: Plan,
    path: str,
    reference: Sample,
    training: Sample | None,
    request: Request,
    folder: Path | None,
) -> Report:
    from crysmetrics.errors import UserError
    from crysmetrics.streaming import evaluate_stream

    if not Path(path).exists():
        raise UserError(f"{path} does not exist.")
    if folder is None:
        return evaluate_stream(chosen, path, reference, request.run, train=training)
    with (folder / "per_structure.csv").open("w", encoding="utf-8") as rows:
        return evaluate_stream(chosen, path, reference, request.run, rows, train=training)


def model_names(paths: Sequence[str]) -> list[str]:
    """Name each path distinctly, fit for a folder: its last parts, without a suffix."""
    from crysmetrics.errors import UserError
    from crysmetrics.io.archives import set_name

    parts = [[p for p in Path(path).absolute().parts if p != "/"] or ["root"] for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]) for p in parts]
        names = [set_name(name) for name in names]
        if len(set(names)) == len(names):
            return names
    raise UserError("The same GEN is given twice.")
