"""How sure a sum of dollars is: every input with its range, drawn together and carried through.

A cost is a function of inputs: measured rates and capacities, whose runs say how sure they are, and
assumptions, whose ranges are stated. A Monte Carlo simulation with a fixed seed gives the cost a
90 % range, and two alternatives the probability that one costs less. docs/cost.md says more.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.ratio import SPREAD, moderated, t_quantiles

DRAWS, SEED = 4000, 0
LOW, HIGH = 0.05, 0.95  # the probabilities between which a 90 % range lies
UNDECIDED = 0.1, 0.9  # probabilities between which the data do not decide

Array = np.ndarray
Values = Mapping[str, Array]  # of the inputs, by name: one value, or one per draw
Cost = Callable[[Values], Array]  # USD


@dataclass(frozen=True)
class Input:
    """What a cost depends on and is not known exactly."""

    name: str
    label: str
    value: float  # the best estimate
    quantiles: Callable[[Array], Array] = field(repr=False)  # values from probabilities
    remedy: str = ""  # what would narrow its range

    @property
    def range(self) -> tuple[float, float]:
        """Where it lies with a probability of 90 %."""
        low, high = self.quantiles(np.array([LOW, HIGH]))
        return float(low), float(high)


def measured(
    name: str, label: str, medians: Sequence[float], remedy: str, spread: float = SPREAD
) -> Input:
    """A metric by the medians of its runs, one or more, each above 0.

    Its logarithm lies about the runs' mean as Student's t; the variance between runs is moderated
    by `spread`, so that one run has a range, too.
    """
    logs = np.log(np.asarray(medians, float))
    variance, degrees = moderated(logs, spread)
    value, error = float(np.exp(logs.mean())), math.sqrt(variance / len(logs))

    def quantiles(p: Array) -> Array:
        return value * np.exp(error * t_quantiles(p, degrees))

    return Input(name, label, value, quantiles, remedy)


def assumed(name: str, label: str, value: float, low: float, high: float, remedy: str) -> Input:
    """Between two bounds, most likely at `value`: the triangular distribution."""
    share = (value - low) / (high - low) if high > low else 0.0

    def quantiles(p: Array) -> Array:
        rising = low + np.sqrt(p * (high - low) * (value - low))
        falling = high - np.sqrt((1 - p) * (high - low) * (high - value))
        return np.where(p < share, rising, falling)

    return Input(name, label, value, quantiles, remedy)


@dataclass(frozen=True)
class Estimate:
    """What a function of the inputs comes to, in its own unit."""

    value: float  # with every input at its value
    low: float  # 90 % range
    high: float


def best(inputs: Sequence[Input]) -> dict[str, Array]:
    """Every input at its value."""
    return {each.name: np.array(each.value) for each in inputs}


def draw(inputs: Sequence[Input], draws: int | None = None, seed: int = SEED) -> dict[str, Array]:
    """`draws` values (default: DRAWS) of each input, independent of each other. They depend on its
    name and the seed, not on what else is drawn. An input that is exact has one value. The others
    are rounded to 32 bits, the form in which a page has them, so that it computes with the same."""
    found = {}
    for each in inputs:
        generator = np.random.default_rng([seed, zlib.crc32(each.name.encode())])
        values = each.quantiles(generator.random(draws or DRAWS))
        is_exact = bool((values == each.value).all())
        rounded = values.astype(np.float32).astype(float)
        found[each.name] = np.array(each.value) if is_exact else rounded
    return found


def estimate(cost: Cost, inputs: Sequence[Input], drawn: Values) -> Estimate:
    return _estimate(cost(best(inputs)), cost(drawn))


def _estimate(value: Array, drawn: Array) -> Estimate:
    low, high = np.quantile(drawn, [LOW, HIGH])
    return Estimate(float(value), float(low), float(high))


@dataclass(frozen=True)
class Swing:
    """What one input does to a difference in cost, all others at their values."""

    label: str
    low: float  # the input's 90 % range
    high: float
    usd_at_low: float  # what the first alternative saves
    usd_at_high: float
    remedy: str

    @property
    def width_usd(self) -> float:
        return abs(self.usd_at_high - self.usd_at_low)

    @property
    def flips(self) -> bool:
        """Whether it alone can change which alternative costs less."""
        return (self.usd_at_low > 0) != (self.usd_at_high > 0)


@dataclass(frozen=True)
class Decision:
    """Which of two alternatives costs less, and how sure that is."""

    first: str
    other: str
    saved: Estimate  # by the first, USD
    probability: float  # that the first costs less
    swings: list[Swing]  # the widest first: a tornado chart
    flips: tuple[Estimate, Estimate]  # factors on either's price at which both cost the same

    @property
    def is_decided(self) -> bool:
        return not UNDECIDED[0] < self.probability < UNDECIDED[1]


def decide(
    names: tuple[str, str],
    costs: tuple[Cost, Cost],
    free: tuple[Cost, Cost],
    inputs: Sequence[Input],
    drawn: Values,
) -> Decision:
    """Compare two alternatives.

    Parameters
    ----------
    names, costs : of the first and the other.
    free : both costs with the alternative's own price at 0. A cost is linear in its price, so both
        cost the same at (other - free) / (first - free) of the first's price.
    drawn : from draw(): both alternatives are computed from the same draws.
    """
    first, other = costs

    def saved(values: Values) -> Array:
        return other(values) - first(values)

    def compared(values: Values) -> tuple[Array, Array, Array]:
        """What the first saves, and the factors on either's price at which it saves nothing."""
        paid, other_paid = first(values), other(values)
        unpriced, other_unpriced = (cost(values) for cost in free)
        factor = (other_paid - unpriced) / (paid - unpriced)
        other_factor = (paid - other_unpriced) / (other_paid - other_unpriced)
        return other_paid - paid, factor, other_factor

    centre, swings = best(inputs), []
    for each in inputs:
        low, high = each.range
        if low < high:
            at_low, at_high = (
                float(saved({**centre, each.name: np.array(value)})) for value in (low, high)
            )
            swings.append(Swing(each.label, low, high, at_low, at_high, each.remedy))
    swings = sorted((s for s in swings if s.width_usd), key=lambda s: -s.width_usd)
    of_draws = compared(drawn)
    difference, *flips = map(_estimate, compared(centre), of_draws)
    ties = float((of_draws[0] == 0).mean()) / 2
    probability = float((of_draws[0] > 0).mean()) + ties
    return Decision(*names, difference, probability, swings, (flips[0], flips[1]))
