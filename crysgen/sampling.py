"""Sample crystals from a model: batches by size, one seed for each structure, no result lost.

The noise of a structure follows from its own seed, so it is the same in a batch of one and of a
thousand, and after an interruption; what differs between batches is rounding alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysgen.requests import UNKNOWN_SIZE, Draw
from crysgen.unfinished import SECONDS, UnfinishedBatches
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, CrystalsBuilder, Failure
from crysmetrics.parallel import flushed_denormals

if TYPE_CHECKING:
    from crysgen.models.base import Model, OnStep
    from crysgen.models.targets import Target
    from crysgen.training.batch import Batch

ATTEMPTS = 5
"""Number of draws of a structure, after which it is given up."""

_WORK_ON_CPU = 240
"""Of a batch, in units of one atom's: some 3 s of one core, so that a run that is killed loses less
than ten, also beside other jobs."""
_PAIRS = 8
"""Pairs of atoms that take a network as long as one atom by itself."""
_OVERHEAD_ON_CPU = 80
_OVERHEAD_ON_GPU = 4000
"""Fixed cost of a batch in units of one atom's: small batches are mostly waiting, and on a GPU each
shape of a batch is recorded as a graph."""
_SMALL = 6
"""Atoms up to which cells of any size share a batch on a GPU; above, the largest has at most twice
as many as the smallest, so that one search for neighbours suits them (`crysgen.networks`)."""
SHORTEST_DISTANCE = 0.5
"""Å at or below which atoms lie on top of each other, as in structural validity."""
_BYTES_AN_ATOM = 2_000_000
"""On a GPU, neighbours and messages included; too low a guess costs one retry."""

log = logging.getLogger(__name__)


def plan_batches(
    draws: Sequence[Draw],
    device: str = "cpu",
    batch_size: int | None = None,
    workers: int = 1,
    size_of: Callable[[Target], int | None] = lambda target: target.size,
) -> list[list[Draw]]:
    """Group draws into batches, large cells first.

    Cells of different sizes share a batch where padding the smaller ones costs less than a batch
    of their own.

    Args:
        draws: in any order; equal ones keep theirs.
        device: where they will be made.
        batch_size: structures of a batch at most; None to choose.
        workers: batches at the same time; on a CPU each core takes its own.
        size_of: number of atoms where it is known, such as the model's `size_of`.
    """
    by_size: dict[int, list[Draw]] = {}
    for draw in draws:
        by_size.setdefault(size_of(draw.target) or UNKNOWN_SIZE, []).append(draw)
    sizes = sorted(by_size, reverse=True)
    on_gpu = device.startswith("cuda")
    overhead = _OVERHEAD_ON_GPU if on_gpu else _OVERHEAD_ON_CPU
    batches: list[list[Draw]] = []
    counts = [(size, len(by_size[size])) for size in sizes]
    for group in _groups(counts, overhead, narrow=on_gpu):
        together = [draw for size in group for draw in by_size[size]]
        if batch_size is not None:
            most = batch_size
        else:
            size = group[0]
            work = size if on_gpu else size + size * size // _PAIRS
            limit = _atoms_on_gpu(device) if on_gpu else _WORK_ON_CPU
            share = -(-len(together) * work // (1 if on_gpu else workers))
            most = max(1, min(limit, max(overhead, share)) // work)
        batches += [together[i : i + most] for i in range(0, len(together), most)]
    return batches


def _groups(
    sizes: Sequence[tuple[int, int]], overhead: int, narrow: bool = False
) -> list[list[int]]:
    """Group sizes (with their counts, in descending order) into batches, at the least cost."""
    best: list[tuple[float, list[list[int]]]] = [(0.0, [])]
    for end in range(1, len(sizes) + 1):
        choices = []
        for begin in range(end):
            if narrow and sizes[begin][0] > max(_SMALL, 2 * sizes[end - 1][0]):
                continue
            count = sum(n for _, n in sizes[begin:end])
            cost = best[begin][0] + overhead + count * sizes[begin][0]
            choices.append((cost, best[begin][1] + [[size for size, _ in sizes[begin:end]]]))
        best.append(min(choices, key=lambda choice: choice[0]))
    return best[-1][1]


def _atoms_on_gpu(device: str) -> int:
    import torch

    # Not what is free now: batches should be the same at every run.
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1, memory // _BYTES_AN_ATOM)


def sample(
    model: Model,
    batches: Sequence[Sequence[Draw]],
    *,
    steps: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    advance: Callable[[int], None] = lambda count: None,
    unfinished: UnfinishedBatches | None = None,
    redraw_clashes: bool = True,
) -> Iterator[Crystals]:
    """Sample the crystals of all draws, batch after batch.

    Args:
        model: on `device`.
        batches: what to make together, see `plan_batches`; halved where memory runs out.
        steps: of the reverse process; None for the model's default.
        device: where the model computes.
        workers: cores; on a CPU each takes batches of its own, which waits less, on a busy
            machine far less, than all cores on every operation.
        advance: told how many structures times steps were just done.
        unfinished: where a CPU keeps batches on their way, and finds them again; None for nowhere.
        redraw_clashes: draw crystals again that have two atoms within 0.5 Å; False for what the
            model itself makes of each draw.

    Yields:
        Crystals of each batch, with the draws' numbers as ids and the properties `seed` and
        `redrawn`. Their atoms are those that the model returned. An invalid draw (numbers that
        are not finite, a cell without volume or atoms, another composition than was asked for) is
        drawn again with a new seed. After a few times it is a failure, named by its number; of
        crystals with atoms on top of each other, which have the right atoms after all, the last
        one is given, unless a space group was asked for: there it is a failure, too.

    Raises:
        UserError: if there is not enough memory for a single structure.
    """
    from crysmetrics.parallel import in_threads, torch_threads

    runner = _Runner(model, steps, device, advance, unfinished, redraw_clashes)
    if device.startswith("cuda"):
        yield from map(runner.crystals, batches)
        return
    with torch_threads(1):
        yield from in_threads(runner.crystals, [(batch,) for batch in batches], workers)


class _Runner:
    """Runs batches, and remembers how large they may be."""

    def __init__(
        self,
        model: Model,
        steps: int | None,
        device: str,
        advance: Callable[[int], None],
        unfinished: UnfinishedBatches | None = None,
        redraw_clashes: bool = True,
    ) -> None:
        from crysgen.models.base import Stepwise

        self._redraw_clashes = redraw_clashes

        self.model, self.steps, self.device, self.advance = model, steps, device, advance
        self.planned = steps or model.default_steps
        self.most_atoms: int | None = None
        self._sample = model.sample
        self._precision: Callable[[], AbstractContextManager[None]] = nullcontext
        self._unfinished: UnfinishedBatches | None = None
        if device.startswith("cuda"):
            from crysgen.graphs.stepwise import StepGraphs

            self._sample = StepGraphs(model).sample
            self._precision = _precision_on(device)
        elif isinstance(model, Stepwise):
            self._unfinished = unfinished

    def crystals(self, batch: Sequence[Draw]) -> Crystals:
        """Sample a batch, in order; invalid draws are repeated with other seeds."""
        done: dict[int, Crystals] = {}
        reasons: dict[int, str] = {}
        waiting = list(batch)
        for attempt in range(ATTEMPTS):
            if attempt:
                waiting = [draw.again(attempt) for draw in waiting]
            found = self._sampled(waiting, attempt)
            reasons = {int(f.file): f.reason for f in found.failures}
            seeds = {draw.number: draw.seed for draw in waiting}
            for crystal in found:
                number = int(crystal.ids[0])
                properties = {"seed": np.array([seeds[number]]), "redrawn": np.array([attempt])}
                done[number] = replace(crystal, properties=properties)
            waiting = [draw for draw in waiting if draw.number in reasons]
            if not waiting:
                break
        if reasons:
            log.warning("%d structures are invalid after %d draws each.", len(reasons), ATTEMPTS)
        failures = [Failure(str(n), f"{why} after {ATTEMPTS} draws") for n, why in reasons.items()]
        parts = [done[draw.number] for draw in batch if draw.number in done]
        return Crystals.concatenate(parts).with_failures(failures)

    def _sampled(self, draws: Sequence[Draw], attempt: int) -> Crystals:
        """Sample each draw once, in batches that fit into memory."""
        builder = CrystalsBuilder()
        parts = [list(draws)]
        while parts:
            part = parts.pop(0)
            size = max(self.model.size_of(draw.target) or UNKNOWN_SIZE for draw in part)
            fitting = len(part)
            if self.most_atoms is not None:
                fitting = max(1, min(fitting, self.most_atoms // size))
            if fitting == len(part):
                if self._try(part, attempt, builder):
                    continue
                if len(part) == 1:
                    raise UserError(
                        f"There is not enough memory on {self.device} for a cell of {size} atoms."
                    )
                fitting = (len(part) + 1) // 2
                self.most_atoms = fitting * size
                log.info("Memory ran out; going on with batches of %d structures.", fitting)
            parts = [part[:fitting], part[fitting:], *parts]
        return builder.build()

    def _try(self, draws: Sequence[Draw], attempt: int, builder: CrystalsBuilder) -> bool:
        """Sample these and add them to `builder`; False if memory runs out."""
        report = attempt == 0
        again = self._redraw_clashes and attempt < ATTEMPTS - 1
        targets = [draw.target for draw in draws]
        told = 0

        def on_step(done: int, total: int) -> None:
            nonlocal told
            now = done * self.planned // total
            if report:
                self.advance(len(draws) * (now - told))
            told = now

        try:
            with flushed_denormals():
                made: Batch | None
                if self._unfinished is None:
                    with self._precision():
                        made = self._sample(targets, self.steps, on_step)
                else:
                    made = self._stepwise(draws, self._unfinished, on_step)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            made = None  # the error's frames hold the batch until this block ends
        if made is None:
            if report:
                self.advance(-len(draws) * told)
            _free(self.device)
            return False
        for draw, row in zip(draws, _rows(made), strict=True):
            name, crystal = str(draw.number), _with_merged_sites(row, draw.target)
            if not _has_composition(crystal[0], draw.target.atomic_numbers):
                builder.fail(name, "has another composition than was asked for")
            elif (draw.target.space_group or again) and _has_clash(crystal):
                # In a space group, two sites of an orbit have come together: always a failure, as
                # the orbit lies on another Wyckoff position.
                builder.fail(name, "has atoms on top of each other")
            else:
                builder.add(name, *crystal, source=name)
        return True

    def _stepwise(
        self, draws: Sequence[Draw], unfinished: UnfinishedBatches, on_step: OnStep
    ) -> Batch:
        """Sample step by step, from where an earlier run stopped; states are kept every while."""
        import torch

        model: Any = self.model
        with torch.no_grad():
            state, way = model.begin([draw.target for draw in draws], self.steps)
            done, state = unfinished.load(draws, self.steps, state)
            kept = time.monotonic()
            for number in range(done, len(way)):
                state = model.step(state, way[number])
                on_step(number + 1, len(way))
                if time.monotonic() - kept > SECONDS:
                    unfinished.save(draws, self.steps, number + 1, state)
                    kept = time.monotonic()
            made: Batch = model.finish(state)
        return made


_Row = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Atomic numbers (n,), fractional coordinates (n, 3) and cell (3, 3) of a crystal."""


def _rows(made: Batch) -> Iterator[_Row]:
    """Extract atomic numbers, positions and cell of each crystal, wherever its padding is."""
    numbers = made.atomic_numbers.cpu().numpy()
    frac = made.frac_coords.detach().double().cpu().numpy()
    lattices = made.lattices.detach().double().cpu().numpy()
    for atoms, positions, lattice in zip(numbers, frac, lattices, strict=True):
        yield atoms[atoms > 0], positions[atoms > 0], lattice


def _with_merged_sites(crystal: _Row, target: Target) -> _Row:
    """Merge images of sites where these are given, and not how many atoms they are."""
    if target.sites is None or target.space_group is None or not _is_finite(crystal):
        return crystal
    from crysgen.wyckoff.merging import merge_sites
    from crysmetrics.space_groups.groups import space_group

    return *merge_sites(*crystal, space_group(target.space_group)), crystal[2]


def _has_composition(made: NDArray[np.int64], asked: Sequence[int] | None) -> bool:
    """Check that elements have the requested proportions: a model may find a smaller cell.

    A crystal without atoms is refused elsewhere.
    """
    if asked is None or not len(made):
        return True
    found, wanted = Counter(made.tolist()), Counter(asked)
    return found.keys() == wanted.keys() and all(
        found[z] * len(asked) == wanted[z] * len(made) for z in wanted
    )


def _is_finite(crystal: _Row) -> bool:
    _, frac, lattice = crystal
    return bool(len(frac) and np.isfinite(frac).all() and np.isfinite(lattice).all())


def _has_clash(crystal: _Row) -> bool:
    """Tell whether two atoms are as close as none are; what is no crystal is refused elsewhere."""
    # What compiles is not there where networks are trained, and does not come with an import here.
    from crysmetrics.geometry import min_distance

    _, frac, lattice = crystal
    return _is_finite(crystal) and bool(min_distance(lattice, frac) <= SHORTEST_DISTANCE)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError)
        and ("not enough memory" in text or "can't allocate memory" in text)
    )


def _precision_on(device: str) -> Callable[[], AbstractContextManager[None]]:
    """Return the context in which a GPU samples: in 16 bits where it has units for bfloat16."""
    import torch

    from crysgen.networks.precision import sampling_in_16_bits

    return sampling_in_16_bits if torch.cuda.get_device_capability(device)[0] >= 8 else nullcontext


def _free(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
