"""Times of the parts of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from crysmetrics.features.sample import Sample


@contextmanager
def timed_apart(
    timing: dict[str, float], measure: str, samples: Sequence[Sample]
) -> Iterator[None]:
    """Time a measure, and apart from it the features that it was the first to ask for."""
    known = [dict(sample.seconds) for sample in samples]
    start = time.perf_counter()
    yield
    elapsed = time.perf_counter() - start
    for sample, before in zip(samples, known, strict=True):
        for name in sample.seconds.keys() - before.keys():
            part = f"features {name}, {sample.role}"
            timing[part] = sample.seconds[name]
            elapsed -= sample.seconds[name]
    timing[measure] = elapsed


@contextmanager
def timed(timing: dict[str, float], part: str) -> Iterator[None]:
    """Note how many seconds a block takes."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timing[part] = time.perf_counter() - start
