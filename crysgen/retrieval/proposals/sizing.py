"""Scale proposals to the volumes that composition, structure, template and support suggest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts, species_indices, species_of
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.proposals.proposal import Proposal
from crysgen.retrieval.scoring.volume import TEMPLATE_VOLUME, radial_histograms

TEMPLATE_RESIDUAL = 0.5
"""Share of the template's log-volume residual (by how much the network is wrong for it) that is
applied to the proposal. Best on `val`."""
SUPPORT_WEIGHT = 0.25
"""Weight of the mean log-volume of the supporting entries beside that prediction. Best on `val`."""


def with_volumes(library: Library, proposals: Sequence[Proposal]) -> list[Proposal]:
    """Scale proposals of one composition, whose cell sizes may differ, to their likely volumes."""
    found = list(proposals)
    by_size: dict[int, list[int]] = {}
    for k, proposal in enumerate(proposals):
        by_size.setdefault(proposal.num_atoms, []).append(k)
    for rows in by_size.values():
        elements, counts = species_of(proposals[rows[0]].atomic_numbers)
        histograms = np.array([_histograms(proposals[k], elements, counts) for k in rows])
        each = np.repeat(elements[None], len(rows), axis=0)
        predicted = library.volumes.log_volumes(each, counts, histograms)
        usual = float(np.log(library.similarity.cell_volumes(elements[None], counts)[0]))
        for k, log_volume in zip(rows, predicted.tolist(), strict=True):
            found[k] = _scaled(library, proposals[k], log_volume, usual)
    return found


def _scaled(library: Library, proposal: Proposal, predicted: float, usual: float) -> Proposal:
    """Scale a proposal; log-volumes by the network, and by composition alone, are in ln Å³."""
    supported = usual + TEMPLATE_VOLUME * proposal.features.volume_factor
    residual = library.log_volume_residual(library.entries.position[proposal.template_id])
    log_volume = (1 - SUPPORT_WEIGHT) * (
        predicted + TEMPLATE_RESIDUAL * residual
    ) + SUPPORT_WEIGHT * supported
    disagreement = abs(predicted + residual - supported)
    features = replace(proposal.features, volume_disagreement=disagreement)
    return replace(proposal, features=features).scaled_to(float(np.exp(log_volume)))


def _histograms(
    proposal: Proposal, elements: NDArray[np.int64], counts: Counts
) -> NDArray[np.float32]:
    """Compute radial histograms (k, k, R) of a proposal, its atoms sorted by species."""
    order = np.argsort(species_indices(proposal.atomic_numbers, elements), kind="stable")
    return radial_histograms(proposal.lattice, proposal.frac_coords[order], counts)
