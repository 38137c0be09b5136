"""The program `crysgen`."""

from __future__ import annotations

from crysmetrics.entry import run


def main() -> None:
    """Run `crysgen`."""
    run("crysgen.cli")
