"""Draw a crystal as a small SVG: atoms, bonds and cell, seen from a little above and aside."""

from __future__ import annotations

from html import escape
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS

MOST_ATOMS = 400
"""Atoms of a cell beyond which nothing is drawn."""
WIDTH, HEIGHT = 240, 200
_LEGEND = 20
_MARGIN = 6
_EDGE = 1e-3
"""Fractional distance from the border within which an atom is drawn on the other side too."""
_BOND = 1.15
"""Sum of two covalent radii, times this, is the longest bond that is drawn."""
_BALL = 0.45
"""Radius of a ball divided by the covalent radius."""


def drawn_atoms(crystal: Crystals) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """List the atoms of a crystal to draw, those on the cell's border repeated.

    Returns:
        Atomic numbers (n,) and positions (n, 3) in Å.
    """
    numbers: list[int] = []
    frac: list[tuple[float, ...]] = []
    for z, position in zip(crystal.atomic_numbers, crystal.frac_coords, strict=True):
        choices = [
            (x, x + 1) if x < _EDGE else ((x, x - 1) if x > 1 - _EDGE else (x,)) for x in position
        ]
        for image in product(*choices):
            numbers.append(int(z))
            frac.append(image)
    return np.array(numbers), np.array(frac) @ crystal.lattices[0]


def viewer_cell(crystal: Crystals) -> dict[str, Any] | None:
    """Write a crystal for the 3D viewer: XYZ text and lattice; None if it has too many atoms."""
    if len(crystal.atomic_numbers) > MOST_ATOMS:
        return None
    numbers, positions = drawn_atoms(crystal)
    lines = [str(len(numbers)), ""]
    lines += [
        f"{SYMBOLS[z]} {x:.4f} {y:.4f} {z_:.4f}"
        for z, (x, y, z_) in zip(numbers.tolist(), positions.tolist(), strict=True)
    ]
    return {"xyz": "\n".join(lines), "lattice": np.round(crystal.lattices[0], 5).tolist()}


def crystal_svg(crystal: Crystals, title: str = "") -> str | None:
    """Draw one crystal as SVG text that needs nothing beside it; None if it has too many atoms.

    Args:
        crystal: one structure.
        title: for screen readers; the id by default.
    """
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    if len(crystal.atomic_numbers) > MOST_ATOMS:
        return None
    numbers, positions = drawn_atoms(crystal)
    radii = covalent_radii[numbers]
    # The colours end with meitnerium.
    heaviest = len(jmol_colors) - 1
    colours = {z: _hex(jmol_colors[min(z, heaviest)]) for z in np.unique(numbers).tolist()}
    bonds = _bonds(positions, radii)
    corners = np.array(list(product((0, 1), repeat=3))) @ crystal.lattices[0]
    turned, ends = positions @ _view(), corners @ _view()
    balls = _BALL * radii
    low = np.minimum((turned[:, :2] - balls[:, None]).min(axis=0), ends[:, :2].min(axis=0))
    high = np.maximum((turned[:, :2] + balls[:, None]).max(axis=0), ends[:, :2].max(axis=0))
    room = np.array([WIDTH - 2 * _MARGIN, HEIGHT - _LEGEND - 2 * _MARGIN])
    scale = float((room / (high - low)).min())
    middle = (low + high) / 2

    def pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = (points[..., :2] - middle).T * scale
        return np.stack([WIDTH / 2 + x, (HEIGHT - _LEGEND) / 2 - y], axis=-1)

    # What lies farther from the eye is drawn first.
    parts = _edges(ends, pixels)
    dots = pixels(turned)
    for i, j in bonds:
        half = pixels((turned[i] + turned[j]) / 2)
        depth = float(turned[[i, j], 2].mean())
        parts += [
            (depth - 1e-6, _line(dots[k], half, colours[int(numbers[k])], 0.16 * scale))
            for k in (i, j)
        ]
    for k, z in enumerate(numbers.tolist()):
        parts.append((float(turned[k, 2]), _ball(dots[k], balls[k] * scale, colours[z])))
    parts.sort(key=lambda part: part[0])
    text = escape(title or crystal.ids[0])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'class="crystal"><title>{text}</title>{"".join(part for _, part in parts)}'
        f"{_legend(colours)}</svg>"
    )


def _view() -> NDArray[np.float64]:
    """Give the matrix (3, 3) that turns rows by 25° about y, then -15° about x, as the viewer."""
    a, b = np.radians([25.0, -15.0])
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    return about_y @ about_x


def _bonds(positions: NDArray[np.float64], radii: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Find the pairs of atoms near enough to be drawn as bonded."""
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    near = (apart < _BOND * (radii[:, None] + radii[None])) & (apart > 0.4)
    rows, columns = np.nonzero(np.triu(near, 1))
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _edges(ends: NDArray[np.float64], pixels: Any) -> list[tuple[float, str]]:
    """Draw the cell's twelve edges in pieces, so that atoms may hide some of an edge."""
    found = []
    for bit in (1, 2, 4):
        for corner in range(8):
            if corner & bit:
                continue
            along = np.linspace(0, 1, 7)[:, None]
            points = ends[corner] * (1 - along) + ends[corner | bit] * along
            dots = pixels(points)
            depths = (points[1:, 2] + points[:-1, 2]) / 2
            found += [
                (float(depth), _line(dots[k], dots[k + 1], "#8a94a3", 1.2))
                for k, depth in enumerate(depths)
            ]
    return found


def _line(start: NDArray[np.float64], end: NDArray[np.float64], colour: str, width: float) -> str:
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
        f'stroke="{colour}" stroke-width="{width:.1f}" stroke-linecap="round"/>'
    )


def _ball(center: NDArray[np.float64], radius: float, colour: str) -> str:
    x, y = center
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" stroke="#3a424d" '
        f'stroke-width="0.8"/><circle cx="{x - 0.3 * radius:.1f}" cy="{y - 0.3 * radius:.1f}" '
        f'r="{0.35 * radius:.1f}" fill="#fff" fill-opacity="0.45"/>'
    )


def _legend(colours: dict[int, str]) -> str:
    """Name the elements below the picture."""
    step = min(38.0, (WIDTH - 2 * _MARGIN) / len(colours))
    start = WIDTH / 2 - step * len(colours) / 2
    y = HEIGHT - _LEGEND / 2
    return "".join(
        f'<circle cx="{start + k * step + 6:.1f}" cy="{y:.1f}" r="5" fill="{colour}" '
        f'stroke="#3a424d" stroke-width="0.8"/><text x="{start + k * step + 14:.1f}" '
        f'y="{y + 4:.1f}" font-size="12" font-family="system-ui, sans-serif" fill="#7b8593">'
        f"{SYMBOLS[z]}</text>"
        for k, (z, colour) in enumerate(colours.items())
    )


def _hex(colour: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour)
