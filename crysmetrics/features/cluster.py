"""Features computed on a Dask cluster: what `--dask SCHEDULER` does.

Structures go out in small parts and rows of features come back; the scheduler gives the parts of a
worker that dies to another one. Everything else, the cache among it, stays in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.features.registry import get_extractor
from crysmetrics.io import Crystals
from crysmetrics.io.parsed import one_line
from crysmetrics.packages import require
from crysmetrics.parallel import chunks_of
from crysmetrics.progress import task

if TYPE_CHECKING:
    from distributed import Client

ATOMS_PER_TASK = 2_000
"""A few seconds of the slowest extractor, so that little is lost with a worker."""
_TASKS_PER_THREAD = 4
_BATCH = 50_000
"""Structures between two writes to the cache; with few, workers would wait at each."""
_PATIENCE = "20s"

Part = tuple[str, NDArray[np.float64], dict[int, str]]


def spread(extractor: Extractor, run: Run) -> Extractor:
    """Make an extractor compute on the workers of `run.dask`.

    Raises:
        UserError: if there is no such scheduler, or a worker can't do the work.
    """
    if not extractor.cached:  # cheaper here than the way there
        return extractor

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        return _compute(extractor, run, crystals)

    return replace(extractor, compute=compute, batch=_BATCH, parts=None)


def _compute(
    extractor: Extractor, run: Run, crystals: Crystals
) -> tuple[NDArray[np.float64], dict[int, str]]:
    from distributed import KilledWorker, as_completed

    client = _client(str(run.dask))
    there = replace(run, cache=None, dask=None, workers=1)
    parts = chunks_of(crystals.num_atoms.tolist(), ATOMS_PER_TASK)
    values = np.full((len(crystals), len(extractor.labels)), np.nan)
    failures: dict[int, str] = {}
    waiting: dict[Any, slice] = {}

    def send(count: int) -> Iterator[Any]:
        for part in islice(unsent, count):
            future = client.submit(
                featurise, extractor.name, there, crystals[part], pure=False, retries=1
            )
            waiting[future] = part
            yield future

    unsent = iter(parts)
    threads = max(1, sum(client.nthreads().values()))
    with task(f"{extractor.name} features on {threads} cores", len(crystals)) as advance:
        # Never more under way than keeps all busy: the scheduler need not hold all structures.
        queue = as_completed(list(send(threads * _TASKS_PER_THREAD)), loop=client.loop)
        try:
            for future in queue:
                part = waiting.pop(future)
                made_by, rows, reasons = future.result()
                if made_by != extractor.hash:
                    raise UserError(
                        f"The workers of {run.dask} compute other {extractor.name} features than "
                        "this machine; install the same version of crysmetrics there."
                    )
                values[part] = rows
                failures |= {part.start + i: reason for i, reason in reasons.items()}
                advance(len(rows))
                future.release()
                for more in send(1):
                    queue.add(more)
        except KilledWorker as error:
            raise UserError(
                f"Several workers of {run.dask} died over the same structures: {one_line(error)}."
            ) from error
        except ModuleNotFoundError as error:
            raise UserError(f"The workers of {run.dask} lack {error.name}.") from error
        finally:
            client.cancel(list(waiting))
    return values, dict(sorted(failures.items()))


def featurise(name: str, run: Run, crystals: Crystals) -> Part:
    """Compute features on a worker; return the hash of its extractor, rows and failures."""
    extractor = get_extractor(name, run)
    values, failures = extractor.compute(crystals, run.workers)
    return extractor.hash, values, failures


@cache
def _client(scheduler: str) -> Client:
    """Connect to a scheduler; the connection is kept until the process ends."""
    require("distributed", "dask", "A cluster")
    from distributed import Client

    # An address (tcp://host:8786, host:8786), or the file that a scheduler wrote.
    how = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        client = Client(**how, timeout=_PATIENCE, set_as_default=False)
        client.wait_for_workers(1, timeout=20)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(f"There is no Dask cluster at {scheduler} ({one_line(error)}).") from error
    return client
