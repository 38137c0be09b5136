"""Triton kernels of `crysgen.networks.fused`, and their launches.

Numbers are widened to 32 bits where they are computed with, and rounded where they are stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ENTRIES = 2048
"""Numbers of a tile."""
_RUN = 1024
"""Numbers of a channel that one program sums."""


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


@triton.jit(do_not_specialize=["rows", "size"])
def _gate(u, ends, out, rows, size, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & (column < width)[None]
    place = row[:, None] * width + column[None]
    first = (row // size) * 2 * width
    second = ((row // size // size) * size + row % size) * 2 * width + width
    value = tl.load(u + place, mask=here, other=0.0).to(tl.float32)
    value += tl.load(ends + first[:, None] + column[None], mask=here, other=0.0).to(tl.float32)
    value += tl.load(ends + second[:, None] + column[None], mask=here, other=0.0).to(tl.float32)
    tl.store(out + place, value * tl.sigmoid(value), mask=here)


@triton.jit(do_not_specialize=["size"])
def _gate_backward(
    g, u, ends, of_u, of_ends, size, width, SIZE: tl.constexpr, COLUMNS: tl.constexpr
):
    # One program has all pairs of a crystal, for some channels, so that both sums stay in it.
    start = tl.program_id(0).to(tl.int64) * size
    other = tl.arange(0, SIZE)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here = (other < size)[:, None] & (column < width)[None]
    of_second = (start + other)[:, None] * 2 * width + width + column[None]
    second = tl.load(ends + of_second, mask=here, other=0.0).to(tl.float32)
    sums = tl.zeros((SIZE, COLUMNS), dtype=tl.float32)
    for one in range(size):
        of_first = (start + one) * 2 * width + column
        first = tl.load(ends + of_first, mask=column < width, other=0.0).to(tl.float32)
        place = ((start + one) * size + other)[:, None] * width + column[None]
        value = tl.load(u + place, mask=here, other=0.0).to(tl.float32) + first[None] + second
        share = tl.sigmoid(value)
        gradient = tl.load(g + place, mask=here, other=0.0).to(tl.float32)
        gradient *= share * (1 + value * (1 - share))
        tl.store(of_u + place, gradient, mask=here)
        tl.store(of_ends + of_first, tl.sum(gradient, 0), mask=column < width)
        sums += gradient
    tl.store(of_ends + of_second, sums, mask=here)


@triton.jit(do_not_specialize=["size"])
def _side(x, constant, factors, out, entries, size, SCALED: tl.constexpr, RUN: tl.constexpr):
    channel = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * RUN + tl.arange(0, RUN)
    here = place < entries
    value = tl.load(x + channel * entries + place, mask=here, other=0.0).to(tl.float32)
    value += tl.load(constant + channel)
    value *= tl.sigmoid(value)
    if SCALED:
        atom = place // (size * size) * size + place % size
        value *= tl.load(factors + atom, mask=here, other=0.0)
    tl.store(out + channel * entries + place, value, mask=here)


@triton.jit(do_not_specialize=["size"])
def _side_backward(
    g, x, constant, factors, out, sums, entries, size, SCALED: tl.constexpr, RUN: tl.constexpr
):
    channel = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * RUN + tl.arange(0, RUN)
    here = place < entries
    value = tl.load(x + channel * entries + place, mask=here, other=0.0).to(tl.float32)
    value += tl.load(constant + channel)
    share = tl.sigmoid(value)
    gradient = tl.load(g + channel * entries + place, mask=here, other=0.0).to(tl.float32)
    gradient *= share * (1 + value * (1 - share))
    if SCALED:
        atom = place // (size * size) * size + place % size
        gradient *= tl.load(factors + atom, mask=here, other=0.0)
    tl.store(out + channel * entries + place, gradient, mask=here)
    tl.store(sums + channel * tl.num_programs(0) + tl.program_id(0), tl.sum(gradient, 0))


@triton.jit(do_not_specialize=["size", "heads"])
def _for_attention(x, hidden, out, entries, size, heads, RUN: tl.constexpr):
    head = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * RUN + tl.arange(0, RUN)
    here = place < entries
    crystal = place // (size * size)
    value = tl.load(x + head * entries + place, mask=here, other=0.0).to(tl.float32)
    value += tl.load(hidden + crystal * size + place % size, mask=here, other=0.0)
    there = (crystal * heads + head) * size * size + place % (size * size)
    tl.store(out + there, value, mask=here)


@triton.jit(do_not_specialize=["size", "heads"])
def _for_attention_backward(g, out, entries, size, heads, RUN: tl.constexpr):
    head = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * RUN + tl.arange(0, RUN)
    here = place < entries
    there = (place // (size * size) * heads + head) * size * size + place % (size * size)
    value = tl.load(g + there, mask=here, other=0.0)
    tl.store(out + head * entries + place, value, mask=here)


def normalise(values: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normalise (..., P); also return what each row was multiplied by."""
    width = values.shape[-1]
    rows = values.numel() // width
    found = torch.empty_like(values)
    scales = torch.empty(rows, dtype=torch.float32, device=values.device)
    tile = _tile(width)
    _normalise[(triton.cdiv(rows, tile["ROWS"]),)](values, found, scales, rows, width, eps, **tile)
    return found, scales


def normalise_backward(gradient: Tensor, found: Tensor, scales: Tensor) -> Tensor:
    """Return the gradient of what was normalised."""
    width, rows = found.shape[-1], len(scales)
    out = torch.empty_like(found)
    tile = _tile(width)
    grid = (triton.cdiv(rows, tile["ROWS"]),)
    _normalise_backward[grid](gradient, found, scales, out, rows, width, **tile)
    return out


def gate(update: Tensor, ends: Tensor) -> Tensor:
    """Return the gated sums (B, N, N, W)."""
    size, width = update.shape[2:]
    rows = update.numel() // width
    out = torch.empty_like(update)
    tile = _tile(width)
    _gate[(triton.cdiv(rows, tile["ROWS"]),)](update, ends, out, rows, size, width, **tile)
    return out


def gate_backward(gradient: Tensor, update: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of both."""
    batch, _, size, width = update.shape
    of_update, of_ends = torch.empty_like(update), torch.empty_like(ends)
    padded = triton.next_power_of_2(size)
    columns = min(triton.next_power_of_2(width), max(16, _ENTRIES // padded), 64)
    _gate_backward[(batch, triton.cdiv(width, columns))](
        gradient, update, ends, of_update, of_ends, size, width, SIZE=padded, COLUMNS=columns
    )
    return of_update, of_ends


def sides(
    found: Tensor, constant: Tensor, factors: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return left and right sides (T, B, N, N), and what is for attention (B, H, N, N)."""
    width, size = len(constant) // 2, found.shape[-1]
    heads, entries = len(found) - 2 * width, found[0].numel()
    left, right = torch.empty_like(found[:width]), torch.empty_like(found[:width])
    bias = found.new_empty(found.shape[1], heads, size, size)
    runs = triton.cdiv(entries, _RUN)
    for k, out in enumerate((left, right)):
        some, of_some = found[k * width :], constant[k * width :]
        _side[(runs, width)](some, of_some, factors, out, entries, size, SCALED=k == 0, RUN=_RUN)
    rest = found[2 * width :]
    _for_attention[(runs, heads)](rest, hidden, bias, entries, size, heads, RUN=_RUN)
    return left, right, bias


def sides_backward(
    left: Tensor, right: Tensor, bias: Tensor, found: Tensor, constant: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the numbers, and of the constants."""
    width, size = len(constant) // 2, found.shape[-1]
    heads, entries = len(found) - 2 * width, found[0].numel()
    runs = triton.cdiv(entries, _RUN)
    out = torch.empty_like(found)
    sums = torch.empty(len(constant), runs, dtype=torch.float32, device=found.device)
    for k, gradient in enumerate((left, right)):
        here = slice(k * width, None)
        _side_backward[(runs, width)](
            gradient,
            found[here],
            constant[here],
            factors,
            out[here],
            sums[here],
            entries,
            size,
            SCALED=k == 0,
            RUN=_RUN,
        )
    rest = out[2 * width :]
    _for_attention_backward[(runs, heads)](bias, rest, entries, size, heads, RUN=_RUN)
    return out, sums.sum(1)


def _tile(width: int) -> dict[str, int]:
    """Choose how many rows of this width are a tile."""
    padded = triton.next_power_of_2(width)
    return {"ROWS": max(1, _ENTRIES // padded), "WIDTH": padded}
