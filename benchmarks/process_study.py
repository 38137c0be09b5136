"""Compare variants of a generator that are trained for the same CPU time, on the `val` rows.

    python -m crysgen.training.data ../shared/data -o packed.npz
    python benchmarks/process_study.py benchmarks/process_study.toml packed.npz -o RUNS
    python benchmarks/process_study.py benchmarks/process_study.toml packed.npz -o RUNS --minutes 30

The budget counts this process's CPU time, so that a busy machine does not favour anybody. What is
done already is not done again: a run that was stopped goes on from its checkpoint, and samples that
were measured are kept. `--train` and `--evaluate` do one of the two alone.

STUDY.toml: `kind`, `steps` to sample with, `[training]`, `[model]` for all, `[variants.NAME]` with
the settings of each, and `[sampling.NAME]` with `of`, a list of variants, and settings for
sampling alone, its own `steps` among them.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch

import crysmetrics
from crysgen.checkpoints import BEST, load_model
from crysgen.models import model_class
from crysgen.models.base import Model
from crysgen.models.targets import Target
from crysgen.requests import Draw
from crysgen.sampling import plan_batches, sample
from crysgen.training.data import training_sets
from crysgen.training.settings import TrainingSettings
from crysgen.training.trainer import Trainer
from crysmetrics.io import Crystals
from crysmetrics.io.json_files import read_json_object, write_json
from crysmetrics.training_state import STATE

METRICS = ("match_rate", "rmse", "struct_validity", "emd_density")


class CpuTimeTrainer(Trainer):
    """A training run whose minutes are those of the process's CPU time."""

    _cpu = 0.0

    def run(self, *args: Any, **options: Any) -> int | None:
        """See `Trainer`."""
        self._cpu = time.process_time()
        return super().run(*args, **options)

    def _count_time(self) -> None:
        now = time.process_time()
        self.seconds += now - self._cpu
        self._cpu = now


@dataclass(frozen=True)
class Run:
    """A variant, trained once.

    Attributes:
        name: of the variant.
        seed: of the training.
        folder: where it is kept.
        config: settings of the model.
    """

    name: str
    seed: int
    folder: Path
    config: dict[str, Any]


@click.command()
@click.argument("study", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", type=float, help="Of CPU time for each training.")
@click.option("--only", multiple=True, help="Variants; all by default.")
@click.option("--seeds", default="0", show_default=True, help="Of training.")
@click.option("--steps", help="To sample with, such as 20,50.")
@click.option("--limit", type=int, help="Sample the first so many of `val` alone.")
@click.option("--train", "part", flag_value="train", help="Train alone.")
@click.option("--evaluate", "part", flag_value="evaluate", help="Measure what is trained.")
def main(
    study: Path,
    data: Path,
    output: Path,
    minutes: float | None,
    only: tuple[str, ...],
    seeds: str,
    steps: str | None,
    limit: int | None,
    part: str | None,
) -> None:
    """Train and measure, and print a Markdown table."""
    torch.set_num_threads(1)
    plan = tomllib.loads(study.read_text(encoding="utf-8"))
    training = plan["training"] | ({} if minutes is None else {"minutes": minutes})
    counts = plan["steps"] if steps is None else [int(n) for n in steps.split(",")]
    train, val = training_sets([data], None, 20)
    rows = []
    for run in runs(plan, output, float(training["minutes"]), only, seeds):
        if part != "evaluate" and not (run.folder / "done").exists():
            fit(plan["kind"], run, training, train, val)
        if part != "train" and (run.folder / "done").exists():
            rows += measured(plan, run, val[:limit], counts)
            print_table(rows)


def runs(
    plan: dict[str, Any], output: Path, minutes: float, only: tuple[str, ...], seeds: str
) -> Iterator[Run]:
    """Iterate over all trainings, every variant with the first seed before any with the second."""
    for seed in map(int, seeds.split(",")):
        for name, settings in plan["variants"].items():
            if not only or name in only:
                folder = output / f"{name}-{minutes:g}min-seed{seed}"
                yield Run(name, seed, folder, plan["model"] | settings)


def fit(kind: str, run: Run, training: dict[str, Any], train: Crystals, val: Crystals) -> None:
    """Train a variant, or go on with it."""
    cls = model_class(kind)
    settings = TrainingSettings().changed(training | {"seed": run.seed})
    config = cls.Config.from_json(run.config)
    trainer = CpuTimeTrainer(cls, config, settings, run.folder, train, val)
    if (run.folder / STATE).is_file():
        trainer.resume()
    click.echo(f"{run.folder.name}:", err=True)
    if trainer.run(save_minutes=2.0, show=True) is not None:
        raise SystemExit(130)
    (run.folder / "done").touch()


def measured(
    plan: dict[str, Any], run: Run, val: Crystals, counts: list[int]
) -> Iterator[dict[str, Any]]:
    """Sample and measure a variant with each number of steps, and with its other samplings."""
    samplings = {"": {}} | {
        name: settings
        for name, settings in plan.get("sampling", {}).items()
        if run.name in settings["of"]
    }
    for name, settings in samplings.items():
        changed = {k: v for k, v in settings.items() if k not in ("of", "steps")}
        for steps in settings.get("steps", counts):
            path = run.folder / f"metrics-{name or 'plain'}-{steps}-{len(val)}.json"
            if not path.is_file():
                model = with_sampling(run.folder / BEST, changed)
                made, seconds = samples(model, val, steps)
                report = crysmetrics.evaluate(made, val, metrics=list(METRICS), workers=1)
                values = {k: [v.value, v.stderr] for k, v in report.metrics.items()}
                write_json({"metrics": values, "seconds": seconds}, path)
            title = run.name if not name else f"{run.name}, {name}"
            found = read_json_object(path)
            trained = read_json_object((run.folder / BEST).with_suffix(".json"))["progress"]
            loss = trained["val_loss"]
            yield {
                "variant": title,
                "seed": run.seed,
                "epochs": trained["epochs"],
                "val loss": f"{loss['position']:.3f} + {loss['lattice']:.3f}",
                "steps": steps,
                **{k: _shown(found["metrics"].get(k)) for k in METRICS},
                "CPU s": round(found["seconds"]),
            }


def _shown(value: Any) -> str:
    if not value or value[0] is None:
        return ""
    return f"{value[0]:.3f}" + (f" ± {value[1]:.3f}" if value[1] is not None else "")


def with_sampling(path: Path, settings: dict[str, Any]) -> Model:
    """Load a model with other settings of sampling."""
    model = load_model(path)
    if not settings:
        return model
    other = type(model)(replace(model.config, **settings))
    other.load_state_dict(model.state_dict())
    return other.requires_grad_(False).eval()


def samples(model: Model, val: Crystals, steps: int | None = None) -> tuple[Crystals, float]:
    """Sample one crystal for each of `val`, with its id; also the CPU time in seconds."""
    draws = []
    for i in range(len(val)):
        atoms = tuple(val.atomic_numbers[val.offsets[i] : val.offsets[i + 1]].tolist())
        draws.append(Draw(i, i, Target(i, atoms), 0, 0))
    start = time.process_time()
    made = Crystals.concatenate(
        list(sample(model, plan_batches(draws), steps=steps, redraw_clashes=False))
    )
    seconds = time.process_time() - start
    made = made[np.argsort([int(name) for name in made.ids])]
    return made.with_ids([val.ids[int(name)] for name in made.ids]), seconds


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print what is known so far."""
    click.echo(pd.DataFrame(rows).to_markdown(index=False))
    click.echo()


if __name__ == "__main__":
    main()
