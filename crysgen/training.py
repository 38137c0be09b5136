"""A training run of a generator: any device, any budget, killed and resumed at any time.

Lightning Fabric puts model and optimiser on devices, in a precision, and on several GPUs. Noise and
order of each step follow from seed and step alone, so a run that is resumed goes on as if nothing
had been. A run is a folder: `state.json` names the last checkpoint, `best.safetensors` and its JSON
are the model with the lowest validation loss, `log.csv` is its history.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crysgen.batch import Batch
from crysgen.checkpoints import save_model
from crysgen.data import BatchOrder, DeviceCrystals
from crysgen.models.gemsdiff import GemsDiff, GemsDiffConfig, cell_statistics
from crysgen.optimizer import MOMENTS, GeneratorOptimizer
from crysmetrics.errors import UserError
from crysmetrics.packages import require
from crysmetrics.parallel import flushed_denormals
from crysmetrics.progress import task
from crysmetrics.training_state import STATE, append_row, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from crysmetrics.io import Crystals

BEST = "best.safetensors"
_LOG = ("step", "epoch", "minutes", "lr", "train", "val", "position", "lattice", "per_second")


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a run beside model and data.

    Attributes:
        minutes: budget by the clock; or
        steps: in optimiser steps, where that is positive; or
        epochs: over the data, where that is positive.
        seed: of weights, order and noise.
        batch_atoms: atoms of a batch on each device.
        learning_rate: the highest.
        weight_decay: on matrices.
        muon: learning rate of Muon for the layers' matrices, in units of `learning_rate`; 0 for
            AdamW alone, as in the paper.
        warmup_steps: over which the learning rate rises.
        decay_share: last share of the budget, over which it falls to zero; a run can be continued
            from before that as if it had always had the longer budget.
        ema: decay of the average of the weights, which is what samples (the paper's is 0.995).
        clip: largest norm of the gradient.
        val_minutes: between validations (or `val_steps` where the budget is in steps).
        val_steps: see there.
        val_draws: how often each validation crystal is noised.
    """

    minutes: float = 60.0
    steps: int = 0
    epochs: int = 0
    seed: int = 0
    batch_atoms: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    muon: float = 2.0
    warmup_steps: int = 200
    decay_share: float = 0.4
    ema: float = 0.998
    clip: float = 1.0
    val_minutes: float = 3.0
    val_steps: int = 500
    val_draws: int = 4


class Objective(nn.Module):
    """The loss as a module, so that Fabric can wrap its forward pass."""

    def __init__(self, model: GemsDiff) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Callable[[], Batch], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of a batch, which comes hidden in a function.

        In mixed precision Fabric rounds every tensor among the arguments to 16 bits; positions
        must not be.
        """
        return self.model.loss(batch(), generator)


class Trainer:
    """A training run.

    Args:
        config: of the model; statistics of the cells are taken from `train`.
        settings: of the run.
        folder: where it is kept.
        train: canonical crystals.
        val: canonical crystals.
        facts: for the model's card, such as where the data came from.
        fabric: of Lightning, launched; one device of its choice by default.
        compiled: whether `torch.compile` is used.
    """

    def __init__(
        self,
        config: GemsDiffConfig,
        settings: TrainingSettings,
        folder: Path,
        train: Crystals,
        val: Crystals,
        facts: dict[str, Any] | None = None,
        fabric: Any = None,
        compiled: bool = False,
    ) -> None:
        if fabric is None:
            fabric = launch()
        self.fabric, self.settings, self.folder = fabric, settings, folder
        self.train, self.val = (
            DeviceCrystals(train, fabric.device),
            DeviceCrystals(val, fabric.device),
        )
        mean, std = cell_statistics(config, self.train.all)
        self.config = GemsDiffConfig.from_json(
            config.to_json() | {"lattice_mean": mean, "lattice_std": std}
        )
        self.facts = {
            "training": asdict(settings),
            "data": {
                "train": len(train),
                "val": len(val),
                "train_sha256": train.sha256(),
                "val_sha256": val.sha256(),
            },
            **(facts or {}),
        }
        torch.manual_seed(settings.seed)
        self.model = GemsDiff(self.config)
        self.model.to(fabric.device)
        self.memory = GeneratorOptimizer(
            self.model.network, settings.learning_rate, settings.weight_decay, settings.muon
        )
        self.objective, self.optimizer = fabric.setup(Objective(self.model), self.memory)
        if compiled:
            self.model.compile(dynamic=True)
        self.average = {k: v.detach().clone() for k, v in self._floats().items()}
        self.order = BatchOrder(
            self.train.num_atoms, settings.batch_atoms * fabric.world_size, settings.seed
        )
        self.step = self.epoch = self.place = 0
        self.seconds = 0.0
        self.best = math.inf
        self._show = False

    def _floats(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.network.state_dict().items() if v.is_floating_point()}

    # --- the course of a run -------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        if self.settings.steps:
            return self.step / self.settings.steps
        if self.settings.epochs:
            return self.epoch / self.settings.epochs
        return self.seconds / (60 * self.settings.minutes)

    @property
    def learning_rate(self) -> float:
        """Rises linearly, stays, and falls linearly to zero at the end of the budget."""
        rise = min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        fall = min(1.0, (1 - self.progress) / max(1e-9, self.settings.decay_share))
        return self.settings.learning_rate * rise * max(1e-3, fall)

    @flushed_denormals()
    def run(
        self, save_minutes: float = 5.0, stop_after: int | None = None, show: bool = False
    ) -> None:
        """Train until the budget is spent.

        Args:
            save_minutes: between checkpoints.
            stop_after: steps after which this call ends, as if it had been killed.
            show: print a line at each validation.
        """
        self._show = show
        last = time.perf_counter()
        saved = validated = self.seconds
        losses: list[Tensor] = []
        seen, taken, since = 0, 0, self.seconds
        with task("training", 1000) as advance:
            shown = 0
            for batch, size in self._batches():
                losses.append(self._update(batch))
                seen, taken, self.step = seen + size, taken + 1, self.step + 1
                spent = int(1000 * min(1.0, self.progress))
                advance(spent - shown)
                shown = spent
                if self.fabric.device.type == "cuda" and self.step % 20 == 0:
                    torch.cuda.synchronize()  # so that the clock tells the truth
                self.seconds += time.perf_counter() - last
                last = time.perf_counter()
                done = self._agreed(self.progress >= 1)
                if self.settings.steps:
                    due = self.step % self.settings.val_steps == 0
                else:
                    due = self.seconds - validated > 60 * self.settings.val_minutes
                if self._agreed(due) or done:
                    self._report(losses, seen / max(self.seconds - since, 1e-9))
                    losses, seen = [], 0
                    self.seconds += time.perf_counter() - last
                    last = time.perf_counter()
                    validated = since = self.seconds
                late = self.seconds - saved > 60 * save_minutes
                if done or self._agreed(late) or taken == stop_after:
                    self.save()
                    saved = self.seconds
                if done or taken == stop_after:
                    return

    def _agreed(self, value: bool) -> bool:
        """What the first process says, so that all stop and save together."""
        if self.fabric.world_size == 1:
            return value
        return bool(self.fabric.broadcast(value))

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        while True:
            batches = self.order.epoch(self.epoch)
            while self.place < len(batches):
                rows = batches[self.place]
                self.place += 1
                if self.place == len(batches):
                    # Before the batch is used, so that a checkpoint after it is right.
                    self.place, self.epoch = 0, self.epoch + 1
                    yield self._part(rows), len(rows)
                    break
                yield self._part(rows), len(rows)

    def _part(self, rows: Any) -> Batch:
        """This process's share of a batch; the whole where there are too few for all."""
        share = rows[self.fabric.global_rank :: self.fabric.world_size]
        return self.train.batch(share if len(share) else rows)

    def _update(self, batch: Batch) -> Tensor:
        self.objective.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        generator = torch.Generator(self.fabric.device)
        generator.manual_seed(
            hash((self.settings.seed, self.step, self.fabric.global_rank)) % 2**62
        )
        losses = self.objective(lambda: batch, generator)
        self.fabric.backward(losses["loss"])
        self.fabric.clip_gradients(self.objective, self.optimizer, max_norm=self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), list(self._floats().values()), 1 - decay)
        loss: Tensor = losses["loss"].detach()
        return loss

    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on `val`, always with the same noise."""
        current = {k: v.detach().clone() for k, v in self._floats().items()}
        self._put(self.average)
        self.model.eval()
        sums: dict[str, float] = {}
        count = 0
        with torch.no_grad(), self.fabric.autocast():
            for draw in range(self.settings.val_draws):
                generator = torch.Generator(self.fabric.device).manual_seed(draw)
                for batch in self.val.batches(self.settings.batch_atoms):
                    count += len(batch)
                    for name, value in self.model.loss(batch, generator).items():
                        sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
        self._put(current)
        self.model.train()
        return {name: value / count for name, value in sums.items()}

    def _put(self, weights: dict[str, Tensor]) -> None:
        self.model.network.load_state_dict(weights, strict=False)

    def _report(self, losses: list[Tensor], rate: float) -> None:
        val = self.validate()
        if not self.fabric.is_global_zero:
            return
        row = (
            self.step,
            self.epoch,
            f"{self.seconds / 60:.2f}",
            f"{self.learning_rate:.3g}",
            f"{float(torch.stack(losses).mean()):.5f}",
            *(f"{val[name]:.5f}" for name in ("loss", "position", "lattice")),
            f"{rate:.1f}",
        )
        self._log(row)
        if val["loss"] < self.best:
            self.best = val["loss"]
            progress = {
                "steps": self.step,
                "epochs": self.epoch,
                "minutes": round(self.seconds / 60, 2),
                "val_loss": val,
                "device": _device_name(self.fabric.device),
            }
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = self.facts | {"progress": progress}
            save_model(self.model, self.folder / BEST, facts, self.average)

    def _log(self, row: tuple[Any, ...]) -> None:
        append_row(self.folder / "log.csv", _LOG, row)
        for logger in self.fabric.loggers:
            values = {name: float(x) for name, x in zip(_LOG, row, strict=True)}
            logger.log_metrics(values, self.step)
        if self._show:
            print(*(f"{name} {value}" for name, value in zip(_LOG, row, strict=True)), flush=True)

    # --- checkpoints -----------------------------------------------------------------------------

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """The whole state by file, none above 16 MiB for networks of 4 million weights."""
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in MOMENTS}
        for name, parameter in self.model.network.named_parameters():
            state = self.memory.moments(parameter)
            for moment in MOMENTS:
                # A weight that nothing depends on has no gradient, and so no moments.
                if moment in state or not state:
                    moments[moment][name] = state.get(moment, torch.zeros_like(parameter))
        return {"network": self.model.network.state_dict(), "average": self.average, **moments}

    def save(self) -> None:
        """Write the whole state; the one before stays valid until this one is complete."""
        if not self.fabric.is_global_zero:
            return
        state = {
            "settings": asdict(self.settings),
            "config": self.config.to_json(),
            "data": self.facts["data"],
            "best": self.best if math.isfinite(self.best) else None,
            **{key: getattr(self, key) for key in ("step", "epoch", "place", "seconds")},
        }
        save_checkpoint(self.folder, self.step, self._tensors(), state)

    def resume(self) -> None:
        """Go on from the last checkpoint in the folder.

        Raises:
            UserError: if there is none, or it was made with other data or another model.
        """
        state = read_state(self.folder)
        if state["data"] != self.facts["data"]:
            raise UserError(f"{self.folder} was trained on other data, and can't go on with these.")
        if GemsDiffConfig.from_json(state["config"]) != self.config:
            raise UserError(f"{self.folder} holds a model of another configuration.")
        for key in ("step", "epoch", "place", "seconds"):
            setattr(self, key, state[key])
        self.best = math.inf if state["best"] is None else state["best"]
        kinds = ("network", "average", *MOMENTS)
        files = load_checkpoint(self.folder, self.step, kinds, str(self.fabric.device))
        self._put(files["network"])
        self.average = {name: files["average"][name] for name in self.average}
        for name, parameter in self.model.network.named_parameters():
            moments = {m: files[m][name] for m in MOMENTS if name in files[m]}
            self.memory.restore(parameter, moments, self.step)


def launch(
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: Any = "32-true",
    loggers: Any = None,
) -> Any:
    """A launched `lightning.fabric.Fabric`.

    Raises:
        UserError: if it is not installed, or the devices are not there.
    """
    require("lightning_fabric", "train", "Training")
    from lightning_fabric import Fabric

    torch.set_float32_matmul_precision("high")
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, precision=precision, loggers=loggers
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Training can't run on {devices} x {accelerator}: {reason}") from error
    return fabric


def read_state(folder: Path) -> dict[str, Any]:
    """Where a run stands.

    Raises:
        UserError: if the folder holds no run.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        raise UserError(f"{folder} holds no checkpoint to go on from.") from None
    return state


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
