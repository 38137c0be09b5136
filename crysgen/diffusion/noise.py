"""Random numbers of a diffusion: of each crystal from its own seed, and of training batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Noise:
    """Normal numbers for cells and positions, draw by draw.

    Made on the CPU, where a seed means the same numbers on every machine.

    Args:
        seeds: B.
        num_atoms: (B,).
        dimensions: of a cell's vector.
        draws: how many there are.
        width: numbers of an atom: three for a position alone.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_atoms: Tensor,
        dimensions: int,
        draws: int,
        width: int = 3,
    ) -> None:
        counts = num_atoms.tolist()
        size = max(counts, default=0)
        self._cells = torch.zeros(draws, len(counts), dimensions)
        self._positions = torch.zeros(draws, len(counts), size, width)
        for row, (seed, count) in enumerate(zip(seeds, counts, strict=True)):
            generator = torch.Generator().manual_seed(int(seed))
            numbers = torch.randn(draws, dimensions + width * count, generator=generator)
            self._cells[:, row] = numbers[:, :dimensions]
            self._positions[:, row, :count] = numbers[:, dimensions:].unflatten(1, (count, width))
        self._next = 0

    def draw(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Draw numbers (B, D) and (B, N, W), of the type, device and padding of `like`."""
        return next(self.rest(like, 1))

    def rest(self, like: Tensor, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over all further draws, or `count` of them, sent to the device at once."""
        end = len(self._cells) if count is None else self._next + count
        cells, positions = self._cells[self._next : end], self._positions[self._next : end]
        self._next = end
        padding = like.shape[1] - positions.shape[2]
        positions = torch.nn.functional.pad(positions, (0, 0, 0, padding))
        return zip(cells.to(like), positions.to(like), strict=True)


def spread_steps(
    size: int, total: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Draw the steps (size,) of a training batch: spread evenly, each uniform on 1 to `total`.

    Args:
        size: crystals of the batch.
        total: T.
        generator: of the random numbers.
        device: of the generator.
    """
    places = torch.rand(1, generator=generator, device=device)
    places = (places + torch.arange(size, device=device) / size) % 1
    places = places[torch.randperm(size, generator=generator, device=device)]
    return (places * total).long().clamp_max(total - 1) + 1


def kept_channels(
    size: int,
    shape: tuple[int, int],
    dropped: float,
    generator: torch.Generator | None,
    like: Tensor,
) -> Tensor:
    """Draw which channels dropout leaves: (size, layers, channels), 0 or 1 / (1 - dropped).

    Args:
        size: crystals of the batch.
        shape: layers and channels.
        dropped: share of channels.
        generator: of the random numbers.
        like: whose type and device are meant.
    """
    numbers = torch.rand((size, *shape), generator=generator, device=like.device)
    return (numbers >= dropped).to(like) / (1 - dropped)
