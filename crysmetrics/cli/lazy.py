"""A group of commands whose modules are imported when they are named."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Imports a command's module when it is named, so that --help answers at once.

    Args:
        commands_in: command -> module that holds it under its own name, with `_` for `-`.
        program: its name on the command line.
        options: of `click.Group`.
    """

    def __init__(
        self, *args: Any, commands_in: Mapping[str, str], program: str = "", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.commands_in = commands_in
        self.program = program

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run as a program, with what the command line says, unless anything is given."""
        if args or options:
            return super().__call__(*args, **options)
        from crysmetrics.cli.program import run_program

        run_program(self, self.program)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the table."""
        return list(self.commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; None for a name that is none."""
        module = self.commands_in.get(cmd_name.replace("_", "-"))
        if module is None:
            return None
        command: click.Command = getattr(import_module(module), cmd_name.replace("-", "_"))
        return command
