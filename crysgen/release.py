"""Turn a training run into a shipped model: weights in bfloat16, facts as JSON, and a card.

    python -m crysgen.release RUN --name gemsdiff-mp-v3 --hardware "2 cores" \\
        --metrics metrics.json --about "1,000 compositions, one sample each"

A file of weights never changes: better weights get a new name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crysgen.checkpoints import SHIPPED, find_model, load_model, save_model
from crysgen.models import model_class
from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.json_files import read_json_object

if TYPE_CHECKING:
    from crysgen.models.base import Model

LARGEST = 8_000_000
"""Largest size of a shipped model's weights in bytes."""
SOURCES = (
    "The rows marked `train` of this project's data with at most 20 atoms: Materials Project "
    "(CC BY 4.0; the published MP-20 validation split and parts of its training split, MPTS-52), "
    "OQMD (CC BY 4.0), Alexandria (CC BY 4.0) and JARVIS-DFT (NIST, public domain), in primitive "
    "Niggli cells; entries more than 0.3 eV/atom above the hull are left out where that is known. "
    "Rows marked `val` chose the checkpoint. No row of a published test split was used."
)
_LONGEST_TABLE = 20
"""Entries of a setting that a card for people lists."""
_SHOWN_METRICS = {
    "struct_validity": "Structural validity",
    "comp_validity": "Composition validity",
    "emd_density": "EMD of density (g/cm³)",
    "emd_energy": "EMD of energy (eV/atom, our ALIGNN)",
    "cov_recall": "COV-R (Eq. 10)",
    "cov_precision": "COV-P (Eq. 10)",
    "cov_recall_marginal": "COV-R (as published)",
    "cov_precision_marginal": "COV-P (as published)",
    "fad": "FAD (our ALIGNN)",
    "fad_inf": "FAD of infinitely many (our ALIGNN)",
    "fd_crystalnn": "Fréchet distance of CrystalNN fingerprints",
    "uniqueness": "Uniqueness",
    "match_rate": "Match rate, one sample",
    "match_rate_valid": "Match rate of valid crystals",
    "rmse": "RMSE",
    "symmetric_share": "Share above P1 within 0.1 Å",
    "space_group_jsd": "Distance of space groups (JSD)",
    "emd_energy_cdvae": "EMD of energy (eV/atom, CDVAE's network)",
    "sr5": "Success rate of optimisation, lowest 5 %",
    "sr10": "Success rate of optimisation, lowest 10 %",
    "sr15": "Success rate of optimisation, lowest 15 %",
}


def release(
    run: Path,
    name: str,
    hardware: str,
    measured: Sequence[tuple[str, dict[str, Any]]],
    provisional: bool,
    folder: Path = SHIPPED,
    sampling: dict[str, Any] | None = None,
    sources: str = SOURCES,
) -> Path:
    """Write the three files; returns the weights' path.

    Args:
        run: of `crysgen train`.
        name: of the model.
        hardware: it was trained on.
        measured: of each measurement what was measured (which compositions, how many, how many
            steps, by whom), and the object `metrics` of its `metrics.json`.
        provisional: whether a better one is to come.
        folder: where to.
        sampling: settings of the configuration that only sampling uses, chosen after training
            (`Model.sampling_settings`).
        sources: where the training data came from, with licences.

    Raises:
        UserError: if there is a model of this name, it is too large, or a setting is not one of
            sampling.
    """
    path = folder / f"{name}.safetensors"
    if path.exists():
        raise UserError(f"{path} exists, and a shipped model never changes; choose a new name.")
    card = read_json_object(find_model(run).with_suffix(".json"))
    model = load_model(run)
    model.config = _with_sampling(model, sampling or {})
    if sum(p.numel() for p in model.parameters()) * 2 > LARGEST:
        raise UserError(f"{name} would be larger than {LARGEST / 1e6:.0f} MB.")
    facts = {key: card[key] for key in ("training", "data", "progress") if key in card} | {
        "name": name,
        "hardware": hardware,
        "provisional": provisional,
        "sources": sources,
        "measured": [
            {"on": about, "metrics": {k: found[k] for k in _SHOWN_METRICS if k in found}}
            for about, found in measured
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, path, facts, dtype=torch.bfloat16)
    final = read_json_object(path.with_suffix(".json"))
    with atomic_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(card_text(final), encoding="utf-8")
    return path


def _with_sampling(model: Model, settings: dict[str, Any]) -> Any:
    """Return the model's configuration with other settings of sampling."""
    for name in settings:
        if name not in model.sampling_settings:
            known = ", ".join(sorted(model.sampling_settings)) or "none"
            raise UserError(f"{name} is no setting of sampling; those of {model.kind}: {known}.")
    try:
        return model.Config.from_json(model.config.to_json() | settings)
    except ValueError as error:
        raise UserError(f"This can't be set: {error}.") from error


def card_text(card: dict[str, Any]) -> str:
    """Write the card for people, from the facts."""
    cls = model_class(card["kind"])
    config, progress, training = card["config"], card["progress"], card["training"]
    shown = {key: _short(value) for key, value in config.items()}
    told = ", ".join(name.replace("_", " ") for name in sorted(cls.accepts)) or "nothing"
    steps = cls(cls.Config.from_json(config)).default_steps
    lines = [f"# {card['name']}", "", f"{cls.paper}. Can be told: {told}.", ""]
    if card["provisional"]:
        lines += [f"**Provisional**: trained on {card['hardware']} until better is there.", ""]
    lines += [
        "| | |",
        "|---|---|",
        f"| Data | {card['data']['train']:,} crystals to train on, {card['data']['val']:,} to "
        "select by |",
        f"| Trained | {progress['steps']:,} steps, {progress['epochs']} epochs, "
        f"{progress['minutes']:.1f} minutes on {card['hardware']}, seed {training['seed']} |",
        f"| Validation loss | {progress['val_loss']['loss']:.4f} |",
        f"| Calls of the network a sample | {steps} |",
        f"| Configuration | `{json.dumps(shown)}` |",
        f"| SHA-256 | `{card['sha256']}` |",
        "",
        card["sources"],
    ]
    for one in card["measured"]:
        lines += ["", f"## Measured: {one['on']}", "", *_metrics_table(one["metrics"])]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> Any:
    """Replace a table that has no place in a line of the card."""
    if isinstance(value, dict) and len(value) > _LONGEST_TABLE:
        return f"{len(value)} entries, in the card for programs"
    return value


def _metrics_table(metrics: dict[str, Any]) -> list[str]:
    lines = ["| Metric | Value | Standard error |", "|---|---|---|"]
    for key, label in _SHOWN_METRICS.items():
        found = metrics.get(key)
        if found is not None and found.get("value") is not None:
            error = found.get("stderr")
            lines.append(f"| {label} | {found['value']:.4g} | {error:.2g} |" if error is not None
                         else f"| {label} | {found['value']:.4g} | |")  # fmt: skip
    return lines


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        raise UserError(f"--set takes NAME=VALUE, such as cell_noise=0.5; not {text}.") from None


def main(args: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--hardware", required=True)
    parser.add_argument(
        "--metrics", type=Path, action="append", required=True, help="a metrics.json; repeatable"
    )
    parser.add_argument(
        "--about", action="append", required=True, help="what each of them was measured on"
    )
    parser.add_argument("--sources", default=SOURCES, help="data and licences; this project's")
    parser.add_argument("--folder", type=Path, default=SHIPPED, help="where to")
    parser.add_argument("--final", action="store_true", help="not provisional")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of sampling, chosen after training; the value as JSON has it",
    )
    arguments = parser.parse_args(args)
    try:
        sampling = dict(_setting(text) for text in arguments.set)
        found = [read_json_object(path)["metrics"] for path in arguments.metrics]
        measured = list(zip(arguments.about, found, strict=True))
        path = release(
            arguments.run, arguments.name, arguments.hardware, measured,
            not arguments.final, arguments.folder, sampling, arguments.sources,
        )  # fmt: skip
    except (UserError, OSError, ValueError, KeyError) as error:
        raise SystemExit(f"Error: {error}") from None
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
