"""Kinds of phases in drawn hulls, and their colours."""

from __future__ import annotations

from crysmetrics.hull.diagram import DiagramPhase, HullDiagram

SHOWN_UNSTABLE = 0.2
"""eV/atom above the hull up to which phases are drawn."""
KINDS = (
    ("on the hull", True, False),
    ("found, on the hull", True, True),
    ("above the hull", False, False),
    ("found, above the hull", False, True),
)
"""Name of each kind of phase; whether it is on the hull, and whether the table lacks it."""
NO_PHASE = "known energy of the hull, without a phase"
EDGE_COLOUR = "#9ab7cc"
STABLE_COLOUR, FOUND_COLOUR, UNSTABLE_COLOUR = "#1b6ca8", "#2a9d5c", "#c0392b"


def phases_of_kind(diagram: HullDiagram, on_hull: bool, found: bool) -> list[DiagramPhase]:
    """List the phases of one of `KINDS` that are drawn."""
    return [
        phase
        for phase in diagram.phases
        if phase.on_hull == on_hull and phase.found == found and phase.above <= SHOWN_UNSTABLE
    ]
