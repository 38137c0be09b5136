"""What people see: one console for tables and messages, and text of others made harmless.

Names of files and ids come from anywhere. In a terminal, control characters move the cursor or
rename the window, marks of direction turn the text round, line ends fake other messages, and square
brackets are rich's markup. None of it gets there: characters are escaped as Python writes them, and
markup is off.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160
"""Columns of tables that go elsewhere than to a terminal, which are not folded to a guess."""

# C0 and C1 controls, soft hyphen, zero-width and bidirectional marks, line and paragraph
# separators, interlinear marks, tags, and halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def shown(text: object) -> str:
    r"""Return text of a user's on one line, with what a terminal acts on escaped (`\x1b`)."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def echo(text: str = "", *, err: bool = False) -> None:
    """Print one line for people, as `shown` gives it; texts that are data go elsewhere."""
    import click

    click.echo(shown(text), err=err)


def as_text(renderable: Any) -> str:
    """Write a table of rich as plain text, harmless to terminals."""
    import io

    text = io.StringIO()
    console(file=text).print(renderable)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def console(
    *, stderr: bool = False, piped_width: int = PIPED_WIDTH, file: IO[str] | None = None
) -> Console:
    """Return the console of tables, in which every string is given by `shown`, without markup.

    Args:
        stderr: print on standard error.
        piped_width: columns where the output is no terminal.
        file: print there instead.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(shown(text), **options)

        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError

    made = Plain(stderr=stderr, file=file, markup=False, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = piped_width
    return made


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, which takes an s for more than one: `1 way`, `2 ways`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
