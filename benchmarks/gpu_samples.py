"""Samples of a GPU run, and files small enough to come back; for `gpu_training.py`."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysgen.checkpoints import load_model
from crysgen.latent import latent_targets
from crysgen.models.targets import Target
from crysgen.requests import Draw
from crysgen.sampling import plan_batches, sample
from crysmetrics.io import Crystals

LARGEST_FILE = 15 << 20
"""Bytes of a file, at most."""


class Wanted(NamedTuple):
    """Samples to be made.

    Attributes:
        targets: one for each.
        ids: of them.
        crystals: that they should be like, if any.
    """

    targets: list[Target]
    ids: Sequence[str]
    crystals: Crystals | None = None


def title_of(request: dict[str, Any], name: str, seed: int) -> str:
    """Name samples by all that decides them."""
    parts = [f"{k}{text_of(v)}" for k, v in request.get("settings", {}).items()]
    if "steps" in request:
        parts.append(f"steps{request['steps']}")
    return "-".join([name, request["set"], *parts, f"seed{seed}"])


def text_of(value: Any) -> str:
    """Show the value of a setting."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def samples(
    path: Path,
    wanted: Wanted,
    steps: int | None,
    settings: dict[str, Any],
    device: str,
) -> Crystals:
    """Sample one crystal for each target, under its id."""
    model = load_model(path, device)
    config = replace(model.config, **settings)
    if config != model.config:
        other = type(model)(config)
        other.load_state_dict(model.state_dict())
        model = other.requires_grad_(False).eval().to(device)
    targets = wanted.targets
    if wanted.crystals is not None and "atomic_numbers" not in model.accepts:
        targets = latent_targets(model, wanted.crystals, [target.seed for target in targets])
    draws = [Draw(i, i, target, 0, target.seed) for i, target in enumerate(targets)]
    batches = plan_batches(draws, device, size_of=model.size_of)
    parts = list(sample(model, batches, steps=steps, device=device, redraw_clashes=False))
    made = Crystals.concatenate(parts)
    made = made[np.argsort([int(name) for name in made.ids])]
    return made.with_ids([wanted.ids[int(name)] for name in made.ids])


class Store:
    """Zip files of samples, none too large.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.written: set[Path] = set()

    def add(self, name: str, crystals: Crystals) -> None:
        """Add a file of crystals."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            crystals.save(path)
            zipped = self.folder / f"samples{self.number}.zip"
            held = zipped.stat().st_size if zipped in self.written else 0
            if held and held + path.stat().st_size > LARGEST_FILE:
                self.number += 1
                zipped = self.folder / f"samples{self.number}.zip"
            with zipfile.ZipFile(zipped, "a" if zipped in self.written else "w") as archive:
                archive.write(path, name)
            self.written.add(zipped)


def deliver(path: Path, folder: Path) -> None:
    """Copy a file into a folder, in parts if it is too large."""
    content = path.read_bytes()
    if len(content) <= LARGEST_FILE:
        (folder / path.name).write_bytes(content)
        return
    for i, start in enumerate(range(0, len(content), LARGEST_FILE)):
        part = content[start : start + LARGEST_FILE]
        (folder / f"{path.name}.{i:03d}").write_bytes(part)


def say(text: str) -> None:
    """Print at once: a machine may be gone before a buffer is full."""
    print(text, flush=True)
