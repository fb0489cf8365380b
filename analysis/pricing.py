"""What work costs on each machine, bought or rented, with ranges, and which costs less.

Work is either a unit (a million tokens), at a measured rate and v.utilization, or a demand (120
cameras), on as many whole machines as it takes. docs/cost.md has the formulas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import numpy as np

from analysis import sizing, tco, uncertainty
from analysis.assumptions import Assumption, Values
from analysis.prices import API, BOUGHT, RESERVED, SPOT, Api, Offer, System
from analysis.text import in_words
from analysis.uncertainty import Array, Cost, Decision, Estimate, Input
from analysis.uncertainty import Values as Drawn

CURVE_DRAWS = 400  # behind the band of a curve of cost over time
ENERGY = "energy"
POWER = ("load", "idle_power_share")
PRICES = ("purchase_price_factor", "rental_price_factor")
NO_SYSTEM = "no system of sut/ is this side: --sut {}=NAME names it"


@dataclass(frozen=True)
class Alternative:
    """One way to have the work done."""

    side: str
    offer: str  # "bought", "on demand", ...
    usd: Estimate  # per unit, or over the years
    machines: Estimate | None  # whole ones, for a demand
    items: list[tco.LineItem]  # of what `usd` is made, as far as it is known
    evidence: str  # what the price is from, and of when
    without: list[str]  # what is not known and not in it
    # The probability that it costs less than all others that are decided between: of each side what
    # is cheapest to own, where its power is known, and to rent. None: not one of them.
    least: float | None = None

    @property
    def name(self) -> str:
        return f"{self.side}, {self.offer}"


@dataclass(frozen=True)
class Curve:
    """What an alternative has cost by the end of each month: USD, and its 90 % range."""

    name: str
    usd: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class BreakEven:
    """A server one owns against an instance one rents, for the same work."""

    decision: Decision  # whether owning costs less; the first is owned
    instances: Estimate  # rented, for one owned server or for the demand
    month: Estimate | None  # from which on owning has cost less; None: not within the years
    utilization: float | None  # from which on owning costs less; None: at none, or for a demand
    curves: tuple[Curve, Curve]
    paid: tuple[str, str]  # the price of either: "86,169.07 USD", "9.6768 USD per hour"
    left_out: tuple[list[str], list[str]]  # line items of either that are not known
    room_usd: float  # per server and month that the owned one's may come to until costs are equal


@dataclass(frozen=True)
class Demand:
    """Live streams by unit, and how they come over the day."""

    streams: Mapping[str, float]
    profile: sizing.Profile
    billing: str  # of sizing.BILLING: what on-demand and spot machines do when there is less work
    spare: int = 0
    headroom: float = 0.0
    storage_gb: Mapping[str, float] | None = None  # kept per stream, by unit
    egress_gb: Mapping[str, float] | None = None  # per stream and hour, by unit
    # what a stream takes of a hosted API per hour, by unit: {"users": {"million tokens": 0.02}}
    api_use: Mapping[str, Mapping[str, float]] | None = None

    def __str__(self) -> str:
        names = [f"{count:,g} {unit}" for unit, count in self.streams.items()]
        return in_words(names)

    @property
    def mean_share(self) -> float:
        return sum(self.profile.shares) / len(self.profile.shares)

    @property
    def notes(self) -> list[str]:
        return [
            f"{item} is that of {', '.join(gb)} only"
            for item, gb in (("storage", self.storage_gb), ("egress", self.egress_gb))
            if gb and set(self.streams) - set(gb)
        ]

    @property
    def api_units_per_month(self) -> dict[str, float]:
        """What all streams take of a hosted API, by its unit of work."""
        per_month: dict[str, float] = defaultdict(float)
        for unit, used in (self.api_use or {}).items():
            hours = self.streams.get(unit, 0.0) * self.mean_share * tco.HOURS_PER_MONTH
            for work, amount in used.items():
                per_month[work] += hours * amount
        return per_month


@dataclass(frozen=True)
class Fleet:
    """The machines of one side for a demand."""

    side: str
    demand: Demand
    capacities: Mapping[str, sizing.Capacity]  # of the demand's units
    mixes: Sequence[sizing.Mix]
    # by billing and what they are planned from, which most inputs of a cost don't change
    known: dict[tuple, tuple[list[Array], tco.Use]] = field(default_factory=dict, repr=False)

    def use(self, billing: str, v: Values, drawn: Drawn) -> tco.Use:
        counts = {unit: drawn[capacity_name(self.side, unit)] for unit in self.capacities}
        sizes = [v.peak_factor, v.planning_share, v.interference_share, *counts.values()]
        arrays = [np.asarray(each) for each in sizes]  # kept, so that no other has their id
        key = billing, *(each.item() if each.ndim == 0 else id(each) for each in arrays)
        if key not in self.known:
            self.known[key] = arrays, self._planned(billing, v, counts)
        return self.known[key][1]

    def _planned(self, billing: str, v: Values, counts: Drawn) -> tco.Use:
        demand = self.demand
        sized = demand.streams, self.capacities, self.mixes, v
        more: Any = {"spare": demand.spare, "headroom": demand.headroom, "counts": counts}
        plan = sizing.machines_needed(*sized, **more)
        day = sizing.day(demand.profile, billing, *sized, **more)
        kept, sent = (
            sum(gb.get(unit, 0.0) * count for unit, count in demand.streams.items()) if gb else None
            for gb in (demand.storage_gb, demand.egress_gb)
        )
        monthly = None if sent is None else sent * demand.mean_share * tco.HOURS_PER_MONTH
        share = min(each.share for each in self.capacities.values())
        return tco.Use(plan.machines * share, day.busy_share, day.on_share, kept, monthly)


@dataclass(frozen=True)
class Way:
    """An alternative before it is priced: one of a unit has a rate, one of a demand a fleet or an
    API."""

    side: str
    system: System
    offer: Offer
    rate: str = ""  # the input that is its units of work per hour
    fleet: Fleet | None = None
    api: Api | None = None

    @property
    def name(self) -> str:
        return f"{self.side}, {self.offer.name}"

    def use(self, v: Values, drawn: Drawn) -> tco.Use:
        if self.fleet:
            is_committed = self.offer.kind in (BOUGHT, RESERVED)
            billing = "always_on" if is_committed else self.fleet.demand.billing
            return self.fleet.use(billing, v, drawn)
        return tco.Use(0.0) if self.api else tco.Use(1.0, v.utilization, v.utilization)

    def cost(self, price: float = 1.0) -> Cost:
        """USD per unit, or of a demand over the years, with a factor on the price."""

        def usd(drawn: Drawn) -> Array:
            v = values_of(drawn)
            offer = _at_price(self.offer, v, price)
            if self.rate:
                return tco.per_unit(offer, self.system, drawn[self.rate], v)
            return tco.total(offer, self.system, self.use(v, drawn), v)

        return usd


@dataclass(frozen=True)
class Basis:
    """All that a work is priced from: it can be priced again, with inputs that were changed."""

    ways: list[Way]
    inputs: list[Input]
    demand: Demand | None = None


@dataclass(frozen=True)
class PricedWork:
    """One unit of work, or a demand, priced on several machines."""

    label: str
    unit: str  # "million tokens"; of a demand what it is
    alternatives: list[Alternative]
    missing: list[str]  # why a side has no cost
    break_evens: list[BreakEven]
    notes: list[str]  # what a reader must know of prices
    basis: Basis = field(repr=False)
    marks: tuple[str, ...] = ()  # what every sentence about it has to say


def values_of(drawn: Drawn) -> Values:
    return Values(**{each.name: drawn.get(each.name) for each in fields(Values)})


def inputs_of(assumptions: Mapping[str, Assumption]) -> list[Input]:
    """The assumptions that have a value, as inputs of a cost."""
    found = []
    for a in assumptions.values():
        if a.value is not None and a.low is not None and a.high is not None:
            found.append(uncertainty.assumed(a.name, a.label, a.value, a.low, a.high, _remedy(a)))
    return found


def _remedy(assumption: Assumption) -> str:
    if assumption.name in POWER:
        return "a power meter at the whole machine (--power_w)"
    if assumption.name in PRICES:
        return f"a firm quote (--set {assumption.name}=1)"
    return f"your own figure (--set {assumption.name}=...)"


def _at_price(offer: Offer, v: Values, price: float) -> Offer:
    paid: Any = {BOUGHT: v.purchase_price_factor, API: 1.0}.get(offer.kind, v.rental_price_factor)
    factor = price * paid
    return replace(
        offer,
        usd=offer.usd * factor,
        usd_per_hour=offer.usd_per_hour * factor,
        upfront_usd=offer.upfront_usd * factor,
        usd_per_month=offer.usd_per_month * factor,
    )


def price_unit(
    label: str,
    unit: str,
    rates: Mapping[str, Input],
    systems: Mapping[str, System | None],
    assumptions: Mapping[str, Assumption],
) -> PricedWork:
    """USD per unit of work on every side.

    Parameters
    ----------
    rates : by side, units per hour of the whole machine while it works.
    systems : by side; None where no system is known.
    """
    ways = [
        Way(side, system, offer, rate=rate.name)
        for side, rate in rates.items()
        if (system := systems[side])
        for offer in system.offers
    ]
    inputs = [*rates.values(), *inputs_of(assumptions)]
    missing = [f"{side}: {why}" for side in rates if (why := _unpriced(side, systems[side]))]
    return _priced_work(label, unit, Basis(ways, inputs), missing)


def _unpriced(side: str, system: System | None) -> str | None:
    if system is None:
        return NO_SYSTEM.format(side)
    return None if system.offers else f"sut/{system.name}.toml has no price"


def price_demand(
    demand: Demand,
    capacities: Mapping[str, Mapping[str, sizing.Capacity]],
    mixes: Mapping[str, Sequence[sizing.Mix]],
    systems: Mapping[str, System | None],
    assumptions: Mapping[str, Assumption],
    apis: Sequence[Api] = (),
) -> PricedWork:
    """USD over the years of every side for a demand.

    Parameters
    ----------
    capacities, mixes : by side, as sizing.from_runs() has them.
    apis : with prices of what demand.api_use takes.
    """
    inputs, missing, notes, marks = inputs_of(assumptions), [], demand.notes, []
    ways: list[Way] = []
    v = values_of(uncertainty.best(inputs))
    for side, own in capacities.items():
        lacking = [unit for unit in demand.streams if unit not in own]
        if lacking:
            missing.append(f"{side}: no capacity of {', '.join(lacking)} was measured")
            continue
        measured = {unit: own[unit] for unit in demand.streams}
        if none := [each.unit for each in measured.values() if each.count < 1]:
            missing.append(f"{side}: not one of its {', '.join(none)} was sustained")
            continue
        inputs += [_capacity_input(side, each) for each in measured.values()]
        system = systems[side]
        if why := _unpriced(side, system):
            missing.append(f"{side}: {why}")
        if system:
            marks += [mark for each in measured.values() for mark in each.marks]
            fleet = Fleet(side, demand, measured, mixes.get(side, ()))
            plan = sizing.machines_needed(
                demand.streams, measured, fleet.mixes, v, demand.spare, demand.headroom
            )
            notes += [f"{side}: {note}" for note in (plan.method, *plan.notes)]
            ways += [Way(side, system, offer, fleet=fleet) for offer in system.offers]
    for api in apis:
        offer = api.offer(demand.api_units_per_month)
        ways.append(Way(api.name, System(api.name, notes=api.notes), offer, api=api))
    work = _priced_work("", str(demand), Basis(ways, inputs, demand), missing)
    return replace(work, notes=[*notes, *work.notes], marks=tuple(dict.fromkeys(marks)))


def capacity_name(side: str, unit: str) -> str:
    return f"{unit} of {side}"


def _capacity_input(side: str, capacity: sizing.Capacity) -> Input:
    return Input(
        capacity_name(side, capacity.unit),
        f"{capacity.unit} per machine of {side}",
        capacity.count,
        lambda p: sizing.quantiles(capacity, p),
        f"more capacity runs of {side}",
    )


def _priced_work(label: str, unit: str, basis: Basis, missing: list[str]) -> PricedWork:
    """The ways priced, and each side's cheapest to own against each side's cheapest to rent."""
    ways, inputs = basis.ways, basis.inputs
    drawn = uncertainty.draw(inputs)
    found = {way.name: _alternative(way, inputs, drawn) for way in ways}
    cheapest: dict[tuple[str, bool], Way] = {}  # spot, which can be taken away, decides nothing
    for way in sorted(ways, key=lambda way: found[way.name].usd.value):
        if way.offer.kind != SPOT:
            cheapest.setdefault((way.side, way.offer.is_owned), way)
    rented = [way for way in cheapest.values() if not way.offer.is_owned]
    owned = [way for way in cheapest.values() if way.offer.is_owned]
    unknown = [way for way in owned if ENERGY in found[way.name].without]
    missing = missing + [
        f"{way.side}'s power, so no verdict on owning it: --power_w" for way in unknown
    ]
    owned = [way for way in owned if way not in unknown]
    shares = _least([*owned, *rented], drawn)
    alternatives = [replace(each, least=shares.get(each.name)) for each in found.values()]
    evens = [_break_even(*pair, inputs, drawn) for pair in product(owned, rented)]
    v = values_of(uncertainty.best(inputs))
    unused = (tco.unused_commitment(way.offer, v) for way in ways)
    notes = [f"{way.side}, {note}" for way, note in zip(ways, unused) if note]
    notes += [f"{way.side}, {note}" for way in ways for note in way.system.notes]
    notes = list(dict.fromkeys(notes))
    return PricedWork(label, unit, alternatives, missing, evens, notes, basis)


def _least(ways: Sequence[Way], drawn: Drawn) -> dict[str, float]:
    """By name, the probability that a way costs less than all others; a tie counts for each in
    part."""
    usd = np.broadcast_arrays(*(np.atleast_1d(way.cost()(drawn)) for way in ways))
    is_least = np.array(usd) == np.min(usd, axis=0) if ways else np.empty((0, 1))
    shares = (is_least / is_least.sum(axis=0)).mean(axis=1)
    return {way.name: float(share) for way, share in zip(ways, shares)}


def _alternative(way: Way, inputs: Sequence[Input], drawn: Drawn) -> Alternative:
    centre = uncertainty.best(inputs)
    v = values_of(centre)
    use, offer = way.use(v, centre), _at_price(way.offer, v, 1.0)
    machines = None
    if way.fleet:
        machines = uncertainty.estimate(
            lambda values: way.use(values_of(values), values).machines, inputs, drawn
        )
    return Alternative(
        way.side,
        way.offer.name,
        uncertainty.estimate(way.cost(), inputs, drawn),
        machines,
        [] if way.rate else tco.line_items(offer, way.system, use, v),
        way.offer.evidence,
        tco.missing(offer, way.system, use, v),
    )


def _break_even(owned: Way, rented: Way, inputs: Sequence[Input], drawn: Drawn) -> BreakEven:
    decision = uncertainty.decide(
        (owned.name, rented.name),
        (owned.cost(), rented.cost()),
        (owned.cost(0.0), rented.cost(0.0)),
        inputs,
        drawn,
    )

    def instances(values: Drawn) -> Array:
        if owned.rate:
            return values[owned.rate] / values[rented.rate]
        return rented.use(values_of(values), values).machines

    def by_month(way: Way, values: Drawn) -> Array:
        v = values_of(values)
        use = way.use(v, values)
        if owned.rate and way is rented:
            use = replace(use, machines=use.machines * instances(values))
        return tco.cumulative(_at_price(way.offer, v, 1.0), way.system, use, v)

    centre = uncertainty.best(inputs)
    few = {name: each[:CURVE_DRAWS] if each.ndim else each for name, each in drawn.items()}
    few["years"] = centre["years"]  # curves of one length
    usd = [by_month(way, centre) for way in (owned, rented)]
    of_draws = [
        np.broadcast_to(each.reshape(len(each), -1), (len(each), CURVE_DRAWS))
        for each in (by_month(way, few) for way in (owned, rented))
    ]
    v = values_of(centre)
    return BreakEven(
        decision,
        uncertainty.estimate(instances, inputs, drawn),
        _month(tco.break_even_month(*usd), tco.break_even_month(*of_draws)),
        _utilization(owned, rented, centre),
        (_curve(owned, usd[0], of_draws[0]), _curve(rented, usd[1], of_draws[1])),
        (owned.offer.price, rented.offer.price),
        (_left_out(owned, v, centre), _left_out(rented, v, centre)),
        decision.saved.value * _units_per_month(owned, v, centre),
    )


def _curve(way: Way, usd: Array, of_draws: Array) -> Curve:
    low, high = np.quantile(of_draws, [uncertainty.LOW, uncertainty.HIGH], axis=1)
    return Curve(way.name, usd.tolist(), low.tolist(), high.tolist())


def _month(month: Array, of_draws: Array) -> Estimate | None:
    """Its range, up to inf for never; None where `month` is never."""
    if not np.isfinite(month):
        return None
    some = np.where(np.isfinite(of_draws), of_draws, np.inf)
    low, high = np.quantile(some, [uncertainty.LOW, uncertainty.HIGH], method="nearest")
    return Estimate(float(month), float(low), float(high))


def _left_out(way: Way, v: Values, centre: Drawn) -> list[str]:
    return tco.missing(way.offer, way.system, way.use(v, centre), v)


def _units_per_month(way: Way, v: Values, centre: Drawn) -> float:
    """What a cost is multiplied with to be USD per machine and month."""
    if way.rate:
        return float(centre[way.rate] * tco.HOURS_PER_MONTH * v.utilization)
    return 1 / float(way.use(v, centre).machines * tco.annuity(12 * v.years, v))


def _utilization(owned: Way, rented: Way, centre: Drawn) -> float | None:
    if not owned.rate:
        return None
    v = values_of(centre)
    own, other = (
        (_at_price(way.offer, v, 1.0), way.system, float(centre[way.rate]))
        for way in (owned, rented)
    )
    found = float(tco.break_even_utilization(own, other, v))
    return found if np.isfinite(found) else None
