"""Progress of long work: silent in a library, a rich bar where the CLI asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Advance = Callable[[int], None]

_display: ContextVar[object | None] = ContextVar("crysmetrics_progress", default=None)


@contextmanager
def show_progress() -> Iterator[None]:
    """Within this block, `task`s are drawn as bars on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console, transient=True) as display:
        token = _display.set(display)
        try:
            yield
        finally:
            _display.reset(token)


@contextmanager
def task(description: str, total: int | None) -> Iterator[Advance]:
    """Yields a function that is told how many items were just finished."""
    display = _display.get()
    if display is None:
        yield lambda count: None
        return
    number = display.add_task(description, total=total)  # type: ignore[attr-defined]
    try:
        yield lambda count: display.advance(number, count)  # type: ignore[attr-defined]
    finally:
        display.remove_task(number)  # type: ignore[attr-defined]
