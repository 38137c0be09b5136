"""Small charts as inline SVG, whose colours come from the page, so that they suit light and dark.

Every chart has a title and a description for those who can't see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 400, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 42


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose about `count` round numbers within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** floor(log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first = ceil(low / step - 1e-9)
    last = floor(high / step + 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, last + 1)]


def label(value: float) -> str:
    """Write a short number for an axis."""
    return f"{value:,.10g}" if abs(value) < 1e6 else f"{value:.3g}"


@dataclass
class Chart:
    """Axes in data coordinates, and what was drawn on them.

    Attributes:
        title, description: for screen readers.
        x, y: limits.
        x_label, y_label: with units.
        x_ticks: (position, text); round numbers if None.
    """

    title: str
    description: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]] | None = None
    width: int = WIDTH
    height: int = HEIGHT
    parts: list[str] = field(default_factory=list)

    def px(self, x: ArrayLike) -> NDArray[np.float64]:
        """Convert data to horizontal pixels."""
        low, high = self.x
        return _LEFT + (np.asarray(x, float) - low) / (high - low) * self._inner[0]

    def py(self, y: ArrayLike) -> NDArray[np.float64]:
        """Convert data to vertical pixels."""
        low, high = self.y
        return self.height - _BOTTOM - (np.asarray(y, float) - low) / (high - low) * self._inner[1]

    @property
    def _inner(self) -> tuple[int, int]:
        return self.width - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM

    def line(self, x: ArrayLike, y: ArrayLike, style: str) -> None:
        """Draw a line through points; `style` is a CSS class."""
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(self.px(x), self.py(y), strict=True))
        self.parts.append(f'<polyline class="line {style}" points="{points}"/>')

    def area(self, edges: ArrayLike, heights: ArrayLike, style: str) -> None:
        """Draw a histogram of k + 1 edges and k heights."""
        x = np.repeat(self.px(edges), 2)
        y = self.py(np.concatenate([[0], np.repeat(np.asarray(heights, float), 2), [0]]))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        self.parts.append(f'<polygon class="area {style}" points="{points}"/>')

    def bar(self, left: float, right: float, height: float, style: str) -> None:
        """Draw a bar between two data positions."""
        a, b = self.px([left, right])
        top, base = self.py([height, 0])
        self.parts.append(
            f'<rect class="bar {style}" x="{a:.1f}" y="{top:.1f}" width="{b - a:.1f}" '
            f'height="{max(0.0, base - top):.1f}"/>'
        )

    def points(self, x: ArrayLike, y: ArrayLike, style: str) -> None:
        """Draw dots."""
        for a, b in zip(self.px(x), self.py(y), strict=True):
            self.parts.append(f'<circle class="dot {style}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>')

    def text(self, x: float, y: float, words: str) -> None:
        """Write a name below a place."""
        a, b = float(self.px(x)), float(self.py(y))
        self.parts.append(
            f'<text class="tick" x="{a:.1f}" y="{b + 13:.1f}" text-anchor="middle">'
            f"{escape(words)}</text>"
        )

    def vertical(self, x: float) -> None:
        """Draw a line that marks a position, such as a threshold."""
        a = float(self.px(x))
        self.parts.append(
            f'<line class="mark" x1="{a:.1f}" x2="{a:.1f}" y1="{_TOP}" '
            f'y2="{self.height - _BOTTOM}"/>'
        )

    def render(self) -> str:
        """Write the SVG element."""
        inner, bottom = self._inner, self.height - _BOTTOM
        grid = []
        for value in nice_ticks(*self.y):
            y = float(self.py(value))
            grid.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + inner[0]}" '
                        f'y1="{y:.1f}" y2="{y:.1f}"/>')  # fmt: skip
            grid.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" '
                        f'text-anchor="end">{label(value)}</text>')  # fmt: skip
        ticks = self.x_ticks
        if ticks is None:
            ticks = [(value, label(value)) for value in nice_ticks(*self.x)]
        for value, text in ticks:
            x = float(self.px(value))
            grid.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" '
                        f'text-anchor="middle">{escape(text)}</text>')  # fmt: skip
        middle_x, middle_y = _LEFT + inner[0] / 2, _TOP + inner[1] / 2
        return (
            f'<svg class="chart" role="img" viewBox="0 0 {self.width} {self.height}">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>"
            + "".join(grid)
            + f'<line class="axis" x1="{_LEFT}" x2="{_LEFT + inner[0]}" '
            f'y1="{bottom}" y2="{bottom}"/>'
            + "".join(self.parts)
            + f'<text class="label" x="{middle_x:.0f}" y="{self.height - 8}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
            f'<text class="label" transform="translate(14 {middle_y:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y_label)}</text></svg>'
        )


@dataclass
class Triangle:
    """Shares of three parts as places in a triangle, whose corners are the parts alone.

    Attributes:
        title, description: for screen readers.
        corners: names of the parts: left, right, top.
    """

    title: str
    description: str
    corners: tuple[str, ...]
    width: int = WIDTH
    height: int = 350
    parts: list[str] = field(default_factory=list)

    def pixels(self, shares: ArrayLike) -> NDArray[np.float64]:
        """Convert shares (n, 3), which sum to 1, to pixels (n, 2)."""
        side, margin = self.width - 80, 40
        base = self.height - 36
        places = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
        found = np.asarray(shares, float) @ places * side
        return np.column_stack([margin + found[:, 0], base - found[:, 1]])

    def line(self, shares: ArrayLike, style: str) -> None:
        """Draw a line through points (n, 3); `style` is a CSS class."""
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in self.pixels(shares))
        self.parts.append(f'<polyline class="line {style}" points="{points}"/>')

    def points(self, shares: ArrayLike, style: str) -> None:
        """Draw dots at (n, 3)."""
        for a, b in self.pixels(np.reshape(shares, (-1, 3))):
            self.parts.append(f'<circle class="dot {style}" cx="{a:.1f}" cy="{b:.1f}" r="3.2"/>')

    def text(self, shares: ArrayLike, words: str) -> None:
        """Write a name below a place (3,)."""
        ((a, b),) = self.pixels(np.reshape(shares, (1, 3)))
        self.parts.append(
            f'<text class="tick" x="{a:.1f}" y="{b + 13:.1f}" text-anchor="middle">'
            f"{escape(words)}</text>"
        )

    def render(self) -> str:
        """Write the SVG element."""
        names = []
        for (a, b), name, drop in zip(
            self.pixels(np.eye(3)), self.corners, (20, 20, -8), strict=True
        ):
            names.append(
                f'<text class="label" x="{a:.1f}" y="{b + drop:.1f}" text-anchor="middle">'
                f"{escape(name)}</text>"
            )
        return (
            f'<svg class="chart" role="img" viewBox="0 0 {self.width} {self.height}">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>"
            + "".join(self.parts)
            + "".join(names)
            + "</svg>"
        )
