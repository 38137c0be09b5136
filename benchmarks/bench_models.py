"""Seconds for 1,000 crystals of every shipped generator, on one core of the same machine.

    python benchmarks/bench_models.py
    python benchmarks/bench_models.py --model run/ --steps 20 --count 400

Two commands `crysgen sample --model NAME -n COUNT` of different COUNT, whose difference leaves out
the start of a program: sampling, symmetries, descriptions and files, in seconds of processor time
(of the clock on a GPU). Models that must be told compositions get drawn ones.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import pandas as pd

from crysgen.checkpoints import find_model, known_models
from crysmetrics.io.json_files import read_json_object


@click.command()
@click.option("--model", "names", multiple=True, help="Name or path; all shipped by default.")
@click.option("--count", default=120, show_default=True, help="Crystals of the larger command.")
@click.option("--steps", type=int, multiple=True, help="The model's own by default.")
@click.option("--device", default="cpu", show_default=True)
def main(names: tuple[str, ...], count: int, steps: tuple[int, ...], device: str) -> None:
    """Print a Markdown table with a row for each model and number of steps."""
    rows = []
    for name in names or [model.name for model in known_models()]:
        for number in steps or (None,):
            few, (used, calls) = count // 4, sampled(name, count, number, device)
            begun, _ = sampled(name, few, number, device)
            rows.append(
                {
                    "model": name,
                    "kind": read_json_object(find_model(name).with_suffix(".json"))["kind"],
                    "MB": round(find_model(name).stat().st_size / 1e6, 1),
                    "calls of the network": calls,
                    "s per 1,000": round(1000 * (used - begun) / (count - few), 1),
                    "start, s": round(begun - few * (used - begun) / (count - few), 1),
                }
            )
            click.echo(json.dumps(rows[-1]), err=True)
    click.echo(pd.DataFrame(rows).to_markdown(index=False))


def sampled(name: str, count: int, steps: int | None, device: str) -> tuple[float, int]:
    """Sample by the command; returns seconds, and the calls of the model for each crystal."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "free"
        command = [
            *(sys.executable, "-c", "from crysgen.entry import main; main()", "sample"),
            *("--model", name, "-n", str(count)),
            *("-o", str(output), "--workers", "1", "--device", device, "--quiet"),
            *(() if steps is None else ("--steps", str(steps))),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        before, began = _processor_time(), time.perf_counter()
        subprocess.run(command, check=True, env=environment)
        wall, used = time.perf_counter() - began, _processor_time() - before
        # Not the largest: invalid crystals are drawn again.
        calls = int(pd.read_csv(output / "samples.csv")["steps"].median())
    return (used if device == "cpu" else wall), calls


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
