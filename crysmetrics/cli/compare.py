"""`crysmetrics compare`, a gate for CI, and `crysmetrics rank`, a leaderboard."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from crysmetrics.cli.options import (
    Finite,
    check_outputs,
    json_option,
    listed,
    overwrite_option,
    quiet_option,
    user_errors,
)

if TYPE_CHECKING:
    from crysmetrics.reporting.compare import Change
    from crysmetrics.reporting.gates import Gate


@click.command()
@click.argument("base", metavar="BASE")
@click.argument("candidate", metavar="CAND")
@click.option(
    "--allow",
    "tolerances",
    multiple=True,
    metavar="KEY=NUMBER",
    help="Let a metric get so much worse, in its unit; repeatable.  [default: 0]",
)
@click.option(
    "--config",
    metavar="GATE.toml",
    help="Read tolerances from a table [allow], metrics = [...] and level; options go before it.",
)
@click.option(
    "--metrics",
    metavar="LIST",
    help="Look at these comma-separated keys; at a short list of telling ones by default.",
)
@click.option("--all", "every", is_flag=True, help="Look at every metric.")
@click.option(
    "--level",
    type=Finite(min=0, max=0.5, min_open=True, max_open=True),
    metavar="X",
    help="Fail a run as good as its baseline with this chance, over all metrics.  [default: 0.05]",
)
@click.option(
    "--junit", metavar="FILE.xml", help="Write JUnit XML with a test case for each metric."
)
@click.option(
    "--markdown", metavar="FILE.md", help="Write a table in Markdown; - for standard output."
)
@json_option
@quiet_option
@overwrite_option
@user_errors
def compare(base: str, candidate: str, **options: Any) -> None:
    """Tell what changed from BASE to CAND, and whether it got worse.

    A metric fails if it got worse by more than is allowed and by more than chance explains: with
    all metrics together, a run that is as good as its baseline fails with a probability of at most
    5 % (Holm's procedure). Metrics that depend on the number of structures are compared only
    between sets of equal size. The exit status is 0; 1 if a metric fails; or 2 if the results can't
    be compared, because features, settings, protocols or references differ, or a file is damaged.

    BASE and CAND are folders of results, or their files metrics.json.
    """
    from crysmetrics.reporting.compare import changes
    from crysmetrics.reporting.documents import check_comparable, load_document

    paths = (options["junit"], options["markdown"], options["json_path"])
    check_outputs(options["overwrite"], *paths)
    gate = _gate(**{k: options[k] for k in ("config", "tolerances", "metrics", "every", "level")})
    documents = {"BASE": load_document(base), "CAND": load_document(candidate)}
    check_comparable(documents)
    found = changes(
        documents["BASE"], documents["CAND"], gate.allow, gate.metrics, level=gate.level
    )
    _write_changes(found, base, candidate, gate.level, *paths)
    if not options["quiet"]:
        _show_changes(found, gate, documents, stderr="-" in paths)
    if any(change.failed for change in found):
        sys.exit(1)


def _gate(
    config: str | None,
    tolerances: tuple[str, ...],
    metrics: str | None,
    every: bool,
    level: float | None,
) -> Gate:
    """Read the gate of a file, with what the command line says instead."""
    from crysmetrics.errors import UserError
    from crysmetrics.reporting.gates import Gate, load_gate, parse_tolerance

    if every and metrics is not None:
        raise UserError("Give --all or --metrics, not both.")
    gate = Gate({}) if config is None else load_gate(config)
    keys: Any = gate.metrics
    if every:
        keys = "all"
    elif metrics is not None:
        keys = tuple(listed(metrics, "--metrics"))
    allow = {**gate.allow, **dict(map(parse_tolerance, tolerances))}
    return Gate(allow, keys, gate.level if level is None else level)


def _write_changes(
    found: Sequence[Change],
    base: str,
    candidate: str,
    level: float,
    junit: str | None,
    markdown: str | None,
    json_path: str | None,
) -> None:
    """Write the files asked for."""
    from crysmetrics.io.json_files import write_json
    from crysmetrics.reporting.changes import change_json, change_junit, change_markdown

    _write(junit, change_junit(found, base, candidate))
    _write(markdown, change_markdown(found, base, candidate, level))
    if json_path is not None:
        write_json(change_json(found, base, candidate, level), json_path)


def _show_changes(
    found: Sequence[Change], gate: Gate, documents: Mapping[str, Mapping[str, Any]], stderr: bool
) -> None:
    """Print the table, and how many metrics are left out of it."""
    from crysmetrics.console import console
    from crysmetrics.reporting.changes import change_table

    screen = console(stderr=stderr, piped_width=200)
    screen.print(change_table(found))
    present = {key for document in documents.values() for key in document["metrics"]}
    rest = len(present - {change.key for change in found})
    if rest and gate.metrics is None:
        screen.print(f"{rest} other metrics are no part of the gate; --all includes them.")


@click.command()
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True)
@click.option(
    "--by",
    metavar="KEY",
    help="Order the table by this metric; by the mean of the ranks in all metrics by default.",
)
@click.option("--metrics", metavar="LIST", help="Show these comma-separated keys; all by default.")
@click.option("-o", "--output", metavar="FILE.csv", help="Write the table as CSV.")
@click.option("--markdown", metavar="FILE.md", help="Write it in Markdown; - for standard output.")
@click.option(
    "--latex",
    metavar="FILE.tex",
    help="Write it in LaTeX, the best of each column in bold; - for standard output.",
)
@quiet_option
@overwrite_option
@user_errors
def rank(
    results: tuple[str, ...],
    by: str | None,
    metrics: str | None,
    output: str | None,
    markdown: str | None,
    latex: str | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Rank many results, the best first.

    RESULTS are folders that `evaluate -o` wrote, of one or several models, or files metrics.json.
    They must have been made alike: equal features, settings, protocol and reference.
    """
    from crysmetrics.cli.options import save_table
    from crysmetrics.reporting.documents import check_comparable, load_document, result_paths
    from crysmetrics.reporting.latex import latex_table
    from crysmetrics.reporting.leaderboard import (
        leaderboard,
        leaderboard_markdown,
        leaderboard_notes,
        leaderboard_table,
        run_names,
    )

    check_outputs(overwrite, output, markdown, latex)
    paths = result_paths(results)
    documents = dict(zip(run_names(paths), map(load_document, paths), strict=True))
    check_comparable(documents)
    keys = None if metrics is None else listed(metrics, "--metrics")
    table = leaderboard(documents, by, keys)
    if output is not None:
        save_table(table, output)
    notes = leaderboard_notes(documents, table)
    _write(markdown, leaderboard_markdown(table, notes))
    ordered = {name: documents[name] for name in table["model"]}
    _write(latex, latex_table(ordered, columns=keys))
    if not quiet:
        from crysmetrics.console import console

        # A number that is cut short would be another number.
        screen = console(stderr="-" in (markdown, latex), piped_width=4000)
        screen.print(leaderboard_table(table))
        for note in notes:
            screen.print(note)


def _write(path: str | None, text: str) -> None:
    from pathlib import Path

    from crysmetrics.io.atomic import atomic_file

    if path == "-":
        click.echo(text, nl=False)
    elif path is not None:
        with atomic_file(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
