"""What machines cost over the years, bought or rented, as present values by line item.

docs/cost.md has every formula and an example by hand. Functions take floats or numpy arrays alike:
one call prices all draws of a Monte Carlo. All money is USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.assumptions import Quantity, Values
from analysis.prices import Api, Offer, System

HOURS_PER_YEAR, HOURS_PER_MONTH = 8760, 730


@dataclass(frozen=True)
class Use:
    """What machines are used for. GB are of all machines together, None where unknown."""

    machines: Quantity = 1.0  # whole ones, or the share of one
    busy_share: Quantity = 1.0  # of what all of them can do in all hours: decides their power
    on_share: Quantity = 1.0  # of all hours in which they are on: billed on demand and spot
    storage_gb: Quantity | None = None  # kept, on average
    egress_gb_per_month: Quantity | None = None


@dataclass(frozen=True)
class LineItem:
    """A line of the price sheet."""

    name: str
    usd: Quantity | None  # present value; None: unknown, and not in the total
    source: str


@dataclass(frozen=True)
class BreakEven:
    """When owning costs less than renting, for the same work."""

    month: int | None  # from which on owning has cost less; None: not within the years
    utilization: float | None  # from which on it costs less over the years; None: at none


def items(offer: Offer, system: System, use: Use, v: Values) -> dict[str, Quantity]:
    """Present value over `v.years` of each line item that is known, by name."""
    raise NotImplementedError


def missing(offer: Offer, system: System, use: Use, v: Values) -> list[str]:
    """The line items that are not known, so not in items(): for a sentence 'without …'."""
    raise NotImplementedError


def line_items(offer: Offer, system: System, use: Use, v: Values) -> list[LineItem]:
    """The price sheet: items() and missing(), each with where its figures are from."""
    raise NotImplementedError


def total(offer: Offer, system: System, use: Use, v: Values) -> Quantity:
    """The sum of items()."""
    raise NotImplementedError


def cumulative(offer: Offer, system: System, use: Use, v: Values) -> np.ndarray:
    """Present value of what has been paid by the end of each month, from month 0 (what is paid at
    once) to the last of `v.years`, which equals total(). For floats, not arrays of draws."""
    raise NotImplementedError


def per_unit(
    offer: Offer,
    system: System,
    rate_per_hour: Quantity,
    v: Values,
    storage_gb_per_unit: Quantity | None = None,
    egress_gb_per_unit: Quantity | None = None,
) -> Quantity:
    """USD per unit of work of one machine that works `v.utilization` of all hours at
    `rate_per_hour`, on demand and spot billed only then.

    Levelized: the price per unit whose present value over the years is the machine's. So an hour
    on demand costs its price, whatever the cost of capital. `storage_gb_per_unit` is kept a month.
    """
    raise NotImplementedError


def api_total(api: Api, units_per_month: Mapping[str, Quantity], v: Values) -> Quantity:
    """Present value over the years of a hosted API. Raises UserError on a unit without a price."""
    raise NotImplementedError


def break_even_month(
    owned: tuple[Offer, System, Use], rented: tuple[Offer, System, Use], v: Values
) -> int | None:
    """The month from whose end on owning has cost less, until the last; None: not within the
    years. Floats, not draws."""
    raise NotImplementedError


def break_even_utilization(
    owned: tuple[Offer, System, Quantity], rented: tuple[Offer, System, Quantity], v: Values
) -> Quantity:
    """The utilization from which on owning costs less per unit of work, up to 1; nan: at none.

    Each is (offer, system, units of work per hour of one machine).
    """
    raise NotImplementedError
