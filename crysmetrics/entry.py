"""The program `crysmetrics`, and how a program begins: signals are caught before all imports."""

from __future__ import annotations

from importlib import import_module

from crysmetrics import interrupts


def main() -> None:
    """Run `crysmetrics`."""
    run("crysmetrics.cli")


def run(module: str) -> None:
    """Run the group of commands that a module holds as `main`."""
    try:
        interrupts.catch_signals()
        import_module(module).main()
    except BaseException as error:
        if interrupts.is_ending():
            interrupts.end(error)
        raise
