"""Commands whose help lists options in sections with titles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Decorator that gives a command an option."""


class SectionedCommand(click.Command):
    """A command with options in sections.

    Args:
        sections: title -> options; those in none stand last, under the usual title.
        lists: title -> rows (name, text) that stand after the options.
        options: of `click.Command`.
    """

    def __init__(
        self,
        *args: Any,
        sections: Mapping[str, Sequence[Option]],
        lists: Mapping[str, Sequence[tuple[str, str]]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.sections = {title: _names(given) for title, given in sections.items()}
        self.lists = dict(lists or {})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section after section."""
        sectioned = {name for names in self.sections.values() for name in names}
        params = self.get_params(ctx)
        rest = [param for param in params if param.name not in sectioned]
        parts = {
            title: [param for param in params if param.name in names]
            for title, names in self.sections.items()
        }
        for title, members in (parts | {"Other options": rest}).items():
            rows = [row for param in members if (row := param.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        for title, entries in self.lists.items():
            with formatter.section(title):
                formatter.write_dl(list(entries))


def with_options(
    command: Callable[..., Any], sections: Mapping[str, Sequence[Option]]
) -> Callable[..., Any]:
    """Give a command all options of some sections, in their order."""
    for option in reversed([option for options in sections.values() for option in options]):
        command = option(command)
    return command


def _names(options: Sequence[Option]) -> list[str]:
    """Find the parameters that some decorators add."""

    def nothing() -> None:
        pass

    for option in options:
        option(nothing)
    return [param.name or "" for param in getattr(nothing, "__click_params__", [])]
