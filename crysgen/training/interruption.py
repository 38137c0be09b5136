"""When a long run saves its state, and signals that end it between two steps, not within one."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nFinishing this step, then saving; a second signal ends at once.\n"


class StopRequests:
    """Remember the first Ctrl-C or SIGTERM instead of dying of it; the second interrupts at once.

    As a context. Python hands signals to the main thread alone: in any other nothing is changed.

    Args:
        notice: tell on standard error that the first signal has been heard.

    Attributes:
        received: number of the signal that came, or None.
    """

    def __init__(self, notice: bool = True) -> None:
        self.notice = notice
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        if self.notice:
            os.write(2, _NOTICE)  # a handler must not enter a stream that is being written to


class SaveTimes:
    """When the next checkpoint is due: soon after the start, then after longer and longer times.

    Args:
        minutes: between checkpoints at most.
        now: seconds of a clock at the start.
    """

    FIRST = 20.0
    """Seconds to the first checkpoint, and between two at least."""
    GROWTH = 0.5
    """Next interval as a share of the time that is spent."""

    def __init__(self, minutes: float, now: float) -> None:
        self.longest, self.begun, self.last = 60 * minutes, now, now

    def due(self, now: float) -> bool:
        """Tell whether it is time to save."""
        wait = max(self.FIRST, self.GROWTH * (self.last - self.begun))
        return now - self.last >= min(self.longest, wait)

    def saved(self, now: float) -> None:
        """Begin the next interval."""
        self.last = now
