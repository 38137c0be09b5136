"""Show progress of long work: silent in a library, a bar where the CLI asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from crysmetrics.console import console, shown
from crysmetrics.interrupts import on_forced_exit, write_unless_blocked

_SHOW_CURSOR = b"\x1b[?25h"
Advance = Callable[[int], None]

_display: ContextVar[object | None] = ContextVar("crysmetrics_progress", default=None)


@contextmanager
def show_progress() -> Iterator[None]:
    """Draw the `task`s of this block as bars on standard error, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), Remaining())
    with (
        Progress(*columns, console=screen, transient=True) as display,
        on_forced_exit(lambda: write_unless_blocked(_SHOW_CURSOR)),
    ):
        token = _display.set(display)
        try:
            yield
        finally:
            _display.reset(token)


@contextmanager
def task(description: str, total: int | None) -> Iterator[Advance]:
    """Begin a task, and yield the function that is told how many items were just finished."""
    display = _display.get()
    if display is None:
        yield lambda count: None
        return
    number = display.add_task(shown(description), total=total)  # type: ignore[attr-defined]
    try:
        yield lambda count: display.advance(number, count)  # type: ignore[attr-defined]
    finally:
        display.remove_task(number)  # type: ignore[attr-defined]
