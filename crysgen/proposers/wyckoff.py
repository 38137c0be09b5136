"""Propose crystals from Wyckoff positions: for formulas of which no prototype is known.

Space groups and the positions that atoms take are drawn as often as known crystals have them; free
coordinates and the cell come from a model, which obeys the group all the way.
"""

from __future__ import annotations

from crysgen.proposers.model import ModelSamples
from crysgen.requests import Draw
from crysgen.wyckoff.groups import draw_space_group


class WyckoffSamples(ModelSamples):
    """See `crysgen.proposers.base.Method`; a piece is one draw."""

    name = "wyckoff"

    def group_of(self, draw: Draw) -> int | None:
        """See `ModelSamples`."""
        atoms = draw.target.atomic_numbers
        if self.settings.space_group is None and atoms:
            return draw_space_group(atoms, draw.seed)
        return self.settings.space_group
