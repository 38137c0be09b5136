"""Options that mean the same in every command of crysgen."""

from __future__ import annotations

from pathlib import Path

import click

from crysmetrics.errors import InputError, UserError

model_option = click.option(
    "--model",
    metavar="NAME|PATH",
    help="Use this model: a name that `crysgen models` lists, a kind such as crysldm, a "
    ".safetensors file or the folder of a training run.",
)


MOST_SITES = 40
"""Non-equivalent sites that can be asked for."""


class BatchSize(click.ParamType):
    """`auto` or a number."""

    name = "batch size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Convert `auto` to None, other texts to numbers."""
        if value == "auto" or value is None:
            return None
        if str(value).isdecimal() and int(str(value)) > 0:
            return int(str(value))
        self.fail(f"{value!r} is neither auto nor a positive number.", param, ctx)


batch_size_option = click.option(
    "--batch-size",
    type=BatchSize(),
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Make N structures together, or half as many where memory runs out.",
)


def space_group_number(text: str | None) -> int | None:
    """Parse a space group, given as number or Hermann-Mauguin symbol, into its number.

    Raises:
        UserError: if there is none.
    """
    if text is None:
        return None
    if text.isdecimal():
        if 1 <= int(text) <= 230:
            return int(text)
        raise UserError(f"Space groups have numbers from 1 to 230; not {text}.")
    import gemmi

    found = gemmi.find_spacegroup_by_name(text)
    if found is None:
        raise UserError(f"There is no space group {text!r}; give a number or a symbol like Fm-3m.")
    return int(found.number)


def parse_sites(text: str) -> tuple[int, ...]:
    """Read non-equivalent sites such as `Li:2,O:3` as atomic numbers, element after element.

    Raises:
        UserError: if it is something else.
    """
    from crysmetrics.io.elements import SYMBOLS

    found: list[int] = []
    for part in text.split(","):
        symbol, _, count = part.strip().partition(":")
        if symbol not in SYMBOLS[1:] or not (count or "1").isdecimal() or int(count or 1) < 1:
            raise UserError(f"Sites are elements with numbers, as Li:2,O:3; not {part.strip()!r}.")
        found += [SYMBOLS.index(symbol)] * int(count or 1)
    if len(found) > MOST_SITES:
        raise UserError(f"At most {MOST_SITES} non-equivalent sites can be asked for.")
    return tuple(found)


def excluded_ids(text: str | None, path: Path | None) -> tuple[str, ...]:
    """Read the ids of known structures that must not be proposed, sorted.

    Raises:
        InputError: if the file can't be read.
    """
    ids = {part.strip() for part in (text or "").split(",")}
    if path is not None:
        try:
            ids |= {line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines()}
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} can't be read as a list of ids ({error}).") from error
    return tuple(sorted(ids - {""}))
