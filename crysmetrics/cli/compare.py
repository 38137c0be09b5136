"""`crysmetrics compare`, a gate for CI, and `crysmetrics rank`, a leaderboard."""

from __future__ import annotations

import sys

import click

from crysmetrics.cli.options import (
    check_outputs,
    json_option,
    overwrite_option,
    quiet_option,
    user_errors,
)


@click.command()
@click.argument("base", metavar="BASE.json")
@click.argument("candidate", metavar="CAND.json")
@click.option(
    "--allow",
    "tolerances",
    multiple=True,
    metavar="KEY=NUMBER",
    help="How much worse a metric may get, in its unit; 0 if not given.",
)
@click.option(
    "--config",
    metavar="GATE.toml",
    help="Tolerances in a table [allow], and metrics = [...]; --allow goes before it.",
)
@click.option("--metrics", metavar="LIST", help="Comma-separated keys to look at; all by default.")
@click.option("--junit", metavar="FILE.xml", help="Write JUnit XML, a test case for each metric.")
@click.option(
    "--markdown", metavar="FILE.md", help="Write a table in Markdown; - for standard output."
)
@json_option
@quiet_option
@overwrite_option
@user_errors
def compare(
    base: str,
    candidate: str,
    tolerances: tuple[str, ...],
    config: str | None,
    metrics: str | None,
    junit: str | None,
    markdown: str | None,
    json_path: str | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """What changed from BASE to CAND, and whether it got worse.

    A metric fails when it got worse by more than allowed and by more than 1.96 standard errors of
    the difference. The status is 0, 1 if a metric fails, and 2 if the results can't be compared:
    their features, settings, protocols or references differ. Folders of results do as well.
    """
    import json

    from rich.console import Console

    from crysmetrics.reporting.changes import (
        change_json,
        change_junit,
        change_markdown,
        change_table,
    )
    from crysmetrics.reporting.compare import (
        Gate,
        changes,
        check_comparable,
        load_document,
        load_gate,
        parse_tolerance,
    )

    check_outputs(overwrite, junit, markdown, json_path)
    gate = Gate({}) if config is None else load_gate(config)
    allow = {**gate.allow, **dict(map(parse_tolerance, tolerances))}
    keys = [k.strip() for k in metrics.split(",")] if metrics else gate.metrics
    documents = {"BASE": load_document(base), "CAND": load_document(candidate)}
    check_comparable(documents)
    found = changes(documents["BASE"], documents["CAND"], allow, keys)
    outputs = (
        (junit, change_junit(found, base, candidate)),
        (markdown, change_markdown(found, base, candidate)),
        (json_path, json.dumps(change_json(found, base, candidate), indent=2) + "\n"),
    )
    for path, text in outputs:
        _write(path, text)
    if not quiet:
        console = Console(stderr="-" in (markdown, json_path))
        if not console.is_terminal:
            console.width = 200
        console.print(change_table(found))
    if any(change.failed for change in found):
        sys.exit(1)


@click.command()
@click.argument("results", metavar="METRICS.json...", nargs=-1, required=True)
@click.option(
    "--by",
    metavar="KEY",
    help="The metric that orders the table; the mean of the ranks in all metrics by default.",
)
@click.option("--metrics", metavar="LIST", help="Comma-separated keys; all by default.")
@click.option("-o", "--output", metavar="FILE.csv", help="Write the table as CSV.")
@click.option("--markdown", metavar="FILE.md", help="Write it in Markdown; - for standard output.")
@quiet_option
@overwrite_option
@user_errors
def rank(
    results: tuple[str, ...],
    by: str | None,
    metrics: str | None,
    output: str | None,
    markdown: str | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """A leaderboard over many results, the best first.

    Results must have been made alike: equal features, settings, protocol and reference.
    """
    from rich.console import Console

    from crysmetrics.cli.options import save_table
    from crysmetrics.reporting.compare import check_comparable, load_document
    from crysmetrics.reporting.leaderboard import (
        leaderboard,
        leaderboard_markdown,
        leaderboard_table,
        run_names,
    )

    check_outputs(overwrite, output, markdown)
    documents = dict(
        zip(run_names(results), (load_document(path) for path in results), strict=True)
    )
    check_comparable(documents)
    keys = [key.strip() for key in metrics.split(",")] if metrics else None
    table = leaderboard(documents, by, keys)
    if output is not None:
        save_table(table, output)
    _write(markdown, leaderboard_markdown(table))
    if not quiet:
        console = Console(stderr=markdown == "-")
        if not console.is_terminal:
            console.width = 4000  # a number that is cut is none
        console.print(leaderboard_table(table))


def _write(path: str | None, text: str) -> None:
    from pathlib import Path

    from crysmetrics.io.atomic import atomic_file

    if path == "-":
        click.echo(text, nl=False)
    elif path is not None:
        with atomic_file(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
