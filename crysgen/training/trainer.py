"""A training run of a generator: any model, any device, killed and resumed at any time.

Lightning Fabric puts model and optimiser on devices, in a precision, and on several GPUs. Noise and
order of each step follow from seed and step alone, so a run that is resumed goes on as if nothing
had been. A run is a folder: `state.json` names the last checkpoint, `best.safetensors` and its JSON
are the model with the lowest validation loss, `log.csv` is its history. A model of several stages
is trained in one after the other; each begins with the best weights of the one before, which are
kept as `best.STAGE.safetensors`.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from crysgen.checkpoints import BEST, save_model
from crysgen.training.data import BatchOrder, DeviceCrystals
from crysgen.training.fabric import device_name, launch
from crysgen.training.graphs import GraphSteps, steps_of
from crysgen.training.interruption import SaveTimes, StopRequests
from crysgen.training.objective import Objective, Window
from crysgen.training.optimizer import MOMENTS, GeneratorOptimizer
from crysgen.training.settings import TrainingSettings
from crysgen.training.steps import EagerSteps
from crysmetrics.errors import UserError
from crysmetrics.parallel import flushed_denormals
from crysmetrics.progress import task
from crysmetrics.training_state import append_row, load_checkpoint, read_state, save_checkpoint
from crysmetrics.weight_average import warm_average

if TYPE_CHECKING:
    from crysgen.models.base import Model, ModelConfig
    from crysmetrics.io import Crystals

_COUNTERS = ("step", "epoch", "place", "seconds")


class Trainer:
    """A training run.

    Args:
        cls: kind of model.
        config: of the model; statistics of the data are taken from `train`.
        settings: of the run.
        folder: where it is kept.
        train: canonical crystals.
        val: canonical crystals.
        facts: for the model's card, such as where the data came from.
        fabric: of Lightning, launched; one device of its choice by default.
        compiled: whether `torch.compile` is used.
        graphs: whether steps are CUDA graphs; None where they can be.
        start: a model whose configuration and weights are where the run begins; then `config` does
            not count.
    """

    def __init__(
        self,
        cls: type[Model],
        config: ModelConfig,
        settings: TrainingSettings,
        folder: Path,
        train: Crystals,
        val: Crystals,
        facts: dict[str, Any] | None = None,
        fabric: Any = None,
        compiled: bool = False,
        graphs: bool | None = None,
        start: Model | None = None,
    ) -> None:
        self.fabric = launch() if fabric is None else fabric
        self.cls, self.settings, self.folder, self.compiled = cls, settings, folder, compiled
        self.graphs = graphs
        self.steps: EagerSteps | GraphSteps | None = None
        device = self.fabric.device
        train, val = cls.training_form(train, config), cls.training_form(val, config)
        wanted = (config.properties, config.partial_properties)
        self.train = DeviceCrystals(train, device, *wanted)
        self.val = DeviceCrystals(val, device, *wanted)
        self.config = cls.fitted(config, self.train.all) if start is None else start.config
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
        self.model = cls(self.config)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        self.model.to(device)
        self.step = self.epoch = self.place = 0
        self.seconds = 0.0
        self._show = False
        self._begin(cls.stages[0])

    def _begin(self, stage: str) -> None:
        """Set up a stage from the model's present weights."""
        self._close_steps()
        self.stage = stage
        settings = self.settings.of_stage(stage, self.cls.stages)
        self.of_stage = settings
        self.start = {name: getattr(self, name) for name in ("step", "epoch", "seconds")}
        trained = list(self.model.parameters_of(stage))
        self.model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        self.memory = GeneratorOptimizer(
            self.model, trained, settings.learning_rate, settings.weight_decay, settings.muon
        )
        self.objective, self.optimizer = self.fabric.setup(
            Objective(self.model, stage), self.memory
        )
        self.average = AveragedModel(self.model, multi_avg_fn=warm_average(settings.ema))
        self.average.n_averaged.fill_(1)  # the initial weights count
        if self.compiled:
            self.model.compile(dynamic=True)
        self.order = BatchOrder(
            self.train.num_atoms, settings.batch_atoms * self.fabric.world_size, settings.seed
        )
        self.best = math.inf
        self.window = Window(self.seconds)

    # --- the course of a run -------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the stage's budget that is spent."""
        settings, start = self.of_stage, self.start
        if settings.steps:
            return float(self.step - start["step"]) / settings.steps
        if settings.epochs:
            return float(self.epoch - start["epoch"]) / settings.epochs
        return float(self.seconds - start["seconds"]) / (60 * settings.minutes)

    @property
    def learning_rate(self) -> float:
        """Rises linearly, stays, and falls linearly to zero at the end of the stage's budget."""
        settings = self.of_stage
        rise = min(1.0, (self.step - self.start["step"] + 1) / max(1, settings.warmup_steps))
        fall = min(1.0, (1 - self.progress) / settings.decay_share)
        return settings.learning_rate * rise * max(1e-3, fall)

    @property
    def seed_of_step(self) -> int:
        """Seed of the random numbers of the next step in this process."""
        return hash((self.settings.seed, self.step, self.fabric.global_rank)) % 2**62

    def open_steps(self) -> EagerSteps | GraphSteps:
        """Make ready to take steps: graphs are recorded here, which takes a while."""
        if self.steps is None:
            self.steps = steps_of(self, self.graphs)
        return self.steps

    def _close_steps(self) -> None:
        if self.steps is not None:
            self.steps.close()
        self.steps = None

    @flushed_denormals()
    def run(
        self, save_minutes: float = 5.0, stop_after: int | None = None, show: bool = False
    ) -> int | None:
        """Train until the budget is spent, or a signal asks to stop.

        After Ctrl-C or SIGTERM the step is finished and the state saved, so that a resumed run
        gives the very weights of one that was never stopped.

        Args:
            save_minutes: between checkpoints at most; the first come sooner.
            stop_after: steps after which this call ends, as if it had been killed.
            show: print a line at each validation.

        Returns:
            The number of the signal that ended the run, or None.

        Raises:
            UserError: if a stage ends without a finite loss.
        """
        self._show = show
        self.open_steps()
        saves = SaveTimes(save_minutes, time.perf_counter())
        self._clock = time.perf_counter()
        taken = shown = 0
        with StopRequests() as stop, task("training", 1000) as advance, ExitStack() as at_end:
            at_end.callback(self._close_steps)
            while True:
                self._one_step()
                self._count_time()
                taken += 1
                place = self.cls.stages.index(self.stage) + min(1.0, self.progress)
                spent = int(1000 * place / len(self.cls.stages))
                advance(spent - shown)
                shown = spent
                done = self._agreed(self.progress >= 1)
                if self._agreed(self._validation_due()) or done:
                    self._report()
                    self._count_time()
                ended = done and not self._next_stage()
                asked = self._agreed(stop.received is not None)
                leaving = ended or asked or taken == stop_after
                if leaving or done or self._agreed(saves.due(time.perf_counter())):
                    self.save()
                    saves.saved(time.perf_counter())
                if leaving:
                    return stop.received if asked and not ended else None

    def _count_time(self) -> None:
        """Add the time since the last call to the run's."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now

    def _agreed(self, value: bool) -> bool:
        """Share the first process's answer, so that all stop and save together."""
        if self.fabric.world_size == 1:
            return value
        return bool(self.fabric.broadcast(value))

    def _one_step(self) -> None:
        # For what draws outside of `prepare`, such as dropout.
        torch.manual_seed(self.seed_of_step)
        steps = self.open_steps()
        loss, size = steps.take()
        self.window.loss = self.window.loss + loss.double()
        self.window.steps += 1
        self.window.crystals += size
        self.step += 1
        on_gpu = self.fabric.device.type == "cuda"
        if on_gpu and isinstance(steps, EagerSteps) and self.step % 20 == 0:
            torch.cuda.synchronize()  # so that the clock tells the truth

    def _next_stage(self) -> bool:
        """Begin the next stage with the best weights of this one; False if it was the last.

        Raises:
            UserError: if no validation had a finite loss.
        """
        if self.best == math.inf:
            raise UserError(
                f"No loss of the stage {self.stage} was finite; a lower --learning-rate may help."
            )
        place = self.cls.stages.index(self.stage) + 1
        if place == len(self.cls.stages):
            return False
        self.fabric.barrier()  # the first process has written it
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(self._best_file, str(self.fabric.device)))
        following = self.cls.stages[place]
        self.model.begin_stage(following, self.train.batches(self.of_stage.batch_atoms))
        if self.place:
            self.place, self.epoch = 0, self.epoch + 1
        self._begin(following)
        return True

    # --- validation ------------------------------------------------------------------------------

    def _validation_due(self) -> bool:
        settings = self.of_stage
        if settings.steps:
            return bool((self.step - self.start["step"]) % settings.val_steps == 0)
        return self.seconds - self.window.seconds > 60 * settings.val_minutes

    def validate(self) -> dict[str, float]:
        """Compute losses of the averaged weights on `val`, always with the same noise."""
        model: Model = self.average.module  # type: ignore[assignment]
        model.eval()
        sums: dict[str, float] = {}
        count = 0
        with torch.no_grad(), self.fabric.autocast():
            for draw in range(self.of_stage.val_draws):
                generator = torch.Generator(self.fabric.device).manual_seed(draw)
                for batch in self.val.batches(self.of_stage.batch_atoms):
                    count += len(batch)
                    for name, value in model.loss(batch, generator, self.stage).items():
                        sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
        return {name: value / count for name, value in sums.items()}

    def _report(self) -> None:
        """Validate, log, and keep the model if it is the best so far."""
        val = self.validate()
        window, self.window = self.window, Window(self.seconds)
        improved = val["loss"] < self.best
        self.best = min(self.best, val["loss"]) if improved else self.best
        if not self.fabric.is_global_zero:
            return
        parts = {name: f"{value:.5f}" for name, value in val.items() if name != "loss"}
        rate = window.crystals / max(self.seconds - window.seconds, 1e-9)
        row = {
            "stage": self.stage,
            "step": self.step,
            "epoch": self.epoch,
            "minutes": f"{self.seconds / 60:.2f}",
            "lr": f"{self.learning_rate:.3g}",
            "train": f"{float(window.loss) / window.steps:.5f}",
            "val": f"{val['loss']:.5f}",
            **parts,
            "per_second": f"{rate:.1f}",
        }
        self._log(row)
        if improved:
            progress = {
                "steps": self.step,
                "epochs": self.epoch,
                "minutes": round(self.seconds / 60, 2),
                "val_loss": val,
                "device": device_name(self.fabric.device),
            }
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = self.facts | {"progress": progress}
            save_model(self.model, self._best_file, facts, self.average.module.state_dict())

    @property
    def _best_file(self) -> Path:
        last = self.stage == self.cls.stages[-1]
        return self.folder / (BEST if last else f"best.{self.stage}.safetensors")

    def _log(self, row: dict[str, Any]) -> None:
        append_row(self.folder / "log.csv", list(row), list(row.values()))
        for logger in self.fabric.loggers:
            values = {name: float(x) for name, x in row.items() if name != "stage"}
            logger.log_metrics(values, self.step)
        if self._show:
            print(*(f"{name} {value}" for name, value in row.items()), flush=True)

    # --- checkpoints -----------------------------------------------------------------------------

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Collect all tensors of the state by file, each below 16 MiB for 4 million weights."""
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in MOMENTS}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            state = self.memory.moments(parameter)
            for moment in MOMENTS:
                # A weight that nothing depends on has no gradient, and so no moments.
                if moment in state or not state:
                    moments[moment][name] = state.get(moment, torch.zeros_like(parameter))
        average = self.average.module.state_dict()
        return {"model": self.model.state_dict(), "average": average, **moments}

    def save(self) -> None:
        """Write the whole state; the one before stays valid until this one is complete."""
        if not self.fabric.is_global_zero:
            return
        state = {
            "kind": self.cls.kind,
            "stage": self.stage,
            "settings": asdict(self.settings),
            "config": self.config.to_json(),
            "data": self.facts["data"],
            "best": self.best if math.isfinite(self.best) else None,
            "start": self.start,
            "window": asdict(self.window) | {"loss": float(self.window.loss)},
            **{name: getattr(self, name) for name in _COUNTERS},
        }
        save_checkpoint(self.folder, self.step, self._tensors(), state)

    def resume(self) -> None:
        """Go on from the last checkpoint in the folder.

        Raises:
            UserError: if the folder holds no checkpoint, or one of other data or another model.
        """
        state = read_state(self.folder)
        try:
            same_data = state["data"] == self.facts["data"]
            same_kind = state["kind"] == self.cls.kind
            same = same_kind and self.cls.Config.from_json(state["config"]) == self.config
            if same_data and same:
                self._restore(state)
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise UserError(f"The checkpoint in {self.folder} is damaged ({error}).") from error
        if not same_data:
            raise UserError(f"{self.folder} was trained on other data, and can't go on with these.")
        if not same:
            raise UserError(f"{self.folder} holds a model of another configuration.")

    def _restore(self, state: dict[str, Any]) -> None:
        self._begin(state["stage"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.start, self.window = state["start"], Window(**state["window"])
        self.best = math.inf if state["best"] is None else state["best"]
        kinds = ("model", "average", *MOMENTS)
        files = load_checkpoint(self.folder, self.step, kinds, str(self.fabric.device))
        self.model.load_state_dict(files["model"])
        self.average.module.load_state_dict(files["average"])
        steps = self.step - self.start["step"]
        self.average.n_averaged.fill_(steps + 1)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                moments = {m: files[m][name] for m in MOMENTS if name in files[m]}
                self.memory.restore(parameter, moments, steps)
