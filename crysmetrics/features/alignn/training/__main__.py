"""Training ALIGNN on formation energies: pack the data, train for a time, finish with a card.

    python -m crysmetrics.features.alignn.training pack --data ../shared/data -o packed.npz
    python -m crysmetrics.features.alignn.training train packed.npz --out RUN --minutes 60
    python -m crysmetrics.features.alignn.training train packed.npz --out RUN --resume
    python -m crysmetrics.features.alignn.training finish RUN packed.npz --data ../shared/data \
        --name alignn-mp-v1

`train` needs PyTorch, NumPy and safetensors alone; graphs are in the packed file.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from crysmetrics.device import torch_device
from crysmetrics.errors import UserError
from crysmetrics.features.alignn.network import ALIGNN
from crysmetrics.features.alignn.training.data import load_packed
from crysmetrics.features.alignn.training.trainer import Settings, Trainer, open_run
from crysmetrics.io.parsed import one_line
from crysmetrics.training_state import STATE


def train(arguments: argparse.Namespace) -> None:
    """Run the subcommand `train`."""
    device = torch_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # On a CPU `medium` multiplies in bfloat16 and adds in float32, on a GPU `high` in TF32.
    torch.set_float32_matmul_precision(
        arguments.precision or ("medium" if device == "cpu" else "high")
    )
    packed = load_packed(arguments.packed)
    options = {"compiled": arguments.compile, "bfloat16": arguments.bf16}
    if arguments.resume:
        trainer = open_run(arguments.out, packed, device, **options)
    else:
        if (arguments.out / STATE).exists():
            raise UserError(f"{arguments.out} holds a run; give --resume or another folder.")
        given = {k: v for k, v in vars(arguments).items() if v is not None}
        names = set(asdict(Settings())) - {"init"}
        settings = replace(Settings(), **{k: v for k, v in given.items() if k in names})
        state = None
        if arguments.init:
            state, sha256 = _weights(arguments.init)
            settings = replace(settings, init=sha256)
        arguments.out.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(packed, settings, arguments.out, device, **options, init=state)
        if state is not None:
            predicted = trainer.predict(trainer.val_rows)
            error = np.abs(predicted - packed.targets[trainer.val_rows]).mean()
            print(f"val_mae of {arguments.init} {error:.5f}", flush=True)
    print(
        f"{len(trainer.train_rows)} structures to train on, {len(trainer.val_rows)} to select by; "
        f"about {trainer.batch_structures:.0f} in a batch",
        flush=True,
    )
    trainer.run(arguments.save_minutes)


def _weights(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Read weights, and the SHA-256 of their file.

    Raises:
        UserError: if the file can't be read, or holds no weights of this network.
    """
    try:
        data = path.read_bytes()
        state = load(data)
        ALIGNN().load_state_dict(state)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} holds no weights of ALIGNN: {one_line(error)}.") from error
    return state, hashlib.sha256(data).hexdigest()


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line, by argparse: a bare machine may lack Click."""
    top = argparse.ArgumentParser(prog="python -m crysmetrics.features.alignn.training")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    pack = commands.add_parser("pack", help="make the packed file from the data folder")
    pack.add_argument("--data", type=Path, required=True)
    pack.add_argument("-o", "--output", type=Path, required=True)
    pack.set_defaults(function="pack")
    run = commands.add_parser("train", help="train, or go on")
    run.add_argument("packed", type=Path)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--resume", action="store_true")
    run.add_argument("--init", type=Path, metavar="WEIGHTS", help="begin with these weights")
    for name, kind in Settings.__annotations__.items():
        if name == "init":
            continue
        option = "--" + name.replace("_", "-")
        kind = int if kind == "int" else float
        run.add_argument(option, type=kind, help=f"by default {getattr(Settings, name)}")
    run.add_argument("--device", default="auto")
    run.add_argument("--threads", type=int)
    run.add_argument("--precision", choices=("highest", "high", "medium"))
    run.add_argument("--bf16", action="store_true", help="autocast")
    run.add_argument("--compile", action="store_true")
    run.add_argument("--save-minutes", type=float, default=5.0)
    run.set_defaults(function="train")
    finish = commands.add_parser("finish", help="measure, and write the weights with their card")
    finish.add_argument("run", type=Path)
    finish.add_argument("packed", type=Path)
    finish.add_argument("--data", type=Path, required=True)
    finish.add_argument("--name", required=True)
    finish.add_argument("--folder", type=Path, help="by default that of the shipped weights")
    finish.add_argument("--hardware", default="", help="as the card should name it")
    finish.add_argument("--status", default="provisional", help="provisional or frozen")
    finish.add_argument("--note", default="", help="a sentence for the card")
    finish.set_defaults(function="finish")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    given = parser().parse_args(arguments)
    try:
        if given.function == "train":
            train(given)
        else:
            # These read crystals, which needs more packages than training does.
            from crysmetrics.features.alignn.training import card, data

            {"pack": data.pack, "finish": card.finish}[given.function](given)
    except UserError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
