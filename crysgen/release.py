"""Make a shipped model of a training run: weights in bfloat16, facts as JSON, and a card.

    python -m crysgen.release RUN --name gemsdiff-mp-v1 --hardware "2 cores" --metrics metrics.json

A file never changes: better weights get a new name.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crysgen.checkpoints import SHIPPED, find_model, load_model, save_model
from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file

LARGEST = 6_000_000
"""Bytes of a shipped model."""
SOURCES = (
    "The rows marked `train` of this project's data with at most 20 atoms: Materials Project "
    "(CC BY 4.0; the published MP-20 validation split and parts of its training split, MPTS-52), "
    "OQMD (CC BY 4.0), Alexandria (CC BY 4.0) and JARVIS-DFT (NIST, public domain), in primitive "
    "Niggli cells; entries more than 0.3 eV/atom above the hull are left out where that is known. "
    "Rows marked `val` chose the checkpoint. No row of a published test split was used."
)
_SHOWN_METRICS = {
    "struct_validity": "Structural validity",
    "comp_validity": "Composition validity",
    "emd_density": "EMD of density (g/cm³)",
    "emd_energy": "EMD of energy (eV/atom, our ALIGNN)",
    "cov_recall_marginal": "COV-R (as published)",
    "cov_precision_marginal": "COV-P (as published)",
    "fad": "FAD (our ALIGNN)",
    "match_rate": "Match rate, one sample",
    "rmse": "RMSE",
}


def release(
    run: Path,
    name: str,
    hardware: str,
    metrics: dict[str, Any],
    about_metrics: str,
    provisional: bool,
    folder: Path = SHIPPED,
    sampling: dict[str, Any] | None = None,
) -> Path:
    """Write the three files; returns the weights' path.

    Args:
        run: of `crysgen train`.
        name: of the model.
        hardware: it was trained on.
        metrics: the object `metrics` of a `metrics.json`.
        about_metrics: what was measured: which compositions, how many, how many steps.
        provisional: whether a better one is to come.
        folder: where to.
        sampling: settings of the configuration that only sampling uses, chosen after training.

    Raises:
        UserError: if there is a model of this name, or it is too large.
    """
    path = folder / f"{name}.safetensors"
    if path.exists():
        raise UserError(f"{path} exists, and a shipped model never changes; choose a new name.")
    weights = find_model(run)
    card = json.loads(weights.with_suffix(".json").read_text())
    model = load_model(run)
    model.config = replace(model.config, **(sampling or {}))
    if sum(p.numel() for p in model.network.parameters()) * 2 > LARGEST:
        raise UserError(f"{name} would be larger than {LARGEST / 1e6:.0f} MB.")
    shown = {key: metrics[key] for key in _SHOWN_METRICS if key in metrics}
    facts = {key: card[key] for key in ("training", "data", "progress") if key in card} | {
        "name": name,
        "hardware": hardware,
        "provisional": provisional,
        "sources": SOURCES,
        "metrics": shown,
        "measured_on": about_metrics,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, path, facts, dtype=torch.bfloat16)
    final = json.loads(path.with_suffix(".json").read_text())
    with atomic_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(card_text(final), encoding="utf-8")
    return path


def card_text(card: dict[str, Any]) -> str:
    """The card for people, from the facts."""
    config, progress, training = card["config"], card["progress"], card["training"]
    lines = [
        f"# {card['name']}",
        "",
        "GemsDiff (Klipfel et al., AAAI 2024) for an exact composition, with the backbone "
        f"`{config['network']}` {config['network_settings']}.",
        "",
    ]
    if card["provisional"]:
        lines += [
            "**Provisional**: trained on a CPU, for far fewer steps than the paper's. It gives "
            "plausible volumes and distances; positions of larger cells are often not those of "
            "the ground state.",
            "",
        ]
    lines += [
        "| | |",
        "|---|---|",
        f"| Data | {card['data']['train']:,} crystals to train on, {card['data']['val']:,} to "
        "select by |",
        f"| Trained | {progress['steps']:,} steps, {progress['epochs']} epochs, "
        f"{progress['minutes']:.0f} minutes on {card['hardware']}, seed {training['seed']} |",
        f"| Validation loss | {progress['val_loss']['loss']:.4f} |",
        f"| Diffusion steps | {config['steps']} |",
        f"| SHA-256 | `{card['sha256']}` |",
        "",
        card["sources"],
        "",
        f"## Measured: {card['measured_on']}",
        "",
        "| Metric | Value | Standard error |",
        "|---|---|---|",
    ]
    for key, label in _SHOWN_METRICS.items():
        found = card["metrics"].get(key)
        if found is not None and found.get("value") is not None:
            error = found.get("stderr")
            lines.append(f"| {label} | {found['value']:.4g} | {error:.2g} |" if error is not None
                         else f"| {label} | {found['value']:.4g} | |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--hardware", required=True)
    parser.add_argument("--metrics", type=Path, required=True, help="a metrics.json")
    parser.add_argument("--about", required=True, help="what the metrics were measured on")
    parser.add_argument("--final", action="store_true", help="not provisional")
    parser.add_argument("--cell-noise", type=float, default=1.0, help="of sampling")
    parser.add_argument("--position-noise", type=float, default=1.0, help="of sampling")
    arguments = parser.parse_args()
    sampling: dict[str, Any] = {
        key: getattr(arguments, key) for key in ("cell_noise", "position_noise")
    }
    metrics = json.loads(arguments.metrics.read_text())["metrics"]
    try:
        path = release(
            arguments.run, arguments.name, arguments.hardware, metrics, arguments.about,
            not arguments.final, sampling=sampling,
        )  # fmt: skip
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
