"""A training run of ALIGNN that can be killed at any time and goes on where it was.

Graphs are folded (see `crysmetrics.features.alignn.graph`), which changes neither losses nor
gradients. The learning rate follows the share of the budget that is spent, so that any budget ends
annealed. A checkpoint is the whole state in files of at most 16 MiB; killed and resumed, a run goes
on as if nothing had been, bit for bit where the budget is given in steps.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from crysmetrics.errors import UserError
from crysmetrics.features.alignn.graph import LineGraphs
from crysmetrics.features.alignn.network import ALIGNN, GraphBatch
from crysmetrics.features.alignn.training.data import Packed
from crysmetrics.training_state import STATE, append_row, load_checkpoint, save_checkpoint
from crysmetrics.weight_average import warm_average

_LOG = ("step", "epoch", "minutes", "lr", "train_mae", "val_mae", "structures_per_second")
_EVALUATION_PAIRS = 60_000


@dataclass(frozen=True)
class Settings:
    """What decides a training run.

    Attributes:
        minutes: budget by the clock; or
        steps: in optimiser steps, where that is positive.
        seed: of weights and order.
        batch_pairs: folded bond pairs of a batch.
        costly: pairs above which a structure is left out of some epochs: of n pairs it is in
            (costly / n)^2 of them. A few crystals without symmetry take most of the time
            otherwise. 0 for none.
        learning_rate: the highest, after warming up.
        weight_decay: of AdamW, on matrices.
        warmup: share of the budget.
        ema: decay of the average of the weights, which is what remains in the end.
        clip: largest norm of the gradient.
        init: SHA-256 of the file with the weights that it began from; empty for random ones.
    """

    minutes: float = 60.0
    steps: int = 0
    seed: int = 0
    batch_pairs: int = 16_000
    costly: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05
    ema: float = 0.998
    clip: float = 10.0
    init: str = ""


class Trainer:
    """A training run: its network, optimiser and place in the data.

    Args:
        packed: the data.
        settings: what decides the run.
        folder: where checkpoints and the log are kept.
        device: where PyTorch computes.
        compiled: whether `torch.compile` is used.
        bfloat16: whether products are computed in bfloat16 by autocast.
        init: weights to begin with, their output in eV/atom; None for random ones.
    """

    def __init__(
        self,
        packed: Packed,
        settings: Settings,
        folder: Path,
        device: str = "cpu",
        compiled: bool = False,
        bfloat16: bool = False,
        init: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.packed, self.settings, self.folder, self.device = packed, settings, folder, device
        self.bfloat16 = bfloat16
        self.train_rows, self.val_rows = packed.rows("train"), packed.rows("val")
        targets = packed.targets[self.train_rows]
        self.mean, self.std = float(targets.mean()), float(targets.std())
        self.num_pairs = packed.graphs.num_pairs
        pairs = self.num_pairs[self.train_rows]
        self.share = np.minimum(1.0, (settings.costly or np.inf) / np.maximum(pairs, 1)) ** 2
        self.batch_structures = settings.batch_pairs * self.share.sum() / (self.share @ pairs)
        torch.manual_seed(settings.seed)
        self.network = ALIGNN().to(device)
        if init is not None:
            self.network.load_state_dict(self._standardised(init))
        self.average = AveragedModel(
            self.network, multi_avg_fn=warm_average(settings.ema), use_buffers=True
        )
        self.average.n_averaged.fill_(1)  # the initial weights count
        self.optimizer = _optimizer(self.network, settings)
        self.forward = torch.compile(self.network, dynamic=True) if compiled else self.network
        self.step = self.epoch = self.batch = 0
        self.seconds = 0.0

    def _standardised(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Standardise the output of weights as the targets are; the reverse of `final_network`."""
        weight, bias = state["fc.weight"] / self.std, (state["fc.bias"] - self.mean) / self.std
        return {**state, "fc.weight": weight, "fc.bias": bias}

    @property
    def progress(self) -> float:
        """Return the share of the budget that is spent."""
        if self.settings.steps:
            return self.step / self.settings.steps
        return self.seconds / (60 * self.settings.minutes)

    @property
    def learning_rate(self) -> float:
        """Return the learning rate now: it rises linearly, then falls along a cosine."""
        peak, warmup, done = self.settings.learning_rate, self.settings.warmup, self.progress
        if done < warmup:
            return peak * (0.04 + 0.96 * done / warmup)
        fall = min(1.0, (done - warmup) / (1 - warmup))
        return peak * max(1e-4, 0.5 * (1 + math.cos(math.pi * fall)))

    def run(self, save_minutes: float = 5.0, stop_after: int | None = None) -> None:
        """Train until the budget is spent, saving now and then.

        Args:
            save_minutes: between checkpoints.
            stop_after: steps after which this call ends, as if it had been killed.
        """
        last, saved, steps = time.perf_counter(), self.seconds, 0
        losses: list[Tensor] = []
        seen = 0
        started = self.seconds
        for rows, batch, targets in self._batches():
            losses.append(self._update(batch, targets))
            seen, steps, self.step = seen + len(rows), steps + 1, self.step + 1
            now = time.perf_counter()
            self.seconds, last = self.seconds + now - last, now
            done = self.progress >= 1
            if self.batch == 0 or done:
                self._report(losses, seen / max(self.seconds - started, 1e-9))
                losses, seen = [], 0
                now = time.perf_counter()
                self.seconds, last = self.seconds + now - last, now
                started = self.seconds
            if done or self.seconds - saved > 60 * save_minutes or steps == stop_after:
                self.save()
                saved = self.seconds
            if done or steps == stop_after:
                return

    def _batches(self) -> Iterator[tuple[NDArray[np.int64], GraphBatch, Tensor]]:
        """Yield batches from this place in the data on, making the next one while one is used."""

        def make(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], GraphBatch, Tensor]:
            targets = (self.packed.targets[rows] - self.mean) / self.std
            graphs = GraphBatch.of(self.packed.graphs[rows], self.device)
            return rows, graphs, torch.from_numpy(targets.astype(np.float32)).to(self.device)

        with ThreadPoolExecutor(1) as pool:
            while True:
                batches = self._order(self.epoch)
                future = pool.submit(make, batches[self.batch])
                while self.batch < len(batches):
                    made = future.result()
                    self.batch += 1
                    if self.batch < len(batches):
                        future = pool.submit(make, batches[self.batch])
                    else:
                        # Set before the last batch is used, so that a checkpoint after it is right.
                        self.batch, self.epoch = 0, self.epoch + 1
                        yield made
                        break
                    yield made

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        """List the rows of each batch of an epoch."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        order = rng.permutation(self.train_rows[rng.random(len(self.train_rows)) < self.share])
        total = np.cumsum(self.num_pairs[order])
        cuts = np.flatnonzero(np.diff(total // self.settings.batch_pairs)) + 1
        return np.split(order, cuts)

    def _update(self, batch: GraphBatch, targets: Tensor) -> Tensor:
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.bfloat16):
            errors = (self.forward(batch).float() - targets).abs()
        # Batches hold equal numbers of pairs; each structure counts as much as any other.
        loss = errors.sum() / self.batch_structures
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return errors.detach().mean() * self.std

    def _report(self, losses: list[Tensor], rate: float) -> None:
        predicted = self.predict(self.val_rows)
        val = float(np.abs(predicted - self.packed.targets[self.val_rows]).mean())
        row = (
            self.step,
            self.epoch,
            f"{self.seconds / 60:.2f}",
            f"{self.learning_rate:.3g}",
            f"{float(torch.stack(losses).mean()):.5f}",
            f"{val:.5f}",
            f"{rate:.1f}",
        )
        append_row(self.folder / "log.csv", _LOG, row)
        print(*(f"{name} {value}" for name, value in zip(_LOG, row, strict=True)), flush=True)

    def predict(self, rows: NDArray[np.int64], average: bool = True) -> NDArray[np.float64]:
        """Predict energies (R,) in eV/atom of packed structures by the averaged or last weights."""
        return predict(self.final_network(average), self.packed.graphs, rows, self.device)

    def final_network(self, average: bool = True) -> ALIGNN:
        """Make the network for inference, its output in eV/atom."""
        chosen = self.average.module if average else self.network
        state = {name: tensor.detach().clone() for name, tensor in chosen.state_dict().items()}
        state["fc.weight"] = state["fc.weight"] * self.std
        state["fc.bias"] = state["fc.bias"] * self.std + self.mean
        return ALIGNN.from_state(state).to(self.device)

    # --- checkpoints -------------------------------------------------------------------------

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Collect all tensors of the state by file."""
        names = dict(self.network.named_parameters())
        moments: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}}
        for name, parameter in names.items():
            state = self.optimizer.state[parameter]
            for moment, tensors in moments.items():
                # A weight that nothing depends on has no gradient, and so no moments.
                tensors[name] = state[moment] if state else torch.zeros_like(parameter)
        average = self.average.module.state_dict()
        return {"network": self.network.state_dict(), "average": average, **moments}

    def save(self) -> None:
        """Write the whole state; the step before stays valid until this one is complete."""
        place = {key: getattr(self, key) for key in ("step", "epoch", "batch", "seconds")}
        state = {"settings": asdict(self.settings), **place}
        save_checkpoint(self.folder, self.step, self._tensors(), state)

    def load(self) -> None:
        """Go on from the last checkpoint in the folder."""
        state = json.loads((self.folder / STATE).read_text())
        for key in ("step", "epoch", "batch", "seconds"):
            setattr(self, key, state[key])
        kinds = ("network", "average", "exp_avg", "exp_avg_sq")
        files = load_checkpoint(self.folder, self.step, kinds, self.device)
        self.network.load_state_dict(files["network"])
        self.average.module.load_state_dict(files["average"])
        self.average.n_averaged.fill_(self.step + 1)
        for name, parameter in self.network.named_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step), device=self.device),
                "exp_avg": files["exp_avg"][name],
                "exp_avg_sq": files["exp_avg_sq"][name],
            }


def _optimizer(network: ALIGNN, settings: Settings) -> torch.optim.AdamW:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def predict(
    network: ALIGNN, graphs: LineGraphs, rows: NDArray[np.int64], device: str
) -> NDArray[np.float64]:
    """Predict energies (R,) in eV/atom of the structures in `rows`."""
    from crysmetrics.parallel import chunks_of

    energies = np.empty(len(rows))
    with torch.inference_mode():
        for part in chunks_of(graphs.num_pairs[rows].tolist(), _EVALUATION_PAIRS):
            batch = GraphBatch.of(graphs[rows[part]], device)
            energies[part] = network(batch).double().cpu().numpy()
    return energies


def open_run(
    folder: Path,
    packed: Packed,
    device: str = "cpu",
    *,
    compiled: bool = False,
    bfloat16: bool = False,
) -> Trainer:
    """Open the run whose checkpoint lies in `folder`.

    Raises:
        UserError: if there is none.
    """
    if not (folder / STATE).is_file():
        raise UserError(f"{folder} holds no checkpoint to go on from.")
    settings = Settings(**json.loads((folder / STATE).read_text())["settings"])
    trainer = Trainer(packed, settings, folder, device, compiled, bfloat16)
    trainer.load()
    return trainer
