"""The k nearest periodic neighbours of every atom, exactly, for any cell, on the device.

Noisy cells are wild: at the last step of diffusion an image a hundred cells away may be among the
nearest, and a search over 3 x 3 x 3 images is wrong for every cell. So the cell is first reduced
(an equivalent cell as close to a cube as the lattice allows), then all images within a radius are
enumerated, and the radius grows until it provably holds the k nearest of every atom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from crysgen.matrices import determinants, inverses

_SWEEPS, _ROUNDS = 3, 20
"""Of the cell reduction. One round is nearly always enough; whether it was is asked once a round,
and never of a GPU, which would wait: a search among more images finds the same neighbours."""
_ABSENT = 1e30
"""Squared distance that stands for no neighbour."""
_FIRST_RADIUS = 1.15
"""Of the radius that holds k atoms at the crystal's density."""
_GROWTH = 1.35
SMALL = 6
"""Atoms of crystals that may share a batch with those of any smaller number."""
_FEW_IMAGES = 2.0
"""Images of a search that does not wait, in units of a cube's at the first radius."""
_MAX_ENTRIES = 30_000_000
"""Number of distances in memory at once; more crystals are searched in batches."""


class Neighbours(NamedTuple):
    """The k nearest images around each of B x N atoms, nearest first.

    Attributes:
        index: (B, N, k) int64: which atom of the crystal.
        images: (B, N, k, 3) int64: in which cell, so that the neighbour is at
            `frac_coords[index] + images`, with `frac_coords` as they were given.
        vectors: (B, N, k, 3) from the atom to the neighbour, in the units of the lattices;
            differentiable in positions and lattices.
        cutoff: (B, N) distance of the (k + 1)-th neighbour: what fades out there does not jump
            when two neighbours change places.
    """

    index: Tensor  # type: ignore[assignment]
    images: Tensor
    vectors: Tensor
    cutoff: Tensor

    @property
    def distances(self) -> Tensor:
        """(B, N, k), positive."""
        return self.vectors.norm(dim=-1)


_open: ContextVar[list[Tensor] | None] = ContextVar("open", default=None)


@contextmanager
def without_waiting() -> Iterator[list[Tensor]]:
    """Search neighbours in this context without asking the device for a value, as graphs must.

    Yields:
        A list that each search adds a tensor (B,) bool to: crystals whose neighbours may not be the
        nearest, because their cells are too long for the images that were looked at. They are rare,
        and to be searched again outside.
    """
    flags: list[Tensor] = []
    token = _open.set(flags)
    try:
        yield flags
    finally:
        _open.reset(token)


def reduced_cells(lattices: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce cells (B, 3, 3) to short, nearly orthogonal vectors of the same lattices.

    Repeatedly takes whole multiples of the other two vectors from the longest one, and stops when
    nothing gets shorter (a lattice reduced in pairs and by sums: Minkowski's in three dimensions).

    Returns:
        The cells in double precision, and the transforms P (B, 3, 3) float64 of whole numbers with
        `reduced = P @ lattice`.
    """
    # As `crysmetrics.geometry.reduce_cell` for one cell; here for a batch, on any device.
    cells = lattices.double()
    transforms = torch.eye(3, dtype=torch.float64, device=cells.device).expand_as(cells)
    for _ in range(_ROUNDS):
        for _ in range(_SWEEPS):
            step = _shortening(cells)
            cells, transforms = step @ cells, step @ transforms
        if cells.is_cuda or _open.get() is not None:
            break
        if not bool((step.abs().sum((1, 2)) > 3).any()):
            break
    # Errors of the steps don't add up: the transform is exact.
    return transforms @ lattices.double(), transforms


def _shortening(cells: Tensor) -> Tensor:
    """Find integers (B, 3, 3) that sort the vectors, and shorten the second and the third."""
    order = (cells * cells).sum(-1).argsort(-1)
    permutation = torch.nn.functional.one_hot(order, 3).to(cells)
    a, b, c = (permutation @ cells).unbind(1)
    aa = (a * a).sum(-1)
    of_b = ((a * b).sum(-1) / aa).round()
    b = b - of_b[:, None] * a
    # Where c lies on a and b; what goes from it is the nearest corner of that parallelogram.
    ab, bb, ac, bc = (a * b).sum(-1), (b * b).sum(-1), (a * c).sum(-1), (b * c).sum(-1)
    where = torch.stack([bb * ac - ab * bc, aa * bc - ab * ac], -1)
    corner = (where / (aa * bb - ab * ab).clamp_min(1e-30 * aa * bb)[:, None]).floor()
    four = torch.arange(4, device=c.device)  # (0, 0), (0, 1), (1, 0), (1, 1)
    offsets = torch.stack([four // 2, four % 2], -1).to(c)
    stay = torch.zeros_like(corner)[:, None]
    corners = torch.cat([stay, corner[:, None] + offsets], 1)
    lengths = (c[:, None] - corners @ torch.stack([a, b], 1)).square().sum(-1)
    lengths[:, 0] *= 1 - 1e-12  # Staying wins a tie.
    best = lengths.argmin(1)[:, None, None].expand(-1, 1, 2)
    of_c = corners.gather(1, best)[:, 0]
    zero, one = torch.zeros_like(aa), torch.ones_like(aa)
    on_a = of_c[:, 0] - of_c[:, 1] * of_b
    rows = [one, zero, zero, -of_b, one, zero, -on_a, -of_c[:, 1], one]
    return torch.stack(rows, -1).reshape(-1, 3, 3) @ permutation


def nearest_images(
    frac_coords: Tensor,
    lattices: Tensor,
    mask: Tensor,
    k: int = 32,
    reduced: tuple[Tensor, Tensor] | None = None,
    around: Tensor | None = None,
) -> Neighbours:
    """Find the k nearest neighbours of each atom among all periodic images, its own included.

    Args:
        frac_coords: (B, N, 3), of any size (not only in [0, 1)).
        lattices: (B, 3, 3) rows; any cell of positive volume.
        mask: (B, N) where atoms are; padding gets its own zero vectors and is nobody's neighbour.
        k: how many.
        reduced: `reduced_cells(lattices)`, where it is known.
        around: (B, M) int64, the atoms whose neighbours are wanted; all by default. Of what is
            found there are M in place of N, then, and what belongs to padding has no meaning.
    """
    with torch.no_grad():
        if reduced is None:
            reduced = reduced_cells(lattices.detach())
        if around is None:
            around = torch.arange(mask.shape[1], device=mask.device).expand(len(mask), -1)
        frac = frac_coords.detach().double()
        index, images, cutoff = _search(frac, reduced, mask, k, around)
    # In double precision also here: distant images are large numbers, and GPUs cut the numbers of
    # a single-precision product to ten bits.
    batch, atoms = around.shape
    frac = frac_coords.double()
    ends = frac.gather(1, index.reshape(batch, -1, 1).expand(-1, -1, 3))
    starts = _rows(frac, around)[:, :, None].expand(-1, -1, k, -1).reshape(batch, -1, 3)
    vectors = (ends - starts + images.reshape(batch, -1, 3)) @ lattices.double()
    present = mask.gather(1, around)
    vectors = vectors.reshape(batch, atoms, k, 3).to(lattices) * present[..., None, None]
    return Neighbours(index, images.long(), vectors, cutoff.to(lattices))


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Select (B, M, ...) from values (B, N, ...) by atoms (B, M)."""
    shaped = index.reshape(*index.shape, *(1,) * (values.ndim - 2))
    return values.gather(1, shaped.expand(-1, -1, *values.shape[2:]))


def _search(
    frac: Tensor, reduced: tuple[Tensor, Tensor], mask: Tensor, k: int, around: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    present = mask.gather(1, around)
    cells, transforms = reduced
    atoms = frac.shape[1]
    volume = determinants(cells).abs()
    radius = _FIRST_RADIUS * (3 * (k + 1) * volume / (4 * math.pi * mask.sum(1))) ** (1 / 3)
    # An atom's own images along the shortest vector are enough neighbours, however flat the cell.
    shortest = cells.norm(dim=-1).amin(1)
    radius = torch.minimum(radius, 1.001 * ((k + 2) // 2) * shortest)
    # 1 / distance between lattice planes, for each reduced vector
    reach = inverses(cells).norm(dim=1)
    reduced_frac = frac @ inverses(transforms).round()
    flags = _open.get()
    if frac.is_cuda or flags is not None:
        found, covered = _nearest_within(
            reduced_frac, cells, mask, radius, reach, k, _few_images(k, atoms), around
        )
        index, images, cutoff = found
        furthest = cutoff.masked_fill(~present, 0).amax(1)
        open_ = ~(furthest <= covered)  # what is not a number is not found
        if flags is not None:
            flags.append(open_)
            todo = torch.arange(0, device=frac.device)
        else:
            todo = open_.nonzero()[:, 0]
    else:
        shape = (*around.shape, k)
        index = torch.zeros(shape, dtype=torch.long, device=frac.device)
        images = torch.zeros((*shape, 3), dtype=frac.dtype, device=frac.device)
        cutoff = torch.ones(around.shape, dtype=frac.dtype, device=frac.device)
        todo = torch.arange(len(frac), device=frac.device)
    while len(todo):
        sizes = _extents(radius[todo], reach[todo]).mul(2).add(1).prod(1)
        remaining = []
        for rows in _parts(sizes, atoms):
            chosen = todo[rows]
            count = max(int(sizes[rows].max()), k // atoms + 1)
            found, covered = _nearest_within(
                reduced_frac[chosen],
                cells[chosen],
                mask[chosen],
                radius[chosen],
                reach[chosen],
                k,
                count,
                around[chosen],
            )
            index[chosen], images[chosen], cutoff[chosen] = found
            furthest = found[2].masked_fill(~present[chosen], 0).amax(1)
            # No neighbour is beyond what was found so far.
            radius[chosen] = torch.minimum(1.001 * furthest, _GROWTH * covered)
            remaining.append(chosen[furthest > covered])
        todo = torch.cat(remaining)
    # Images were counted between wrapped positions of the reduced cell.
    images = images.reshape(len(frac), -1, 3) @ transforms
    return index, images.round().reshape(*index.shape, 3), cutoff


def _few_images(k: int, atoms: int) -> int:
    """Count the images of a search that does not wait: enough for all but very long cells.

    Among padded crystals, for those of half as many atoms too, and of any number up to SMALL.
    """
    fewest = 1 if atoms <= SMALL else atoms // 2
    radius = _FIRST_RADIUS * (3 * (k + 1) / (4 * math.pi * fewest)) ** (1 / 3)
    return max(k // atoms + 1, math.ceil(_FEW_IMAGES * (2 * radius + 1) ** 3))


def _extents(radius: Tensor, reach: Tensor) -> Tensor:
    """Count the cells (B, 3) to look at in each direction.

    Separations are wrapped to [-1/2, 1/2], so these images hold all within the radius.
    """
    return (radius[:, None] * reach + 0.5).floor().long()


def _nearest_within(
    frac: Tensor,
    cells: Tensor,
    mask: Tensor,
    radius: Tensor,
    reach: Tensor,
    k: int,
    count: int,
    around: Tensor,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Find the nearest among `count` images or fewer that hold all within a radius.

    Returns:
        (index, images, cutoff), and the radius (B,) within which nothing was left out: 0 if there
        are more than `count` images.
    """
    extents = _extents(radius, reach)
    sizes = (2 * extents + 1).prod(1)
    covered = ((extents + 0.5) / reach).amin(1)
    covered = torch.where(sizes <= count, covered, torch.zeros_like(covered))
    return _nearest(frac, cells, mask, extents, sizes, k, count, around), covered


def _parts(sizes: Tensor, atoms: int) -> list[Tensor]:
    """Divide rows into groups of similar image counts, small enough to search together."""
    order = sizes.argsort()
    counts = sizes[order].tolist()
    parts, start = [], 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or (end + 1 - start) * counts[end] * atoms**2 > _MAX_ENTRIES:
            parts.append(order[start:end])
            start = end
    return parts


def _nearest(
    frac: Tensor,
    cells: Tensor,
    mask: Tensor,
    extents: Tensor,
    sizes: Tensor,
    k: int,
    count: int,
    around: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the nearest among the images of the given extents: (index, images, cutoff)."""
    (batch, atoms), centres = mask.shape, around.shape[1]
    spans = 2 * extents + 1
    numbers = torch.arange(count, device=frac.device)
    cell = _image(numbers.expand(batch, -1), spans) - extents[:, None].to(frac)
    separations = frac[:, None, :, :] - _rows(frac, around)[:, :, None, :]
    whole = -separations.round()
    vectors = (separations + whole).reshape(batch, -1, 3) @ cells
    translations = cell @ cells
    # |v + T|² = 2 v·T + |v|² + |T|² as one matrix product; what is absent is far away.
    lengths = vectors.square().sum(-1, keepdim=True).reshape(batch, centres, atoms, 1)
    lengths = lengths.masked_fill(~mask[:, None, :, None], _ABSENT)
    ends = translations.square().sum(-1, keepdim=True)
    ends = ends.masked_fill((numbers >= sizes[:, None])[..., None], _ABSENT)
    one = torch.ones_like(lengths).reshape(batch, -1, 1)
    left = torch.cat([2 * vectors, lengths.reshape(batch, -1, 1), one], -1)
    right = torch.cat([translations, torch.ones_like(ends), ends], -1)
    squares = (left @ right.mT).reshape(batch, centres, atoms, count)
    # An atom is not its own neighbour.
    own = numbers == ((sizes - 1) // 2)[:, None]
    itself = around[..., None] == torch.arange(atoms, device=frac.device)
    squares.masked_fill_(itself[..., None] & own[:, None, None], _ABSENT)
    found, places = squares.reshape(batch, centres, -1).topk(k + 1, dim=-1, largest=False)
    places = places[..., :k]
    index = places // count
    images = _image((places % count).reshape(batch, -1), spans).reshape(batch, centres, k, 3)
    images = images - extents[:, None, None]
    images += whole.gather(2, index[..., None].expand(-1, -1, -1, 3))
    cutoff = found[..., k].clamp_min(0).sqrt()
    present = mask.gather(1, around)
    return index, images, torch.where(present, cutoff, torch.ones_like(cutoff))


def _image(numbers: Tensor, spans: Tensor) -> Tensor:
    """Decode numbers (B, n) of images as triples (B, n, 3) of integers (as floats) from 0."""
    first, rest = numbers // (spans[:, 1] * spans[:, 2])[:, None], numbers
    second, third = rest // spans[:, 2, None] % spans[:, 1, None], rest % spans[:, 2, None]
    return torch.stack([first, second, third], -1).double()
