"""The end of a training run: measured on the test split, written with its model card."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from crysmetrics.errors import UserError
from crysmetrics.features.alignn.graph import GraphRule, line_graphs
from crysmetrics.features.alignn.network import ALIGNN
from crysmetrics.features.alignn.training.data import TARGET, Packed, load_packed
from crysmetrics.features.alignn.training.trainer import Trainer, open_run, predict
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.json_files import write_json

TEST = "mp20/test.csv.gz"


def finish(arguments: argparse.Namespace) -> None:
    """Run the subcommand `finish`: write weights and card of a run.

    Raises:
        UserError: if weights of this name are there already: a frozen file never changes.
    """
    from crysmetrics import weights

    folder = arguments.folder or weights.FOLDER
    path = Path(folder) / f"{arguments.name}.safetensors"
    if path.exists():
        raise UserError(f"{path} exists already, and weights never change; choose another name.")
    torch.set_float32_matmul_precision("highest")
    packed = load_packed(arguments.packed)
    trainer = open_run(arguments.run, packed)
    network, val = _selected(trainer, packed)
    test = _test_errors(network, arguments.data, packed.rule)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    data = save(state, metadata={"format": "pt", "graph_rule": packed.rule})
    card = {
        "name": arguments.name,
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "date": str(date.today()),
        "status": arguments.status,
        "predicts": "formation energy per atom, eV/atom (PBE, Materials Project)",
        "architecture": _architecture(network, packed.rule),
        "data": packed.origin,
        "training": {
            **asdict(trainer.settings),
            "init": _initial_weights(trainer.settings.init),
            "loss": "mean absolute error",
            "optimizer": "AdamW; linear warm-up, then cosine to zero over the budget",
            "steps_taken": trainer.step,
            "epochs": trainer.epoch,
            "minutes_taken": round(trainer.seconds / 60, 1),
            "hardware": arguments.hardware or _hardware(),
            "torch": torch.__version__,
            "history": _history(arguments.run / "log.csv"),
        },
        **({"note": arguments.note} if arguments.note else {}),
        "mean_absolute_error": {"unit": "eV/atom", "val": val, "mp20_test": test},
        "licence": "MIT for the weights; trained on Materials Project data, CC BY 4.0",
        "cite": [
            "ALIGNN: Choudhary & DeCost, npj Comput. Mater. 7, 185 (2021)",
            "Materials Project: Jain et al., APL Mater. 1, 011002 (2013)",
            "MP-20: Xie et al., ICLR 2022; MPTS-52: Baird et al. (2023)",
        ],
    }
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
    write_json(card, path.with_suffix(".json"))
    print(json.dumps({"val": val, "mp20_test": test, "file": str(path)}, indent=2))


def _initial_weights(sha256: str) -> dict[str, str | None]:
    """Name the weights that a run began with, by hash and, where they are known, by name."""
    from crysmetrics.weights import weights_name

    if not sha256:
        return {"weights": "random"}
    return {"weights": weights_name(sha256[:8]), "sha256": sha256}


def _selected(trainer: Trainer, packed: Packed) -> tuple[ALIGNN, dict[str, float]]:
    """Choose the averaged weights or the last ones by their error on val; return it as well."""
    rows = packed.rows("val")
    errors = {}
    for average in (True, False):
        network = trainer.final_network(average)
        errors[average] = _mean(predict(network, packed.graphs, rows, "cpu"), packed.targets[rows])
    best = min(errors, key=lambda average: errors[average])
    return trainer.final_network(best), {"n": len(rows), "error": errors[best]}


def _mean(predicted: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return round(float(np.abs(predicted - targets).mean()), 5)


def _test_errors(network: ALIGNN, data: Path, rule: GraphRule) -> Mapping[str, Any]:
    """Measure errors in eV/atom on the MP-20 test split, all and by number of elements."""
    from crysmetrics.io import read

    crystals = read(data / TEST)
    targets = np.asarray(crystals.properties[TARGET], dtype=float)
    predicted = predict(network, line_graphs(crystals, rule=rule), np.arange(len(crystals)), "cpu")
    elements = (crystals.element_counts > 0).sum(axis=1)
    by_count = {
        str(count): {
            "n": int((elements == count).sum()),
            "error": _mean(predicted[elements == count], targets[elements == count]),
        }
        for count in np.unique(elements)
    }
    return {
        "n": len(crystals),
        "error": _mean(predicted, targets),
        "median": round(float(np.median(np.abs(predicted - targets))), 5),
        "by_elements": by_count,
    }


def _architecture(network: ALIGNN, rule: GraphRule) -> dict[str, Any]:
    return {
        "network": "ALIGNN, state_dict of alignn.models.alignn.ALIGNN",
        "alignn_layers": len(network.alignn_layers),
        "gcn_layers": len(network.gcn_layers),
        "width": network.fc.in_features,
        "outputs": network.fc.out_features,
        "parameters": sum(p.numel() for p in network.parameters()),
        "graph": "12 nearest neighbours, whole shells at 1e-4 Å, both directions",
        "graph_rule": rule,
    }


def _history(path: Path) -> list[dict[str, str]]:
    """Read the log, every epoch of it."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _hardware() -> str:
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{torch.get_num_threads()} CPU cores ({name})"
