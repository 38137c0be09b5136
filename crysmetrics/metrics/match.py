"""Match rates: how often a predicted structure is the reference structure.

Two structures match where pymatgen's StructureMatcher (stol 0.5, angle_tol 10, ltol 0.3 in all
published tables) finds a mapping, and then have an RMS distance, normalised by (V/N)^(1/3). With
several predictions for one reference, `KEY_topK` counts the best of the first K ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.features.sample import Sample
from crysmetrics.matching.candidates import pairs_of_one_key
from crysmetrics.matching.cells import reduce_cells
from crysmetrics.matching.distances import rms_distances
from crysmetrics.matching.pairing import Pairing, pair
from crysmetrics.metrics.base import Measure, Metric, Outcome, Value, undefined
from crysmetrics.metrics.intervals import mean, share
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.metrics.registry import top_key
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.metrics.validity import valid_structures


def match(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute match rates and RMS distances of predictions.

    The denominator of every share is the references that were read: one without a prediction, or
    whose predictions could not be read, counts as not matched, and is named.

    - `match_rate`: share of references that a prediction of their own matches.
    - `match_rate_valid`: only pairs count of which both structures are valid, in structure
      (all distances above 0.5 Å) and in composition (SMACT): the rule of DiffCSP's script, and
      so of most published tables. Invalid references can't be matched then.
    - `rmse`: mean RMS distance of the matched references, the smallest among the predictions
      considered; over all pairs. The note of `match_rate_valid` has that of its pairs.
    - `crmse`: mean over all references, with `stol` for those that are not matched.
    - `metre`: share of references that any prediction of their composition matches, whichever
      reference it is for ("match everyone to reference"). Its note has the cRMSE over these.
    """
    if not settings.top or min(settings.top) < 1:
        raise UserError("Numbers of predictions to consider (top) must be 1 or more.")
    deepest = max(settings.top)
    pairing = pair(gen.crystals, ref.crystals, gen.path, settings.pairing)
    gen_cells, ref_cells = (reduce_cells(s.crystals, s.run.workers) for s in (gen, ref))
    own = np.flatnonzero((pairing.reference >= 0) & (pairing.rank <= deepest))
    pairs = np.stack([own, pairing.reference[own]], axis=1)
    if settings.metre:
        close = np.flatnonzero(pairing.rank <= deepest)
        alike = pairs_of_one_key(gen_cells.compositions, ref_cells.compositions, close)
        pairs = np.concatenate([pairs, alike])
        pairs = pairs[np.unique(pairs @ np.array([len(ref), 1]), return_index=True)[1]]
    distances = rms_distances(
        gen_cells,
        ref_cells,
        pairs,
        stol=settings.stol,
        angle_tol=settings.angle_tol,
        ltol=settings.ltol,
        workers=gen.run.workers,
    )
    is_own = pairing.reference[pairs[:, 0]] == pairs[:, 1]
    struct_valid, comp_valid = _validity(gen, settings)
    ref_valid = np.logical_and(*_validity(ref, settings))
    both_valid = (struct_valid & comp_valid)[pairs[:, 0]] & ref_valid[pairs[:, 1]]
    values: dict[str, Value] = {}
    of_reference: dict[str, NDArray[np.float64]] = {}
    for top in sorted(set(settings.top)):
        among = pairing.rank[pairs[:, 0]] <= top
        best = {
            "rms": _best(len(ref), pairs, distances, among & is_own),
            "rms_valid": _best(len(ref), pairs, distances, among & is_own & both_valid),
        }
        if settings.metre:
            best["metre_rms"] = _best(len(ref), pairs, distances, among)
        values |= {
            top_key(key, top): value for key, value in _values(best, pairing, settings.stol, top)
        }
        of_reference |= {top_key(name, top): column for name, column in best.items()}
    rms = np.full(len(gen), np.nan)
    rms[pairs[is_own, 0]] = distances[is_own]
    predictions = pairing.predictions(len(ref))
    named = np.array([*ref.crystals.ids, ""], dtype=np.str_)
    return Outcome(
        values,
        {
            "ref_id": named[pairing.reference],
            "rank": np.where(pairing.reference >= 0, pairing.rank, 0),
            "rms": rms,
            "struct_valid": struct_valid,
            "comp_valid": comp_valid,
        },
        {"predictions": predictions, **of_reference, "valid": ref_valid},
        failures=(*pairing.failures, *_without_prediction(ref, predictions)),
    )


def _best(
    references: int,
    pairs: NDArray[np.int64],
    distances: NDArray[np.float64],
    chosen: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Find (references,) the smallest distance of the chosen pairs; NaN where nothing matches."""
    best = np.full(references, np.nan)
    np.fmin.at(best, pairs[chosen, 1], distances[chosen])
    return best


def _values(
    best: dict[str, NDArray[np.float64]], pairing: Pairing, stol: float, top: int
) -> Iterator[tuple[str, Value]]:
    """List (key, value) of all metrics for one number of predictions considered."""
    total = len(best["rms"])
    predictions = pairing.predictions(total, top)
    count = int(predictions.sum())
    if not pairing.predictions(total).any():
        for key in ("match_rate", "match_rate_valid", "rmse", "crmse"):
            yield key, undefined(pairing.by, 0, total)
    else:
        note = f"paired by {pairing.by}"
        if not predictions.all():
            without = int((predictions == 0).sum())
            note += f"; {without:,} of {total:,} references have no prediction"
        hit, hit_valid = np.isfinite(best["rms"]), np.isfinite(best["rms_valid"])
        yield "match_rate", share(int(hit.sum()), total, count, total).with_note(note)
        rate = share(int(hit_valid.sum()), total, count, total)
        if hit_valid.any():
            rate = rate.with_note(f"their RMSE is {np.mean(best['rms_valid'][hit_valid]):.4f}")
        yield "match_rate_valid", rate
        if hit.any():
            yield "rmse", mean(best["rms"][hit], count, int(hit.sum()))
        else:
            yield "rmse", undefined("no pair matches", count, 0)
        yield "crmse", mean(np.where(hit, best["rms"], stol), count, total)
    if "metre_rms" in best:
        hit = np.isfinite(best["metre_rms"])
        everyone = int((pairing.rank <= top).sum() + (pairing.lost[:, 1] <= top).sum())
        corrected = np.where(hit, best["metre_rms"], stol).mean()
        rate = share(int(hit.sum()), total, everyone, total)
        yield "metre", rate.with_note(f"its cRMSE is {corrected:.4f}")


def _validity(
    sample: Sample, settings: EvaluationSettings
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell (B,) which structures are valid, and which compositions."""
    crystals = sample.crystals
    structure, _ = valid_structures(crystals, settings, sample.run.workers)
    return structure, valid_compositions(crystals.element_counts, settings.oxidation_states)


def _without_prediction(ref: Sample, predictions: NDArray[np.int64]) -> Iterator[dict[str, str]]:
    if not predictions.any():  # then that is the reason why there is no match rate
        return
    for i in np.flatnonzero(predictions == 0):
        reason = "has no prediction, and counts as not matched"
        yield {"input": "ref", "file": ref.crystals.ids[i], "reason": reason}


_MATCHER = "StructureMatcher of pymatgen (Ong et al. 2013)"
_DIFFCSP = "Jiao et al. 2023 (DiffCSP), compute_metrics.py"
_METRE = "Martirossyan et al. 2025 (arXiv 2509.12178)"
_LENGTH = "(V/N)^(1/3)"

MEASURE = Measure(
    "match",
    80,
    (
        Metric(
            "match_rate",
            "Match rate",
            "share",
            "higher",
            _MATCHER,
            gated=True,
            definition="Share of reference structures that the prediction made for them "
            "matches (StructureMatcher: stol 0.5, angle_tol 10, ltol 0.3), "
            "counting all pairs.",
        ),
        Metric(
            "match_rate_valid",
            "Match rate, valid pairs only",
            "share",
            "higher",
            _DIFFCSP,
            definition="Match rate by DiffCSP's rule: a pair counts only if prediction and "
            "reference both are valid.",
        ),
        Metric(
            "rmse",
            "RMSE of matches",
            _LENGTH,
            "lower",
            _MATCHER,
            definition="Mean over matched pairs of the root-mean-square displacement of "
            "atoms, divided by the cube root of the volume per atom.",
        ),
        Metric(
            "crmse",
            "cRMSE",
            _LENGTH,
            "lower",
            _METRE,
            definition="The same displacement over all pairs, where one that does not match "
            "counts with the tolerance (0.5).",
        ),
        Metric(
            "metre",
            "METRe",
            "share",
            "higher",
            _METRE,
            biased=True,
            definition="Share of reference structures that any prediction matches, not only "
            "the one made for it.",
        ),
    ),
    match,
    roles=("gen", "ref"),
    settings=(
        *("top", "pairing", "metre", "stol", "angle_tol", "ltol"),
        *("min_distance", "min_volume", "oxidation_states"),
    ),
    paired=True,
    ranked=True,
)
