"""Crystals with a better property: gradients in latent space (CDVAE, Section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from crysgen.compositions.formulas import Formula
from crysgen.latent import Vectors, decode, encode
from crysmetrics.errors import UserError
from crysmetrics.progress import task

if TYPE_CHECKING:
    import pandas as pd

    from crysgen.kept_decodings import KeptDecodings
    from crysmetrics.io import Crystals

DATA_SETS = {
    "formation_energy_per_atom": "mp20",
    "heat_ref": "perov5",
    "energy_per_atom": "carbon24",
}
"""Properties that CDVAE's independent networks predict, and the data set of each network."""
TABLE = "optimized.csv"


@dataclass(frozen=True)
class OptimizationSettings:
    """How a property is optimised.

    Attributes:
        maximize: rather than minimise.
        gradient_steps: of Adam on z.
        step_size: its learning rate.
        candidates: points on each way that are decoded, evenly spaced; the last is its end.
        seed: of decoding.
        steps: of decoding; the model's own number by default.
        workers: cores.
        device: where the independent network computes.
        batch_size: crystals decoded together.
    """

    maximize: bool = False
    gradient_steps: int = 5000
    step_size: float = 1e-3
    candidates: int = 10
    seed: int = 0
    steps: int | None = None
    workers: int | None = None
    device: str = "cpu"
    batch_size: int | None = None


def property_name(model: Any, asked: str) -> str:
    """Match what a user calls a property with what a model predicts from z.

    Raises:
        UserError: if the model predicts another, or none.
    """
    known = getattr(model.config, "property_std", 0)
    name = model.config.property_name if known else ""
    if not name:
        raise UserError("This model was trained without a property to optimise.")
    if asked in (name, name.removesuffix("_per_atom"), name.removesuffix("_ref")):
        return str(name)
    raise UserError(f"This model predicts {name} from its latent space, not {asked}.")


def way(model: Any, latents: Vectors, settings: OptimizationSettings) -> Vectors:
    """Follow the gradient of the predicted property.

    Args:
        model: with a property.
        latents: (B, D) where ways begin.
        settings: of the way.

    Returns:
        (candidates, B, D) points on the ways, in order.
    """
    z = torch.tensor(latents, dtype=torch.float32, device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=settings.step_size)
    sign = -1.0 if settings.maximize else 1.0
    count, total = settings.candidates, settings.gradient_steps
    stops = {round(total * (i + 1) / count) for i in range(count)}
    found = []
    with task("Following the gradient", total) as advance, torch.enable_grad():
        for step in range(1, total + 1):
            optimizer.zero_grad()
            # Each crystal has its own z: of the sum each gets its own gradient.
            (sign * model.property_of(z)).sum().backward()
            optimizer.step()
            if step in stops:
                found.append(z.detach().float().cpu().numpy().copy())
            advance(1)
    return np.stack(found)


def optimize(
    model: Any,
    crystals: Crystals,
    settings: OptimizationSettings,
    kept: KeptDecodings | None = None,
) -> tuple[Crystals, pd.DataFrame]:
    """Optimise the property of crystals, and choose the best of those decoded on the way.

    Best by the independent network among valid crystals; among all where none is valid.

    Args:
        model: with a property that there is an independent network for.
        crystals: where the ways begin.
        settings: of the optimisation.
        kept: see `crysgen.latent.decode`.

    Returns:
        The best crystal for each, under its id, and a table with a row for each: `id`, `formula`,
        `candidate`, `valid`, `start`, `best`, `predicted` (from z), in eV/atom.

    Raises:
        UserError: if there is no such network.
    """
    import pandas as pd

    from crysmetrics.features.cdvae_property.extractor import predict
    from crysmetrics.io import Crystals as Packed

    name = model.config.property_name
    if name not in DATA_SETS:
        raise UserError(f"There is no independent network that predicts {name}.")
    points = way(model, encode(model, crystals), settings)
    count, number, _ = points.shape
    ids = [f"{crystal}-{k + 1}" for k in range(count) for crystal in crystals.ids]
    flat = points.reshape(count * number, -1)
    made = decode(
        model,
        flat,
        ids,
        seed=settings.seed,
        steps=settings.steps,
        workers=settings.workers,
        batch_size=settings.batch_size,
        kept=kept,
    )
    start, _ = predict(crystals, DATA_SETS[name], device=settings.device, workers=settings.workers)
    values, _ = predict(made, DATA_SETS[name], device=settings.device, workers=settings.workers)
    valid = _valid(made)
    place = {made_id: row for row, made_id in enumerate(made.ids)}
    with torch.no_grad():
        vectors = torch.as_tensor(flat, device=model.device)
        predicted = model.property_of(vectors).float().cpu().numpy()
    rows, chosen = [], []
    for i, crystal_id in enumerate(crystals.ids):
        candidates = [
            (place[ids[k * number + i]], k) for k in range(count) if ids[k * number + i] in place
        ]
        if not candidates:
            continue
        row, k = _best(candidates, values, valid, settings.maximize)
        chosen.append(row)
        rows.append(
            {
                "id": crystal_id,
                "formula": str(Formula.of_atoms(made[[row]].atomic_numbers)),
                "candidate": k + 1,
                "valid": bool(valid[row]),
                "start": start[i],
                "best": values[row],
                "predicted": float(predicted[k * number + i]),
            }
        )
    best = made[chosen].with_ids([row["id"] for row in rows]) if rows else Packed.empty()
    best = best.with_failures(made.failures if not rows else ())
    return best, pd.DataFrame(rows)


def _valid(crystals: Crystals) -> NDArray[np.bool_]:
    """Find crystals of valid structure and composition."""
    from crysmetrics.metrics.oxidation import valid_compositions
    from crysmetrics.metrics.settings import EvaluationSettings
    from crysmetrics.metrics.validity import valid_structures

    settings = EvaluationSettings()
    structures, _ = valid_structures(crystals, settings)
    compositions = valid_compositions(crystals.element_counts, settings.oxidation_states)
    return np.asarray(structures & compositions, dtype=bool)


def _best(
    candidates: list[tuple[int, int]],
    values: NDArray[np.float64],
    valid: NDArray[np.bool_],
    maximize: bool,
) -> tuple[int, int]:
    """Choose among (row, number) by value; valid ones, and those with a value, come first."""

    def order(candidate: tuple[int, int]) -> tuple[bool, bool, float]:
        row, _ = candidate
        value = values[row]
        known = bool(np.isfinite(value))
        return not valid[row], not known, (-value if maximize else value) if known else 0.0

    return min(candidates, key=order)
