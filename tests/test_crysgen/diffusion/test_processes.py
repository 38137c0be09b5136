"""Processes of positions and cells: that they lead back, and that their scores are gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from crysgen.diffusion.cell_process import CellProcess
from crysgen.diffusion.cells import LogCells
from crysgen.diffusion.coupling import assigned, exchanged, paired
from crysgen.diffusion.positions import FlowProcess, PathProcess, ScoreProcess
from crysgen.diffusion.schedules import (
    Exploding,
    Preserving,
    Straight,
    exploding_geometric,
    preserving_powers,
)
from crysgen.diffusion.torus import image_mean, image_mean_size, remove_mean, shortest_path, wrap

STEPS = 100


def crystals(seed: int, batch: int = 6, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Atomic numbers of two elements with some padding, and positions."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(1, 3, (batch, size), generator=generator)
    numbers[::2, -2:] = 0
    frac = torch.rand(batch, size, 3, generator=generator, dtype=torch.float64)
    return numbers, frac * (numbers > 0)[..., None]


def normal(like: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def shift_free(start: torch.Tensor, end: torch.Tensor, mask: torch.Tensor) -> float:
    """Largest distance of an atom from where it should be, but for a shift of all atoms."""
    first = shortest_path(start[:, :1], end[:, :1])
    gap = shortest_path(start + first, end) * mask[..., None]
    return float(gap.abs().max())


def squares(start: torch.Tensor, end: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (shortest_path(start, end).square().sum(-1) * mask).sum(1)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("plan", [(100, 0), (100, 61, 13, 0), tuple(range(100, -1, -5))])
def test_the_flow_of_a_perfect_network_ends_in_the_clean_crystal(coupled, plan):
    numbers, clean = crystals(0)
    process = FlowProcess(Straight(STEPS), 0.29, 0.01, coupled)
    noise = normal(clean, 1)
    full = torch.full((len(clean),), STEPS)
    frac, whole = process.noised(clean, numbers, full, noise)
    assert shift_free(frac, clean, numbers > 0) > 0.1
    for t, s in itertools.pairwise(plan):
        now, then = torch.full_like(full, t), torch.full_like(full, s)
        # What a network that knows the crystal predicts: the rest of the way, at constant velocity.
        expected, displacement = process.noised(clean, numbers, now, noise)
        torch.testing.assert_close(displacement, whole * t / STEPS)
        assert float(shortest_path(frac, expected).abs().max()) < 1e-12
        frac = process.before(frac, displacement, now, then, noise)
    assert shift_free(frac, clean, numbers > 0) < 1e-12


def test_a_flow_begins_where_no_crystal_is_known():
    """At T the distances of atoms are uniform on the torus, whatever the clean positions are."""
    clean = torch.zeros(4000, 2, 3, dtype=torch.float64)
    numbers = torch.tensor([[3, 8]]).expand(4000, 2)
    process = FlowProcess(Straight(STEPS), 0.29, 0.01, False)
    frac, _ = process.noised(clean, numbers, torch.full((4000,), STEPS), normal(clean, 2))
    apart = wrap(frac[:, 1] - frac[:, 0]).flatten()
    counts = torch.histc(apart, 10, 0, 1)
    expected = len(apart) / 10
    assert float(((counts - expected) ** 2 / expected).sum()) < 27.9  # chi², 9 degrees, p = 0.001


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3, 0.5])
def test_the_score_is_the_gradient_of_the_wrapped_normal(sigma):
    path = torch.linspace(-0.49, 0.49, 41, dtype=torch.float64)
    images = torch.arange(-20.0, 21, dtype=torch.float64)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(-((x[:, None] + images) / sigma).square() / 2, 1)

    step = 1e-5
    gradient = (log_density(path + step) - log_density(path - step)) / (2 * step)
    # `path` leads back, so it is minus the noise, and the density is even.
    found = image_mean(path, torch.tensor(sigma, dtype=torch.float64)) / sigma**2
    torch.testing.assert_close(found, -gradient, atol=1e-5, rtol=1e-5)


def test_sizes_of_scores():
    sigma = torch.tensor([0.003, 0.05, 0.25, 0.5], dtype=torch.float64)
    found = image_mean_size(sigma)
    noise = normal(torch.zeros(100_000, dtype=torch.float64), 3)
    for width, size in zip(sigma, found, strict=True):
        drawn = image_mean(shortest_path(torch.zeros(()), wrap(width * noise)), width)
        assert float(drawn.square().mean().sqrt()) == pytest.approx(float(size), rel=0.01)
    # Narrow noise is all known; of wide noise the first Fourier coefficient is left.
    assert float(found[0]) == pytest.approx(0.003)
    first = math.sqrt(2) * 2 * math.pi * 0.25 * math.exp(-2 * (math.pi * 0.5) ** 2)
    assert float(found[3]) == pytest.approx(first, rel=0.01)


def test_the_score_learns_a_mean_over_images():
    """Regression on its target gives the gradient of the noisy data's density."""
    process = ScoreProcess(Exploding(exploding_geometric(STEPS, 0.005, 0.5)))
    steps = torch.full((1,), 80)
    sigma = process.schedule.sigma(steps)
    # One atom's coordinate in a crystal of two clean positions; another atom far away stays.
    count = 60_000
    sites = torch.tensor([0.1, 0.35], dtype=torch.float64)
    clean = torch.zeros(count, 2, 3, dtype=torch.float64)
    clean[:, 0, 0] = sites[torch.arange(count) % 2]
    numbers = torch.tensor([[3, 8]]).expand(count, 2)
    noisy, target = process.noised(clean, numbers, steps.expand(count), normal(clean, 4))
    near = (noisy[:, 0, 0] - 0.2).abs() < 0.02
    images = torch.arange(-5.0, 6, dtype=torch.float64)
    ways = (sites[:, None] + images - 0.2).flatten()
    weights = (-(ways / sigma).square() / 2).softmax(0)
    expected = float((ways * weights).sum())
    error = float(target[near, 0, 0].std() / near.sum().sqrt())
    assert float(target[near, 0, 0].mean()) == pytest.approx(expected, abs=4 * error + 1e-3)


def test_langevin_keeps_the_noise_of_a_step():
    """The corrector leaves the wrapped normal distribution of a known crystal as it is."""
    process = ScoreProcess(Exploding(exploding_geometric(STEPS, 0.005, 0.5)))
    steps = torch.full((6_000,), 70)
    sigma = process.schedule.sigma(steps[:1])
    clean = torch.full((6_000, 1, 3), 0.3, dtype=torch.float64)
    numbers = torch.full((6_000, 1), 3)
    frac = process.noised(clean, numbers, steps, normal(clean, 5)).frac_coords
    before = shortest_path(clean, frac).std()
    for seed in range(30):
        displacement = image_mean(shortest_path(frac, clean), sigma[:, None, None])
        frac = process.corrected(frac, displacement, steps, 0.05, normal(clean, 100 + seed))
    assert float(shortest_path(clean, frac).std() / before) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", ["path", "score"])
def test_small_noise_is_undone_by_the_last_step(kind):
    numbers, clean = crystals(6)
    schedule = Exploding(exploding_geometric(STEPS, 0.005, 0.5))
    process = (
        ScoreProcess(schedule)
        if kind == "score"
        else PathProcess(schedule, 0.29, 0.01, shortest=True, coupled=False)
    )
    now = torch.full((len(clean),), 10)
    frac, displacement = process.noised(clean, numbers, now, normal(clean, 7))
    back = process.before(frac, displacement, now, torch.zeros_like(now), normal(clean, 8))
    assert float((shortest_path(back, clean) * (numbers > 0)[..., None]).abs().max()) < 1e-9


@pytest.mark.parametrize("schedule", [Straight(STEPS, 2.0), Preserving(preserving_powers(100, 3))])
def test_cells_of_a_perfect_network_come_back(schedule):
    mean, std = [0.1] * 6, [0.5, 0.4, 0.3, 0.2, 0.1, 0.6]
    process = CellProcess(LogCells(mean, std, True), schedule)
    clean = normal(torch.zeros(5, 6, dtype=torch.float64), 9)
    now = torch.full((5,), STEPS)
    noise = normal(clean, 10)
    vectors = process.noised(clean, now, noise)
    torch.testing.assert_close(vectors, process.start(noise))
    for t, s in itertools.pairwise((100, 70, 30, 5, 0)):
        now, then = torch.full((5,), t), torch.full((5,), s)
        vectors = process.before(vectors, clean, now, then, torch.zeros_like(clean))
        if isinstance(schedule, Straight):  # the very line that noise came by
            torch.testing.assert_close(vectors, process.noised(clean, then, noise))
    torch.testing.assert_close(vectors, clean)
    assert float(process.unknown(now, clean).max()) < 0.2


@pytest.mark.parametrize("name", ["assigned", "exchanged"])
def test_coupling_never_moves_atoms_further_and_keeps_elements(name, monkeypatch):
    if name == "exchanged":
        monkeypatch.setattr("crysgen.diffusion.coupling.assigned", exchanged)
    for seed in range(5):
        numbers, clean = crystals(seed)
        _, noisy = crystals(50 + seed)
        found = paired(noisy, clean, numbers)
        mask = numbers > 0
        before, after = squares(noisy, clean, mask), squares(found, clean, mask)
        assert (after <= before + 1e-12).all()
        assert float(after.sum()) < 0.8 * float(before.sum())
        for row, z in enumerate(numbers):
            for element in z.unique():
                mine, theirs = found[row][z == element], noisy[row][z == element]
                assert sorted(mine.tolist()) == sorted(theirs.tolist())


def test_coupling_is_the_smallest_of_all_permutations():
    cost = torch.rand(20, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.arange(5)
    orders = [torch.tensor(p) for p in itertools.permutations(range(5))]
    best = torch.stack([cost[:, rows, p].sum(1) for p in orders]).amin(0)
    found = cost.gather(2, assigned(cost)[..., None]).sum((1, 2))
    torch.testing.assert_close(found, best)
    exchanges = exchanged(cost)
    assert (exchanges.sort(1).values == rows).all()
    assert float(cost.gather(2, exchanges[..., None]).sum() / best.sum()) < 1.1


def test_exchanges_come_close_to_the_hungarian_method():
    generator = torch.Generator().manual_seed(1)
    start, end = torch.rand(2, 40, 20, 3, generator=generator, dtype=torch.float64)
    cost = shortest_path(start[:, :, None], end[:, None]).square().sum(-1)
    best = sum(float(c[linear_sum_assignment(c)].sum()) for c in cost.numpy())
    found = float(cost.gather(2, exchanged(cost)[..., None]).sum())
    assert best < found < 1.2 * best
    assert found < 0.4 * float(cost.diagonal(dim1=1, dim2=2).sum())


def test_paired_noise_is_a_permutation_of_the_same_noise():
    numbers, clean = crystals(3)
    schedule = Exploding(exploding_geometric(STEPS, 0.005, 0.5))
    steps, noise = torch.full((len(clean),), 95), normal(clean, 11)
    plain, coupled = (
        PathProcess(schedule, 0.29, 0.01, shortest=True, coupled=c).noised(
            clean, numbers, steps, noise
        )
        for c in (False, True)
    )
    mask = numbers > 0
    for row, z in enumerate(numbers):
        for element in z[z > 0].unique():
            mine = coupled.frac_coords[row][z == element]
            theirs = plain.frac_coords[row][z == element]
            assert sorted(mine.tolist()) == sorted(theirs.tolist())
    lengths = [(n.displacement.square().sum(-1) * mask).sum() for n in (plain, coupled)]
    assert lengths[1] < lengths[0]
    assert not torch.equal(remove_mean(plain.displacement, mask), coupled.displacement)
