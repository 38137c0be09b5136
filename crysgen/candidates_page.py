"""`candidates.html`: every candidate with picture, energies and reasons, and turned in 3D.

One file that opens offline, in any browser, on any screen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from crysgen.file_formats import FILE_FORMATS
from crysgen.settings import SamplingSettings
from crysmetrics._version import __version__
from crysmetrics.io import Crystals
from crysmetrics.reporting.html import json_for_script, report_asset
from crysmetrics.reporting.pictures import crystal_svg, viewer_cell

if TYPE_CHECKING:
    from crysgen.samples import Result

MOST_SHOWN = 200
"""Candidates on a page; the table has all."""
MOST_IN_NOTEBOOK = 8
"""Candidates that a notebook shows."""


@dataclass(frozen=True)
class _Quantity:
    """How a column of the table of samples is shown: its title, digits and unit."""

    title: str
    digits: int
    unit: str = ""

    def text(self, value: Any) -> str:
        """Write a value, or "" where there is none."""
        if value is None or not math.isfinite(float(value)):
            return ""
        return f"{float(value):.{self.digits}f}{' ' if self.unit else ''}{self.unit}"


QUANTITIES: dict[str, _Quantity] = {
    "probability": _Quantity("Probability", 2),
    "score": _Quantity("Score", 3),
    "relaxed_above_lowest": _Quantity("Relaxed, above the lowest", 3, "eV/atom"),
    "relaxed_disagreement": _Quantity("Potentials disagree by", 3, "eV/atom"),
    "predicted_formation_energy_per_atom": _Quantity("Formation energy (ALIGNN)", 3, "eV/atom"),
    "density": _Quantity("Density", 2, "g/cm³"),
    "volume_per_atom": _Quantity("Volume", 2, "Å³/atom"),
    "min_distance": _Quantity("Shortest distance", 2, "Å"),
}
"""Columns that a page shows where they hold numbers, in this order."""


def render(result: Result, settings: SamplingSettings | None = None) -> str:
    """Write the page, complete with styles, script and viewer.

    Args:
        result: of a run.
        settings: of the run, which say what files lie beside the page; none without.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_asset("candidates.html.j2"))
    cards = [_card(row, crystal, settings) for row, crystal in _shown(result, MOST_SHOWN)]
    _explain(cards)
    formulas = list(dict.fromkeys(card["group"] for card in cards))
    return template.render(
        title=", ".join(formulas[:3]) + (" and more" if len(formulas) > 3 else ""),
        version=__version__,
        style=report_asset("report.css") + _asset("candidates.css"),
        script=report_asset("viewer.js") + _asset("candidates.js"),
        viewer=f"/*\n{report_asset('3Dmol-LICENSE.txt')}\n*/\n{report_asset('3Dmol-min.js')}",
        groups=[(f, [card for card in cards if card["group"] == f]) for f in formulas],
        cells_json=json_for_script([card["cell"] for card in cards]),
        notes=result.notes,
        failures=result.failures,
        total=len(result.crystals),
        shown=len(cards),
        relaxed=settings is not None and settings.relax,
        settings=None if settings is None else _settings_text(settings),
    )


def notebook_table(result: Result) -> str:
    """Write the first candidates, with pictures, as an HTML table for a notebook's cell."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_asset("notebook.html.j2"))
    cards = [_card(row, crystal, None) for row, crystal in _shown(result, MOST_IN_NOTEBOOK)]
    _explain(cards)
    titles = list(dict.fromkeys(title for card in cards for title, _ in card["facts"]))
    rows = [(card, [dict(card["facts"]).get(title, "") for title in titles]) for card in cards]
    return template.render(
        rows=rows, titles=titles, more=len(result.crystals) - len(cards), notes=result.notes
    )


def _shown(result: Result, most: int) -> list[tuple[Mapping[str, Any], Crystals]]:
    """Choose the candidates to show: the best of each composition where there are too many."""
    rows = result.table.to_dict("records")
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["rank"], i))[:most]
    return [(rows[i], result.crystals[i]) for i in sorted(order)]


def _card(
    row: Mapping[str, Any], crystal: Crystals, settings: SamplingSettings | None
) -> dict[str, Any]:
    """Collect what is shown of one candidate."""
    from crysmetrics.space_group_settings import short_symbol

    number = int(row["space_group"])
    stem = str(row["file"]).rpartition(".")[0]
    facts = [
        (found.title, text)
        for name, found in QUANTITIES.items()
        if name in row and (text := found.text(row[name]))
    ]
    return {
        "group": str(row["ref_id"] or row["formula"]),
        "formula": str(row["formula"]),
        "rank": int(row["rank"]),
        "name": stem,
        "space_group": f"{short_symbol(number)} ({number})",
        "prototype": str(row["prototype"]),
        "status": str(row["status"]),
        "is_known": str(row["status"]).startswith("known"),
        "nearest": _nearest(row),
        "relaxation": _relaxation(row),
        "atoms": int(row["num_atoms"]),
        "cell_text": _cell_text(crystal),
        "facts": facts,
        "method": str(row["method"]),
        "prototype_id": str(row["prototype_id"]),
        "svg": crystal_svg(crystal, f"{row['formula']}, {short_symbol(number)}"),
        "cell": viewer_cell(crystal),
        "files": [] if settings is None else _links(stem, settings),
    }


def _nearest(row: Mapping[str, Any]) -> str:
    """Name the nearest known structure, where it is not the one that stands in the status."""
    name, distance = str(row["nearest_known"]), float(row["nearest_known_distance"])
    if not name or not math.isfinite(distance) or f"({name}" in str(row["status"]):
        return ""
    return f"{name}, at {distance:.3f} Å (AMD)"


def _relaxation(row: Mapping[str, Any]) -> str:
    """Say by what a structure was relaxed, and how that ended; "" where it was not."""
    return f"{row['potential']}, {row['relaxation']}" if row["potential"] else ""


def _cell_text(crystal: Crystals) -> str:
    """Write edges in Å and angles in degrees."""
    from crysmetrics.io.lattice import lattice_parameters

    lengths, angles = lattice_parameters(crystal.lattices[0])
    edges, corners = (", ".join(f"{x:.{n}f}" for x in v) for v, n in ((lengths, 3), (angles, 1)))
    return f"{edges} Å; {corners}°"


def _links(stem: str, settings: SamplingSettings) -> list[tuple[str, str]]:
    """List titles and names of the files of a candidate."""
    from crysmetrics.io.formats import FORMATS

    return [
        (FORMATS[name].title, stem + FORMATS[name].suffixes[0])
        for name in FILE_FORMATS
        if name in settings.formats
    ]


_MODEL_METHODS = {
    "diffusion": "Drawn from noise by a diffusion model.",
    "wyckoff": "Drawn from noise by a model within a space group that is likely for the formula.",
    "refine": "A proposal that a diffusion model has noised and denoised.",
}


def _explain(cards: list[dict[str, Any]]) -> None:
    """Add to each card, in a sentence, where its structure comes from."""
    from crysgen.retrieval.library.names import formulas_of

    formulas = formulas_of({card["prototype_id"] for card in cards} - {""})
    for card in cards:
        source = card["prototype_id"]
        of = f"{formulas[source]} ({source})" if source in formulas else source
        if card["is_known"]:
            reason = "A known structure of this formula."
        elif card["method"] in _MODEL_METHODS:
            reason = _MODEL_METHODS[card["method"]]
        elif card["method"] == "decoration":
            reason = f"The structure of {of}, with two elements in order on the sites of one."
        elif card["method"] == "merging":
            reason = f"The structure of {of}, with one element on the sites of two."
        elif of:
            reason = f"The structure of {of}, with the elements of this formula in their places."
        else:
            reason = f"Proposed by {card['method']}."
        card["reason"] = reason


def _settings_text(settings: SamplingSettings) -> str:
    """Write the settings, but for the place of the model, which request.json names by its hash."""
    chosen = settings.to_json()
    chosen.pop("model")
    return json.dumps(chosen, indent=1)


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
