"""`crysgen models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crysmetrics.cli.options import json_option, overwrite_option, user_errors
from crysmetrics.console import echo

if TYPE_CHECKING:
    from crysgen.checkpoints import ModelInfo


@click.command()
@click.argument("name", required=False)
@json_option
@overwrite_option
@user_errors
def models(name: str | None, json_path: str | None, overwrite: bool) -> None:
    """List the models that --model knows by name; with NAME, print that model's card."""
    from crysgen.checkpoints import find_model, known_models
    from crysmetrics.cli.options import check_outputs
    from crysmetrics.errors import UserError

    check_outputs(overwrite, json_path)
    known = known_models()
    if name is not None:
        path = find_model(name)
        known = [model for model in known if model.path == path]
        if not known:
            raise UserError(f"{path} is a file; `crysgen models` takes names.")
    if json_path is not None:
        from crysmetrics.io.json_files import write_json

        rows = [{"name": m.name, "path": str(m.path), "card": m.card} for m in known]
        write_json({"schema": "crysgen/1", "models": rows}, json_path)
    if json_path == "-":
        return
    if name is not None:
        click.echo(_card(known[0]), nl=False)
    elif not known:
        echo("This installation holds no models; `crysgen train` makes one.")
    else:
        _show(known)


def _card(model: ModelInfo) -> str:
    """Return the card for people, or the facts of a model without one."""
    card = model.path.with_suffix(".md")
    if card.is_file():
        return card.read_text(encoding="utf-8")
    from crysmetrics.io.json_files import json_text

    return json_text(model.card)


def _show(known: list[ModelInfo]) -> None:
    from rich.table import Table

    from crysgen.checkpoints import DEFAULT_MODEL, SHIPPED
    from crysmetrics.console import console

    shown = Table(box=None, pad_edge=False)
    for title in ("Name", "Kind", "MB", "Trained on", "From"):
        shown.add_column(title, justify="right" if title == "MB" else "left")
    for model in known:
        shown.add_row(
            model.name + (" (default)" if model.name == DEFAULT_MODEL else ""),
            _text(model.card.get("kind")),
            f"{model.path.stat().st_size / 1e6:.1f}",
            _trained_on(model.card),
            "crysgen" if model.path.parent == SHIPPED else str(model.path.parent),
        )
    screen = console()
    screen.print(shown)
    screen.print()
    screen.print("`crysgen models NAME` prints a card.")


def _trained_on(card: dict[str, Any]) -> str:
    data = card.get("data")
    if isinstance(data, dict) and isinstance(data.get("train"), int):
        return f"{data['train']:,} structures"
    return _text(data) if isinstance(data, str) else ""


def _text(value: Any) -> str:
    return "" if value is None else str(value)
