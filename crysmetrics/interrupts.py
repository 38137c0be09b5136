"""Ends by signal: a program that is interrupted or terminated ends within a second, tidily.

A signal (Ctrl-C, a scheduler's SIGTERM, a closed terminal) raises `Interrupted` in the main thread,
so that blocks of `with` and `finally` clean up. Where they can't, because a module is being
imported, or the main thread is inside a library that takes its time before Python's next step,
what is registered in `on_forced_exit` is removed, and the process ends: at once, or after `GRACE`
seconds by a thread that watches.

Only programs catch signals (`catch_signals`); in notebooks and scripts Ctrl-C stays what it is.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import ClassVar, NoReturn

GRACE = 0.4
"""Seconds from a signal to the end of the process, whatever its main thread does."""
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end.

    Attributes:
        status: of the process, 128 + the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class _State:
    """What the signal handler and the watching thread share."""

    is_caught: bool = False
    """Whether there are handlers."""
    number: int | None = None
    """Of the signal that came."""
    is_raised: bool = False
    """Whether the main thread knows."""
    elsewhere: int = 0
    """Blocks that have handlers of their own."""
    advice: str = ""
    held: int = 0
    """Blocks that must be finished first."""
    callbacks: ClassVar[dict[object, Callable[[], object]]] = {}


def catch_signals() -> None:
    """Let signals raise `Interrupted` in the main thread, for a program to call at its start."""
    caught = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    # What is ignored (by nohup, in background jobs of scripts) stays ignored.
    caught = [number for number in caught if signal.getsignal(number) != signal.SIG_IGN]
    if _State.is_caught or threading.current_thread() is not threading.main_thread():
        return
    _State.is_caught = True
    for number in caught:
        signal.signal(number, _interrupt)
    if sys.platform == "win32":
        return
    # The system's handler writes here at once, even while Python's has to wait.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def is_ending() -> bool:
    """Tell whether a signal has come, so that nothing is worth waiting for."""
    return _State.number is not None


def end_at_once() -> None:
    """Let further signals end the process at once, when its work is done."""
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _interrupt:
            signal.signal(number, lambda number, frame: os._exit(128 + number))


@contextmanager
def on_forced_exit(callback: Callable[[], object]) -> Iterator[None]:
    """Call a function if the process is ended within this block without its cleaning up."""
    key = object()
    _State.callbacks[key] = callback
    try:
        yield
    finally:
        del _State.callbacks[key]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal wait for the end of this block, which must be short."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
    if _State.number is not None and not _State.held and not _State.is_raised:
        _raise()


@contextmanager
def answered_elsewhere() -> Iterator[None]:
    """Leave signals to handlers that this block installs, which may take their time."""
    _State.elsewhere += 1
    try:
        yield
    finally:
        _State.elsewhere -= 1


@contextmanager
def advice(text: str) -> Iterator[None]:
    """Say this to users who interrupt the program within this block."""
    before, _State.advice = _State.advice, text
    yield
    _State.advice = before  # after an interrupt it is still to be said


def say_interrupted() -> None:
    """Write on standard error that the program was interrupted, and the advice for that."""
    text = f"; {_State.advice}" if _State.advice else ""
    write_unless_blocked(f"Interrupted{text}.\n".encode("utf-8", "backslashreplace"))


def write_unless_blocked(data: bytes) -> None:
    """Write to standard error past its stream, which another thread may be waiting in."""
    with suppress(OSError, ValueError):
        if sys.platform == "win32" or select.select([], [2], [], 0)[1]:
            os.write(2, data)


def exit_now(status: int) -> NoReturn:
    """End the process without waiting for its threads, its workers or who reads its output."""
    for callback in reversed([*_State.callbacks.values()]):
        with suppress(Exception):
            callback()
    os._exit(status)


def end(error: BaseException) -> NoReturn:
    """End the process after an interrupt, in a line and with its status."""
    say_interrupted()
    number = _State.number or signal.SIGINT
    exit_now(error.status if isinstance(error, Interrupted) else 128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _State.number is None:  # a second signal does not disturb the cleaning up
        _State.number = number
        if _State.held:
            return
        if _is_importing(frame):
            say_interrupted()
            exit_now(128 + number)
        _raise()


def _is_importing(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported: some compiled ones abort if that raises."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _raise() -> NoReturn:
    _State.is_raised = True
    raise Interrupted(_State.number or signal.SIGINT)


def _watch(reading: int) -> None:
    """Wait, in a thread, for a signal, and then for the process to end, which must not be late."""
    caught = {getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)}
    while not caught.intersection(received := os.read(reading, 1)) or _State.elsewhere:
        continue
    time.sleep(GRACE)
    say_interrupted()
    exit_now(128 + received[0])
