"""Ranges and probabilities of costs, by simulation with known truth.

TRIALS=1000 harness/.venv/bin/python -m pytest tests/analysis/test_uncertainty.py -s
"""

import os

import numpy as np
import pytest

from analysis import assumptions, pricing, ratio, uncertainty
from analysis.prices import Offer, System

TRIALS = int(os.environ.get("TRIALS", "400"))
DRAWS = 500
RUNS, SPREAD = 4, 0.04
OWNED = System("server", (Offer("bought", "bought", usd=40_000.0),), full_w=500.0)
RENTED = System("instance", (Offer("on demand", "on demand", usd_per_hour=2.0),))
ASSUMED = assumptions.read()


def ways():
    both = (("server", OWNED), ("instance", RENTED))
    return [pricing.Way(side, system, system.offers[0], rate=side) for side, system in both]


@pytest.fixture(scope="module")
def studies():
    """Of each simulated study: the true costs, the estimates and the decision."""
    random = np.random.default_rng(1)
    assumed, found = pricing.inputs_of(ASSUMED), []
    for trial in range(TRIALS):
        rates = {"server": 30.0, "instance": 20.0 * np.exp(random.uniform(-0.8, 0.8))}
        truth = {each.name: each.quantiles(random.random(1))[0] for each in assumed} | rates
        measured = []
        for side, rate in rates.items():
            runs = rate * np.exp(random.normal(0, SPREAD, RUNS))
            measured.append(uncertainty.measured(side, side, runs, ""))
        inputs = [*measured, *assumed]
        drawn = uncertainty.draw(inputs, DRAWS, seed=trial)
        costs = [way.cost() for way in ways()]
        free = [way.cost(0.0) for way in ways()]
        estimates = [uncertainty.estimate(cost, inputs, drawn) for cost in costs]
        decision = uncertainty.decide(("server", "instance"), costs, free, inputs, drawn)
        found.append(([float(cost(truth)) for cost in costs], estimates, decision))
    return found


def test_nine_in_ten_ranges_include_the_true_cost(studies):
    for way in (0, 1):
        inside = [
            estimates[way].low <= truth[way] <= estimates[way].high
            for truth, estimates, _ in studies
        ]
        print(f"90 % ranges of {ways()[way].name} that include the truth: {np.mean(inside):.1%}")
        assert 0.88 - 2 * 0.3 / TRIALS**0.5 <= np.mean(inside) <= 0.98


def test_owning_pays_as_often_as_its_probability_says(studies):
    said = np.array([decision.probability for _, _, decision in studies])
    pays = np.array([truth[0] < truth[1] for truth, _, _ in studies])
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        group = (low <= said) & (said < high)
        gap, chance = said[group].mean() - pays[group].mean(), 0.5 / group.sum() ** 0.5
        print(f"said {said[group].mean():.1%}, true {pays[group].mean():.1%} of {group.sum()}")
        assert abs(gap) < 0.05 + 2.5 * chance
    gap = said.mean() - pays.mean()
    print(f"in all: said {said.mean():.1%}, true {pays.mean():.1%}")
    assert abs(gap) < 0.05


def test_at_the_flip_price_both_cost_the_same(studies):
    assumed = pricing.inputs_of(ASSUMED)
    rates = [uncertainty.measured(side, side, [25.0], "") for side in ("server", "instance")]
    inputs = [*assumed, *rates]
    owned, rented = ways()
    decision = uncertainty.decide(
        ("server", "instance"),
        (owned.cost(), rented.cost()),
        (owned.cost(0.0), rented.cost(0.0)),
        inputs,
        uncertainty.draw(inputs, DRAWS),
    )
    centre = uncertainty.best(inputs)
    bought, hired = (flip.value for flip in decision.flips)
    assert owned.cost(bought)(centre) == pytest.approx(rented.cost()(centre))
    assert rented.cost(hired)(centre) == pytest.approx(owned.cost()(centre))
    widths = [swing.width_usd for swing in decision.swings]
    assert widths == sorted(widths, reverse=True) and len(widths) > 5


def test_one_run_has_a_range_too_and_more_runs_a_narrower_one():
    one, many = (
        uncertainty.measured("x", "x", [96.0, 104.0, 98.0, 102.0] * n, "").range for n in (1, 10)
    )
    alone = uncertainty.measured("x", "x", [100.0], "").range
    assert alone[0] < one[0] < many[0] < 100 < many[1] < one[1] < alone[1]


def test_a_range_between_bounds_is_triangular():
    found = uncertainty.assumed("x", "x", 3.0, 1.0, 4.0, "")
    drawn = found.quantiles(np.random.default_rng(0).random(100_000))
    assert drawn.min() >= 1 and drawn.max() <= 4
    assert drawn.mean() == pytest.approx((1 + 3 + 4) / 3, abs=0.01)
    exact = uncertainty.assumed("x", "x", 3.0, 3.0, 3.0, "")
    assert (exact.quantiles(np.array([0.1, 0.9])) == 3).all()


def test_quantiles_of_students_t_are_antisymmetric():
    p = np.array([0.05, 0.5, 0.95])
    assert ratio.t_quantiles(p, 4) == pytest.approx([-2.132, 0, 2.132], abs=6e-4)
