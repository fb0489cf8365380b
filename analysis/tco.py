"""What machines cost over the years, bought or rented: present values by line item, in USD.

docs/cost.md has every formula, with an example by hand for each form of price. Functions take
floats or numpy arrays alike, so that one call prices all draws of a Monte Carlo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.assumptions import Quantity, Values
from analysis.prices import API, RESERVED, SPOT, Offer, System

HOURS_PER_YEAR, HOURS_PER_MONTH = 8760, 730
ALMOST = 1e-9  # of a term: 36 months are no more than three years

# By line item, the assumptions that it needs; the rest comes from the price and the use.
ASSUMED = {
    "residual": ("residual_share",),
    "maintenance": ("maintenance_share",),
    "energy": ("usd_per_kwh", "pue"),
    "rack space": ("rack_units_usd_per_month",),
    "administration": ("admin_usd_per_year",),
    "storage": ("usd_per_gb_month",),
    "egress": ("usd_per_gb_egress",),
}
OWNED_ITEMS = ("residual", "maintenance", "energy", "rack space", "administration")
RENTED_ITEMS = ("storage", "egress")


@dataclass(frozen=True)
class Use:
    """What machines are used for. GB are of all machines together, None where unknown."""

    machines: Quantity = 1.0  # whole ones, or the share of one
    busy_share: Quantity = 1.0  # of the work that all could do in all hours: decides their power
    on_share: Quantity = 1.0  # of all hours, in which they are on: billed on demand and spot
    storage_gb: Quantity | None = None  # kept, on average
    egress_gb_per_month: Quantity | None = None


@dataclass(frozen=True)
class LineItem:
    """A line of the price sheet."""

    name: str
    usd: Quantity | None  # present value; None: unknown, and not in the total
    source: str


@dataclass(frozen=True)
class _Flow:
    """USD that are paid once, at the end of month `start`, or at the end of each of `months` after
    it, the last one in part."""

    usd: Quantity
    start: Quantity = 0.0
    months: Quantity | None = None


def items(offer: Offer, system: System, use: Use, v: Values) -> dict[str, Quantity]:
    """Present value over v.years of each line item that is known, by name; those of 0 left out."""
    paid = _paid(_flows(offer, system, use, v), math.inf, v)
    return {name: usd for name, usd in paid.items() if np.any(usd)}


def missing(offer: Offer, system: System, use: Use, v: Values) -> list[str]:
    """The line items that are not known, so not in items(): for a sentence 'without …'."""
    known = _flows(offer, system, use, v)
    unknown = [name for name in _wanted(offer) if name not in known]
    beyond = offer.is_owned and use.storage_gb is not None and np.any(use.storage_gb)
    return [*unknown, *["storage beyond its own disks"] * bool(beyond)]


def line_items(offer: Offer, system: System, use: Use, v: Values) -> list[LineItem]:
    """The price sheet: items() and missing(), each with what its figures are from."""

    def source(name: str) -> str:
        power = [system.power_source] if name == "energy" else []
        return ", ".join([*power, *ASSUMED.get(name, ())]) or offer.evidence

    known = items(offer, system, use, v)
    names = [*known, *missing(offer, system, use, v)]
    return [LineItem(name, known.get(name), source(name)) for name in names]


def total(offer: Offer, system: System, use: Use, v: Values) -> Quantity:
    """The sum of items()."""
    return sum(_paid(_flows(offer, system, use, v), math.inf, v).values())


def cumulative(offer: Offer, system: System, use: Use, v: Values) -> np.ndarray:
    """Present value of what has been paid by the end of each month: of shape (months + 1,), or
    (months + 1, draws) where a figure has draws. The first is what is paid at once, the last is
    total(): what is owed after v.years counts as paid at their end."""
    by_month = _cumulative(offer, system, use, v)
    return by_month if by_month.shape[1] > 1 else by_month[:, 0]


def per_unit(
    offer: Offer,
    system: System,
    rate_per_hour: Quantity,
    v: Values,
    storage_gb_per_unit: Quantity | None = None,
    egress_gb_per_unit: Quantity | None = None,
) -> Quantity:
    """USD per unit of work of one machine that works v.utilization of all hours at `rate_per_hour`
    (above 0); on demand and spot are billed only then. What is stored is kept for a month.

    Levelized: the price per unit that, paid as the units are done, has the machine's present value.
    So an hour on demand costs its price, whatever the cost of capital.
    """
    units = rate_per_hour * HOURS_PER_MONTH * v.utilization  # per month
    use = Use(
        1.0,
        v.utilization,
        v.utilization,
        None if storage_gb_per_unit is None else storage_gb_per_unit * units,
        None if egress_gb_per_unit is None else egress_gb_per_unit * units,
    )
    return total(offer, system, use, v) / (units * annuity(12 * v.years, v))


def break_even_month(owning: Quantity, renting: Quantity) -> Quantity:
    """The month from whose end on owning has cost less, up to the last; nan: none.

    Both as cumulative() has them. Owned machines are sold in the last month (residual).
    """
    cheaper = np.asarray(owning) < np.asarray(renting)
    months = np.logical_and.accumulate(cheaper[::-1]).sum(axis=0)  # from the last one back
    return np.where(months > 0, len(cheaper) - months, np.nan)[()]


def break_even_utilization(
    owned: tuple[Offer, System, Quantity],
    rented: tuple[Offer, System, Quantity],
    v: Values,
    storage_gb_per_unit: Quantity | None = None,
    egress_gb_per_unit: Quantity | None = None,
) -> Quantity:
    """The utilization from which on, up to 1, owning costs less for the same work; nan: none.

    Both are (offer, system, units of work per hour of one machine). Costs are linear in the
    utilization, so two of them decide.
    """

    def owning_more(utilization: float) -> Quantity:
        """USD per unit per hour of capacity, over v.years."""
        per_month = utilization * HOURS_PER_MONTH * rented[2]
        stored, sent = (
            None if gb is None else gb * per_month
            for gb in (storage_gb_per_unit, egress_gb_per_unit)
        )
        use = Use(1.0, utilization, utilization, stored, sent)
        return (
            total(owned[0], owned[1], use, v) / owned[2]
            - total(rented[0], rented[1], use, v) / rented[2]
        )

    idle, full = np.asarray(owning_more(0.0)), np.asarray(owning_more(1.0))
    crossing = idle / np.where(idle == full, 1.0, idle - full)
    return np.where(full >= 0, np.nan, np.where(idle <= 0, 0.0, crossing))[()]


def unused_commitment(offer: Offer, v: Values) -> str | None:
    """That a reserved machine's last term ends after v.years, in words; None where it does not.
    Floats, not draws."""
    if offer.kind != RESERVED or not offer.term_years:
        return None
    paid = math.ceil(v.years / offer.term_years - ALMOST) * offer.term_years
    if paid - v.years <= ALMOST * paid:
        return None
    return f"{offer.name}: {paid:g} years are paid, of which {v.years:g} are used"


def _wanted(offer: Offer) -> tuple[str, ...]:
    if offer.kind == API:
        return ()
    return OWNED_ITEMS if offer.is_owned else RENTED_ITEMS


def _flows(offer: Offer, system: System, use: Use, v: Values) -> dict[str, list[_Flow]]:
    """What is paid when, by line item; only what is known."""
    months = 12 * v.years
    if offer.kind == API:
        return {"use": [_Flow(offer.usd_per_month, 0.0, months)]}
    if offer.is_owned:
        once = {
            "purchase": [_Flow(use.machines * offer.usd)],
            "residual": [_Flow(-use.machines * offer.usd * v.residual_share, months)],
        }
        per_month = _owned_per_month(offer, system, use, v)
    else:
        once = _reserved(offer, use, months) if offer.kind == RESERVED else {}
        per_month = _rented_per_month(offer, use, v)
    known = {name: [_Flow(usd, 0.0, months)] for name, usd in per_month.items() if usd is not None}
    return {**once, **known}


def _owned_per_month(
    offer: Offer, system: System, use: Use, v: Values
) -> dict[str, Quantity | None]:
    power_w = system.power_w(v)
    watts = power_w and power_w[0] + (power_w[1] - power_w[0]) * use.busy_share
    usd_per_watt = HOURS_PER_MONTH / 1000 * v.pue * v.usd_per_kwh
    admin = v.admin_usd_per_year
    per_machine = {
        "maintenance": offer.usd * v.maintenance_share / 12,
        "energy": None if watts is None else watts * usd_per_watt,
        "rack space": v.rack_units_usd_per_month,
        "administration": None if admin is None else admin / 12,
    }
    return {name: None if usd is None else use.machines * usd for name, usd in per_machine.items()}


def _rented_per_month(offer: Offer, use: Use, v: Values) -> dict[str, Quantity | None]:
    hours = use.machines * HOURS_PER_MONTH
    if offer.kind != RESERVED:
        hours = hours * use.on_share
    if offer.kind == SPOT:
        hours = hours * (1 + v.spot_overhead_share)
    priced = {
        "storage": (use.storage_gb, v.usd_per_gb_month),
        "egress": (use.egress_gb_per_month, v.usd_per_gb_egress),
    }
    return {"rent": hours * offer.usd_per_hour} | {
        name: None if gb is None or usd is None else gb * usd for name, (gb, usd) in priced.items()
    }


def _reserved(offer: Offer, use: Use, months: Quantity) -> dict[str, list[_Flow]]:
    """Up-front payments, and what of the last term is paid but after the years."""
    term = 12 * offer.term_years if offer.term_years else months
    terms = np.ceil(months / term - ALMOST)
    upfront = use.machines * offer.upfront_usd
    paid, unused = [], []
    for number in range(int(np.max(terms))):
        used = np.minimum(np.maximum(months / term - number, 0.0), 1.0)  # share of this term
        paid.append(_Flow(upfront * used, number * term))
        unused.append(_Flow(upfront * ((number < terms) - used), number * term))
    hourly = use.machines * HOURS_PER_MONTH * offer.usd_per_hour
    unused.append(_Flow(hourly, months, np.maximum(terms * term - months, 0.0)))
    return {"up-front": paid, "unused commitment": unused}


def _cumulative(offer: Offer, system: System, use: Use, v: Values) -> np.ndarray:
    """cumulative(), of shape (months + 1, draws), one draw where no figure has any."""
    end = np.atleast_1d(12 * np.asarray(v.years))
    months = np.arange(math.ceil(np.max(end) - ALMOST) + 1.0)[:, None]
    until = np.where(months < end - ALMOST, months, np.inf)
    flows = _flows(offer, system, use, v)
    by_month: np.ndarray = sum(_paid(flows, until, v).values()) + np.zeros_like(until)
    return by_month


def _paid(flows: dict[str, list[_Flow]], until: Quantity, v: Values) -> dict[str, Quantity]:
    """Present value of what is paid by the end of month `until`, by line item."""
    return {name: sum(_paid_of(each, until, v) for each in flows[name]) for name in flows}


def _paid_of(flow: _Flow, until: Quantity, v: Values) -> Quantity:
    present_value = flow.usd * np.exp(-_per_month(v) * flow.start)
    if flow.months is None:
        return present_value * (flow.start <= until + ALMOST)
    return present_value * annuity(np.minimum(np.maximum(until - flow.start, 0.0), flow.months), v)


def annuity(months: Quantity, v: Values) -> Quantity:
    """Present value of 1 USD at the end of each month; of a last part of a month, its share."""
    log_rate = _per_month(v)
    rate = np.expm1(log_rate)
    factor = -np.expm1(-log_rate * months) / np.where(rate == 0, 1.0, rate)
    return np.where(rate == 0, months, factor)[()]


def _per_month(v: Values) -> Quantity:
    """The monthly cost of capital, as a logarithm."""
    return np.log1p(v.discount_rate) / 12
