"""`crysmetrics match`: how often predictions are the reference structures."""

from __future__ import annotations

from dataclasses import replace

import click

from crysmetrics.cli.options import ref_argument, save_table
from crysmetrics.cli.request import MATCHING, WITH_TABLE, Request, requested
from crysmetrics.metrics.settings import VALIDITY

_NOTES = {
    "gen": "can't be read, or are for no reference; they match none, but may count for METRe",
    "ref": "can't be read, and are left out, or have no prediction, and count as not matched",
}


@click.command()
@click.argument("pred", metavar="PRED")
@ref_argument
@click.option(
    "--top",
    default="1",
    show_default=True,
    metavar="LIST",
    help="Count the best of the first so many predictions; comma-separated numbers such as 1,5,20.",
)
@click.option(
    "--in-order",
    is_flag=True,
    help="Pair the structures of both sets in their order, not by ids.",
)
@click.option(
    "--per-reference",
    "per_reference_path",
    metavar="FILE.csv",
    help="Write a table with one row for each reference.",
)
@requested(
    settings=(*MATCHING, *VALIDITY),
    output=WITH_TABLE,
)
def match(
    pred: str,
    ref: str,
    top: str,
    in_order: bool,
    per_reference_path: str | None,
    request: Request,
) -> None:
    """Compute match rate, RMSE, cRMSE and METRe of predictions against references.

    Predictions are paired by ref_id and rank of the samples.csv in PRED, if there is one, else by
    ids (file names). match_rate counts all pairs; match_rate_valid, as most papers do, only those
    of which both structures are valid. A reference without a prediction counts as not matched.
    KEY_top5 is KEY for the best of the first five predictions.
    """
    request.check_outputs(per_reference_path)
    pairing = "order" if in_order else "auto"
    settings = replace(request.settings, top=_numbers(top), pairing=pairing)
    report = replace(request, settings=settings).evaluate(["match"], pred, ref)
    if per_reference_path is not None:
        save_table(report.per_structure["ref"], per_reference_path)
    request.show(report, _NOTES)


def _numbers(text: str) -> tuple[int, ...]:
    from crysmetrics.errors import UserError

    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise UserError(f"--top takes whole numbers from 1, such as 1,5,20; not {text!r}.")
    return numbers
