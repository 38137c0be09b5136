"""Train a generator on a GPU within a budget, measure what it uses, and time its sampling.

Needs only PyTorch, NumPy, safetensors and lightning-fabric beside this repository, and the packed
data of `python -m crysgen.training.data DATA -o packed.npz`. Run it with `--check` on any CPU
first: one minute, every step of what follows.

    python benchmarks/gpu_training.py packed.npz --run RUN --minutes 8.5

RUN is resumed if it holds a checkpoint; nothing written there is above 16 MiB.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crysgen.checkpoints import load_model
from crysgen.models import model_class
from crysgen.models.targets import Target
from crysgen.training.configs import load_config
from crysgen.training.data import training_sets
from crysgen.training.fabric import launch
from crysgen.training.trainer import Trainer
from crysmetrics.io import Crystals
from crysmetrics.training_state import STATE, read_state

PEAK_BF16 = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12}
"""Dense, by the vendor's datasheets."""
PUBLISHED_SET = 9046
"""Crystals of the whole MP-20 test split, which the paper samples in 45 minutes."""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--kind", default="gemsdiff", help="of model")
    parser.add_argument("--config", default="gpu")
    parser.add_argument("--minutes", type=float, default=8.5, help="added to those of the run")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--check", action="store_true", help="a minute on the CPU")
    parser.add_argument("--sample", type=int, default=PUBLISHED_SET, help="crystals to time")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available() and not arguments.check
    train, val = training_sets([arguments.data], None, 20)
    if arguments.check:
        train, val = train[:512], val[:64]
    settings_of_run: dict[str, Any] = {"minutes": arguments.minutes}
    if arguments.check:
        settings_of_run |= {"minutes": 0.4, "val_minutes": 0.2, "batch_atoms": 512, "val_draws": 1}
    resumed = (arguments.run / STATE).is_file()
    if resumed:
        spent = read_state(arguments.run)["seconds"] / 60
        settings_of_run["minutes"] += spent
    config, settings = load_config(arguments.kind, arguments.config, settings_of_run)
    fabric = launch("cuda" if cuda else "cpu", 1, "bf16-mixed")
    trainer = Trainer(
        model_class(arguments.kind),
        config,
        settings,
        arguments.run,
        train,
        val,
        {"hardware": torch.cuda.get_device_name() if cuda else "CPU"},
        fabric=fabric,
        compiled=cuda and not arguments.no_compile,
    )
    if resumed:
        trainer.resume()
    flops = flops_of_a_crystal(trainer)
    first, started = trainer.step, time.perf_counter()
    trainer.run(save_minutes=2.0, show=True)
    elapsed = time.perf_counter() - started
    seen = (trainer.step - first) * len(train) / len(trainer.order.epoch(0))
    print(f"{trainer.step - first} steps, {seen / elapsed:.0f} crystals/s, warm-up included")
    if cuda:
        peak = PEAK_BF16.get(torch.cuda.get_device_name())
        share = f", {100 * flops * seen / elapsed / peak:.1f} % of peak" if peak else ""
        print(f"{flops * seen / elapsed / 1e12:.1f} TFLOP/s in products{share}")
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
    time_sampling(arguments.run, val, 8 if arguments.check else arguments.sample, cuda)


def flops_of_a_crystal(trainer: Trainer) -> float:
    """Floating-point operations of matrix products, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = trainer.train.batch(trainer.order.epoch(0)[0])
    with FlopCounterMode(display=False) as counter:
        trainer.model.loss(batch, None, trainer.stage)["loss"].backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / len(batch)


def time_sampling(run: Path, val: Crystals, count: int, cuda: bool) -> None:
    """Sample `count` crystals of real compositions with all steps."""
    model = load_model(run, "cuda" if cuda else "cpu")
    rows = sorted((i % len(val) for i in range(count)), key=lambda i: val.num_atoms[i])
    targets = [
        Target(seed, tuple(val.atomic_numbers[val.offsets[i] : val.offsets[i + 1]].tolist()))
        for seed, i in enumerate(rows)
    ]
    started, done = time.perf_counter(), 0
    while done < count:
        part = targets[done : done + 2048]
        model.sample(part)
        done += len(part)
    if cuda:
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    print(f"{count} crystals sampled in {elapsed:.1f} s, {model.num_steps} steps")
    print(json.dumps({"sampled": count, "seconds": round(elapsed, 1)}))


if __name__ == "__main__":
    main()
