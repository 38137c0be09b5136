"""Noise schedules: Table 1, and posteriors against what Bayes' rule gives."""

import math
from itertools import pairwise

import pytest
import torch

from crysgen.diffusion.schedules import (
    LATTICE_BETAS,
    POSITION_BETAS,
    STEPS,
    Exploding,
    Preserving,
    Straight,
    exploding_geometric,
    exploding_powers,
    linear_betas,
    preserving_powers,
    steps_back,
    strided_steps,
)

LATTICE = Preserving(linear_betas(STEPS, *LATTICE_BETAS))
POSITIONS = Exploding(linear_betas(STEPS, *POSITION_BETAS))


def test_schedules_of_the_paper():
    betas = linear_betas(STEPS, *LATTICE_BETAS)
    assert betas.dtype == torch.float64
    assert betas[0] == 0
    assert betas[1].item() == pytest.approx(1e-5)
    assert betas[-1].item() == pytest.approx(1e-1)
    torch.testing.assert_close(betas.diff()[1:], torch.full((99,), betas.diff()[1].item()).double())
    assert LATTICE.steps == POSITIONS.steps == STEPS
    last = torch.tensor(STEPS)
    assert LATTICE.signal(last).item() == pytest.approx(0.0757, abs=1e-3)
    total = linear_betas(STEPS, *POSITION_BETAS).sum().sqrt().item()
    assert POSITIONS.sigma(last).item() == pytest.approx(total)
    # The other reading of Eq. 16, 1 - ᾱ_t, differs by 5 % in the variance at T, and by less before.
    other = Preserving(linear_betas(STEPS, *POSITION_BETAS)).sigma(torch.arange(1, STEPS + 1))
    ratio = POSITIONS.sigma(torch.arange(1, STEPS + 1)) ** 2 / other**2
    assert ratio.max().item() == pytest.approx(1.05, abs=0.005)
    assert (ratio.diff() > 0).all()


def test_no_noise_at_step_0():
    zero = torch.tensor([0, 0])
    assert LATTICE.signal(zero).tolist() == [1, 1]
    assert LATTICE.sigma(zero).tolist() == [0, 0]
    assert POSITIONS.sigma(zero).tolist() == [0, 0]


def test_signal_and_noise_keep_the_variance():
    t = torch.arange(STEPS + 1)
    torch.testing.assert_close(
        LATTICE.signal(t) ** 2 + LATTICE.sigma(t) ** 2, torch.ones(101).double()
    )
    assert (LATTICE.sigma(t).diff() > 0).all()
    assert (POSITIONS.sigma(t).diff() > 0).all()


def test_single_step_posterior_is_that_of_ddpm():
    """Eq. 6 as corrected, written with α and β."""
    betas = linear_betas(STEPS, *LATTICE_BETAS)
    bars = torch.cumprod(1 - betas, 0)
    for t in (2, 17, 64, 100):
        beta, bar, before = betas[t].item(), bars[t].item(), bars[t - 1].item()
        found = [value.item() for value in LATTICE.posterior(t, t - 1)]
        expected = [
            math.sqrt(before) * beta / (1 - bar),
            math.sqrt(1 - beta) * (1 - before) / (1 - bar),
            (1 - before) / (1 - bar) * beta,
        ]
        assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("schedule", [LATTICE, POSITIONS], ids=["lattice", "positions"])
@pytest.mark.parametrize(("t", "s"), [(100, 99), (100, 50), (60, 20), (2, 1)])
def test_posterior_undoes_the_forward_process(schedule, t, s):
    """x_s drawn from q(x_s | x_t, x_0), with x_t from q(x_t | x_0), has the law q(x_s | x_0)."""
    start = 1.7
    step, earlier = torch.tensor(t), torch.tensor(s)
    signal = schedule.signal if hasattr(schedule, "signal") else lambda t: torch.ones(())
    a, b, variance = (value.item() for value in schedule.posterior(t, s))
    mean = a * start + b * signal(step).item() * start
    assert mean == pytest.approx(signal(earlier).item() * start, rel=1e-9)
    spread = b**2 * schedule.sigma(step).item() ** 2 + variance
    assert spread == pytest.approx(schedule.sigma(earlier).item() ** 2, rel=1e-9)


@pytest.mark.parametrize("schedule", [LATTICE, POSITIONS], ids=["lattice", "positions"])
def test_the_last_posterior_is_the_prediction(schedule):
    for t in (1, 10, 100):
        assert [v.item() for v in schedule.posterior(t, 0)] == pytest.approx([1, 0, 0], abs=1e-12)


def test_two_strides_are_one_long_stride():
    """The chain of posteriors from 80 by 50 to 20 has the moments of the one from 80 to 20."""
    for schedule in (LATTICE, POSITIONS):
        far, near, both = (schedule.posterior(*pair) for pair in ((80, 50), (50, 20), (80, 20)))
        start = near.from_start + near.from_now * far.from_start
        now = near.from_now * far.from_now
        variance = near.variance + near.from_now**2 * far.variance
        torch.testing.assert_close(start, both.from_start)
        torch.testing.assert_close(now, both.from_now)
        torch.testing.assert_close(variance, both.variance)


@pytest.mark.parametrize("count", [1, 2, 7, 33, 50, 99, 100])
def test_strided_steps(count):
    steps = strided_steps(100, count)
    assert len(steps) == count + 1
    assert steps[0] == 100
    assert steps[-1] == 0
    gaps = [a - b for a, b in pairwise(steps)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("count", [0, -1, 101])
def test_strides_that_do_not_exist(count):
    with pytest.raises(ValueError, match="of 100 steps"):
        strided_steps(100, count)


@pytest.mark.parametrize("settings", [(0, 1e-5, 0.1), (10, 0, 0.1), (10, 0.2, 0.1), (10, 0.1, 1)])
def test_schedules_that_do_not_exist(settings):
    with pytest.raises(ValueError, match="no schedule"):
        linear_betas(*settings)


def test_powers_of_the_step():
    t = torch.arange(STEPS + 1)
    share = t.double() / STEPS
    torch.testing.assert_close(Preserving(preserving_powers(STEPS, 3.0)).sigma(t), share**3)
    positions = Exploding(exploding_powers(STEPS, 1.5, 0.5))
    torch.testing.assert_close(positions.sigma(t), 0.5 * share**1.5)
    # All noise at the end: the way back forgets where it was.
    first = Preserving(preserving_powers(STEPS, 3.0)).posterior(STEPS, STEPS - 1)
    assert first.from_now == 0
    # However little noise the first of many steps have, the way back is defined.
    many = Preserving(preserving_powers(1000, 4.0))
    torch.testing.assert_close(many.sigma(torch.tensor(1)).item(), 1e-12)
    last = many.posterior(1, 0)
    assert (last.from_start, last.from_now, last.variance) == (1, 0, 0)
    for wrong in (lambda: preserving_powers(0, 1.0), lambda: exploding_powers(10, -1.0, 0.5)):
        with pytest.raises(ValueError, match="no schedule"):
            wrong()


def test_noise_that_grows_by_a_factor():
    positions = Exploding(exploding_geometric(STEPS, 0.005, 0.5))
    sigma = positions.sigma(torch.arange(STEPS + 1))
    assert sigma[0] == 0
    ratios = sigma[2:] / sigma[1:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 100 ** (1 / 99)))
    assert sigma[[1, -1]].tolist() == pytest.approx([0.005, 0.5])
    for wrong in ((0, 0.1, 0.5), (10, 0.5, 0.1), (10, 0.0, 0.5)):
        with pytest.raises(ValueError, match="no schedule"):
            exploding_geometric(*wrong)


@pytest.mark.parametrize("power", [1.0, 2.5])
def test_flows_are_straight(power):
    flow = Straight(STEPS, power)
    t = torch.arange(STEPS + 1)
    torch.testing.assert_close(flow.sigma(t), (t.double() / STEPS) ** power)
    torch.testing.assert_close(flow.signal(t) + flow.sigma(t), torch.ones(101).double())
    start, noise = 1.7, -0.4
    for now, then in ((100, 40), (40, 1), (1, 0)):
        way = flow.posterior(now, then)
        found = way.from_start * start + way.from_now * (
            flow.signal(now) * start + flow.sigma(now) * noise
        )
        assert found.item() == pytest.approx(
            (flow.signal(then) * start + flow.sigma(then) * noise).item()
        )
        assert way.variance == 0


def test_a_way_back_from_the_middle_is_as_dense_as_the_whole_one():
    assert steps_back(100) == list(range(100, -1, -1))
    assert steps_back(100, wanted=4) == [100, 75, 50, 25, 0]
    assert steps_back(100, first=40, wanted=50) == list(range(40, -1, -2))
    assert steps_back(100, first=1, wanted=10) == [1, 0]  # one step at least


def test_more_steps_than_those_of_training_lie_between_them():
    finer = steps_back(100, wanted=250)
    assert len(finer) == 251
    assert [finer[0], finer[-1]] == [100, 0]
    torch.testing.assert_close(torch.tensor(finer).diff(), torch.full((250,), -0.4))
    assert steps_back(100, first=1, wanted=250) == [1, 0.5, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda total: Preserving(preserving_powers(total, 3.0)),
        lambda total: Exploding(exploding_powers(total, 2.0, 0.3)),
        lambda total: Straight(total),
    ],
    ids=["preserving", "exploding", "straight"],
)
def test_noise_between_two_steps_is_that_of_a_finer_schedule(make):
    coarse, fine = make(100), make(300)
    steps = torch.arange(0, 301)
    torch.testing.assert_close(coarse.sigma(steps / 3), fine.sigma(steps), rtol=0.02, atol=3e-5)
    whole = torch.arange(101)
    torch.testing.assert_close(coarse.sigma(whole.float()), coarse.sigma(whole))
    found = [value.item() for value in coarse.posterior(torch.tensor(40.5), torch.tensor(40.0))]
    wanted = [value.item() for value in make(200).posterior(81, 80)]
    assert found == pytest.approx(wanted, rel=0.02, abs=1e-6)
