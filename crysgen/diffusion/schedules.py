"""Noise schedules: variances after t steps, and posteriors (GemsDiff, Eqs. 3, 6, 16).

The lattice follows the usual variance-preserving chain. Positions follow Eq. 16, whose transition
is centred on x_{t-1}: without a shift the variance after t steps is the sum of the β, and that sum
is used everywhere (not 1 - ᾱ_t, which the second line of Eq. 16 has; they agree to 5 % at T).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

STEPS = 100
LATTICE_BETAS = (1e-5, 1e-1)
POSITION_BETAS = (1e-6, 2e-3)
"""(β_0, β_T) of Table 1."""


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(from_start x_0 + from_now x_t, variance), each of shape (...)."""

    from_start: Tensor
    from_now: Tensor
    variance: Tensor

    @property
    def spread(self) -> Tensor:
        """Standard deviation (...)."""
        return self.variance.sqrt()


def linear_betas(steps: int, first: float, last: float) -> Tensor:
    """Compute β (T + 1,) float64: β_0 = 0, which is no step, then linear from `first` to `last`."""
    if steps < 1 or not 0 < first <= last < 1:
        raise ValueError(f"no schedule: {steps} steps from {first} to {last}")
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat([zero, torch.linspace(first, last, steps, dtype=torch.float64)])


def preserving_powers(steps: int, power: float) -> Tensor:
    """Compute β (T + 1,) float64 of a variance-preserving chain with σ_t = (t/T)^power."""
    variance = _powers(steps, power).square()
    betas = variance.diff() / (1 - variance[:-1])
    return torch.cat([torch.zeros(1, dtype=torch.float64), betas])


def exploding_powers(steps: int, power: float, last: float) -> Tensor:
    """Compute β (T + 1,) float64 whose sums are σ_t² = last² (t/T)^(2 power)."""
    variance = (last * _powers(steps, power)).square()
    return torch.cat([torch.zeros(1, dtype=torch.float64), variance.diff()])


def exploding_geometric(steps: int, first: float, last: float) -> Tensor:
    """Compute β (T + 1,) float64 whose sums are σ_t², with σ_t geometric from `first` to `last`."""
    if steps < 1 or not 0 < first <= last:
        raise ValueError(f"no schedule: {steps} steps from {first} to {last}")
    sigma = torch.logspace(math.log10(first), math.log10(last), steps, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), sigma.square()]).diff(
        prepend=torch.zeros(1, dtype=torch.float64)
    )


def _powers(steps: int, power: float) -> Tensor:
    if steps < 1 or not power > 0:
        raise ValueError(f"no schedule: {steps} steps, power {power}")
    return (torch.arange(steps + 1, dtype=torch.float64) / steps) ** power


def is_whole(t: int | Tensor) -> bool:
    """Tell whether steps are whole numbers by their type."""
    return isinstance(t, int) or not t.is_floating_point()


def values_at(table: Tensor, t: int | Tensor) -> Tensor:
    """Look up a table (T + 1,) at the steps t (...), between which it is interpolated.

    Steps between those of training let sampling take more of them.
    """
    if is_whole(t):
        return table[t]
    assert isinstance(t, Tensor)
    below = t.floor()
    first = below.long()
    after = (first + 1).clamp_max(len(table) - 1)
    return table[first].lerp(table[after], (t - below).to(table))


class Preserving(nn.Module):
    """x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε, for the lattice."""

    log_alpha_bar: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        # As a logarithm: the first steps of steep schedules have less noise than 1 - ᾱ can hold.
        logarithms = torch.cumsum(torch.log1p(-betas), 0)
        self.register_buffer("log_alpha_bar", logarithms, persistent=False)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.log_alpha_bar) - 1

    def signal(self, t: Tensor) -> Tensor:
        """Look up sqrt(ᾱ_t) at the steps t (...)."""
        return (self._logarithm(t) / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at the steps t (...)."""
        return (-self._logarithm(t).expm1()).sqrt()

    def posterior(self, t: int | Tensor, s: int | Tensor) -> Posterior:
        """Compute the posterior of step s < t given step t (Eq. 6 corrected to DDPM's mean)."""
        now, then = self._logarithm(t), self._logarithm(s)
        added, left, noise = -(now - then).expm1(), -then.expm1(), -now.expm1()
        return Posterior(
            (then / 2).exp() * added / noise,
            ((now - then) / 2).exp() * left / noise,
            added * left / noise,
        )

    def _logarithm(self, t: int | Tensor) -> Tensor:
        """Return ln ᾱ at the steps t (...), with σ interpolated: at T the logarithm may be -∞."""
        if is_whole(t):
            return self.log_alpha_bar[t]
        sigma = values_at((-self.log_alpha_bar.expm1()).sqrt(), t)
        return torch.log1p(-sigma.square())


class Exploding(nn.Module):
    """x_t = [x_0 + σ_t ε] on the torus, with σ_t² the sum of β up to t, for positions."""

    variance: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        self.register_buffer("variance", torch.cumsum(betas, 0), persistent=False)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.variance) - 1

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at the steps t (...)."""
        return self._variance(t).sqrt()

    def posterior(self, t: int | Tensor, s: int | Tensor) -> Posterior:
        """Compute the posterior of step s < t given step t, x_0 being the image nearest to x_t."""
        now, then = self._variance(t), self._variance(s)
        return Posterior(1 - then / now, then / now, then * (now - then) / now)

    def _variance(self, t: int | Tensor) -> Tensor:
        """Return σ² at the steps t (...), with σ interpolated."""
        return self.variance[t] if is_whole(t) else values_at(self.variance.sqrt(), t).square()


class Straight(nn.Module):
    """x_t = (1 - τ) x_0 + τ ε with τ = (t/T)^power: flow matching, without noise on the way back.

    Args:
        steps: T.
        power: 1 is time as flows have it; more takes smaller steps toward the end.
    """

    share: Tensor

    def __init__(self, steps: int, power: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("share", _powers(steps, power), persistent=False)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.share) - 1

    def signal(self, t: Tensor) -> Tensor:
        """Look up 1 - τ at the steps t (...)."""
        return 1 - values_at(self.share, t)

    def sigma(self, t: Tensor) -> Tensor:
        """Look up τ at the steps t (...)."""
        return values_at(self.share, t)

    def posterior(self, t: int | Tensor, s: int | Tensor) -> Posterior:
        """Compute the step s < t on the straight line through x_0 and x_t."""
        now, then = (values_at(self.share, at) for at in (t, s))
        left = then / now
        return Posterior(1 - then - left * (1 - now), left, torch.zeros_like(left))


def strided_steps(total: int, count: int) -> list[int]:
    """List `count` + 1 steps from `total` down to 0, evenly spaced but for rounding.

    Raises:
        ValueError: unless 1 <= count <= total.
    """
    if not 1 <= count <= total:
        raise ValueError(f"{count} of {total} steps")
    return [round(total * (count - i) / count) for i in range(count + 1)]


def steps_back(
    total: int, first: int | None = None, wanted: int | None = None
) -> list[int] | list[float]:
    """List the steps of the way back from `first` to 0, as dense as `wanted` of all steps are.

    Args:
        total: T.
        first: where the way begins; T if None.
        wanted: steps that a way from T takes; all if None. Where they are more than T, they lie
            between those of training.
    """
    first = total if first is None else first
    wanted = total if wanted is None else wanted
    count = max(1, round(wanted * first / total))
    if count > first:
        return [first * (count - i) / count for i in range(count + 1)]
    return strided_steps(first, count)


def step_tensor(step: float, device: torch.device) -> Tensor:
    """Make a step () of `steps_back`: int64, or of floating point where it lies between others."""
    return torch.full((), step, device=device)
