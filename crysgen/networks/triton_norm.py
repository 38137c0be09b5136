"""Triton kernels of `crysgen.networks.normalised`.

Numbers are widened to 32 bits where they are computed with, and rounded where they are stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ENTRIES = 2048
"""Numbers of a tile."""


@triton.jit(do_not_specialize=["rows"])
def _normalise(x, y, scale, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & (column < width)[None]
    place = row[:, None] * width + column[None]
    value = tl.load(x + place, mask=here, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1) / width
    value = tl.where(here, value - mean[:, None], 0.0)
    found = 1 / tl.sqrt(tl.sum(value * value, 1) / width + eps)
    tl.store(y + place, value * found[:, None], mask=here)
    tl.store(scale + row, found, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _normalise_backward(g, y, scale, out, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & (column < width)[None]
    place = row[:, None] * width + column[None]
    gradient = tl.load(g + place, mask=here, other=0.0).to(tl.float32)
    value = tl.load(y + place, mask=here, other=0.0).to(tl.float32)
    found = tl.load(scale + row, mask=row < rows, other=0.0)
    mean = tl.sum(gradient, 1) / width
    along = tl.sum(gradient * value, 1) / width
    gradient = found[:, None] * (gradient - mean[:, None] - value * along[:, None])
    tl.store(out + place, gradient, mask=here)


def normalise(values: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normalise values (..., P); also return what each row was multiplied by, (rows,)."""
    width = values.shape[-1]
    rows = values.numel() // width
    found = torch.empty_like(values)
    scales = torch.empty(rows, dtype=torch.float32, device=values.device)
    tile = _tile(width)
    _normalise[(triton.cdiv(rows, tile["ROWS"]),)](values, found, scales, rows, width, eps, **tile)
    return found, scales


def normalise_backward(gradient: Tensor, found: Tensor, scales: Tensor) -> Tensor:
    """Return the gradient of the values that `normalise` made `found` of."""
    width, rows = found.shape[-1], len(scales)
    out = torch.empty_like(found)
    tile = _tile(width)
    grid = (triton.cdiv(rows, tile["ROWS"]),)
    _normalise_backward[grid](gradient, found, scales, out, rows, width, **tile)
    return out


def _tile(width: int) -> dict[str, int]:
    """Choose how many rows of this width are a tile."""
    padded = triton.next_power_of_2(width)
    return {"ROWS": max(1, _ENTRIES // padded), "WIDTH": padded}
