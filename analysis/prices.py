"""What a system can be bought or rented for, each price with its date and source; hosted APIs.

Prices stand in sut/*.toml (docs/sut.md); those of a hosted API in a TOML of its own (docs/cost.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from analysis.assumptions import Quantity, Values, load_toml
from analysis.text import plain
from harness.cli import UserError

BOUGHT, ON_DEMAND, RESERVED, SPOT, API = "bought", "on demand", "reserved", "spot", "hosted API"
OLD_DAYS = 365
API_KEYS = ("name", "source", "date", "usd_per")


@dataclass(frozen=True)
class Offer:
    """One price of one machine, or of a hosted API's work; USD that are no part of it are 0."""

    name: str  # "bought", "on demand", "reserved 1 y, all up-front", "spot"
    kind: str  # BOUGHT, ON_DEMAND, RESERVED, SPOT or API
    usd: Quantity = 0.0  # to buy it
    usd_per_hour: Quantity = 0.0  # rented
    upfront_usd: Quantity = 0.0  # reserved: at the start of each term
    term_years: float | None = None  # reserved; None where not stated: the whole time is one term
    usd_per_month: Quantity = 0.0  # hosted API: for the work of a month
    source: str = "entered"
    date: str | None = None

    @property
    def is_owned(self) -> bool:
        return self.kind == BOUGHT

    @property
    def price(self) -> str:
        """'86,169.07 USD', '2,000 USD up-front and 1.5 USD per hour'"""
        once = self.usd or self.upfront_usd
        up_front = f"{once:,.2f} USD{'' if self.is_owned else ' up-front'}" if once else ""
        hourly = f"{self.usd_per_hour:g} USD per hour" if self.usd_per_hour else ""
        monthly = f"{self.usd_per_month:,.2f} USD per month" if self.usd_per_month else ""
        return " and ".join(filter(None, [up_front, hourly, monthly])) or "0 USD"

    @property
    def evidence(self) -> str:
        """Where the price is from, and of when."""
        return f"{self.source}, {self.date or 'no date'}"


@dataclass(frozen=True)
class System:
    """A machine's offers and the power of the whole machine, None where unknown."""

    name: str
    offers: tuple[Offer, ...] = ()
    full_w: Quantity | None = None  # at full work, as measured
    rated_w: Quantity | None = None
    idle_w: Quantity | None = None
    notes: tuple[str, ...] = ()  # e.g. a price that is older than a year

    def power_w(self, v: Values) -> tuple[Quantity, Quantity] | None:
        """(idle, at full work) in watts; None where the power at full work is unknown.

        What was not measured is v.load of the rated power, and v.idle_power_share of full work.
        """
        if self.full_w is None and self.rated_w is None:
            return None
        full_w = self.rated_w * v.load if self.full_w is None else self.full_w
        idle_w = full_w * v.idle_power_share if self.idle_w is None else self.idle_w
        return np.minimum(idle_w, full_w), full_w

    @property
    def power_source(self) -> str:
        """How power_w() knows."""
        if self.full_w is None and self.rated_w is None:
            return "unknown"
        full = f"rated {self.rated_w:g} W × load" if self.full_w is None else "measured"
        return f"{full}; idle {'assumed' if self.idle_w is None else f'{self.idle_w:g} W'}"


@dataclass(frozen=True)
class Api:
    """A hosted API, which is paid per unit of work."""

    name: str
    usd_per: Mapping[str, Quantity]  # by unit: "million input tokens", "minute of audio", "image"
    source: str
    date: str | None
    notes: tuple[str, ...] = ()

    def offer(self, units_per_month: Mapping[str, Quantity]) -> Offer:
        """Its price for a month's work. Raises UserError on a unit without a price."""
        for unit in units_per_month:
            if unit not in self.usd_per:
                units = ", ".join(self.usd_per)
                raise UserError(f"{self.name}: no price per {unit}; there are prices per {units}")
        usd = sum(self.usd_per[unit] * count for unit, count in units_per_month.items())
        return Offer(API, API, usd_per_month=usd, source=self.source, date=self.date)


def read_system(
    system: Mapping[str, Any],
    today: date,
    measured_w: float | None = None,
    measured_idle_w: float | None = None,
) -> System:
    """A system's TOML, as harness.sut_toml.read() has it, with the power that was measured.

    Its offers are in the order bought, on demand, reserved, spot. Raises UserError where the
    machine would draw more when idle than at full work.
    """
    name, power = system["system"]["name"], system.get("power", {})
    idle_w = power.get("idle_w") if measured_idle_w is None else measured_idle_w
    limit_w = power.get("rated_w") if measured_w is None else measured_w
    if idle_w is not None and limit_w is not None and idle_w > limit_w:
        raise UserError(f"{name}: idle power {idle_w:g} W is above the {limit_w:g} W of full work")
    offers = _offers(system.get("price", {}))
    notes = [f"{o.name}: {note}" for o in offers if (note := age_note(o.date, today))]
    return System(name, offers, measured_w, power.get("rated_w"), idle_w, tuple(notes))


def _offers(price: Mapping[str, Any]) -> tuple[Offer, ...]:
    def offer(name: str, kind: str, table: Mapping[str, Any] = price, **usd: Any) -> Offer:
        priced = {**price, **table}
        basis = price.get("basis") if kind in (BOUGHT, ON_DEMAND) else None
        source = ", ".join(filter(None, [basis, priced.get("source")])) or "entered"
        priced_on = priced.get("date")
        return Offer(name, kind, **usd, source=source, date=priced_on and str(priced_on))

    found = []
    if "usd" in price:
        found.append(offer(BOUGHT, BOUGHT, usd=price["usd"]))
    if "usd_per_hour" in price:
        found.append(offer(ON_DEMAND, ON_DEMAND, usd_per_hour=price["usd_per_hour"]))
    if "usd_per_hour_reserved" in price:
        found.append(offer(RESERVED, RESERVED, usd_per_hour=price["usd_per_hour_reserved"]))
    for term in price.get("reserved", []):
        keys = ("usd_per_hour", "upfront_usd", "term_years")
        usd = {key: term[key] for key in keys if key in term}
        found.append(offer(reserved_name(**usd), RESERVED, term, **usd))
    if "usd_per_hour_spot" in price:
        found.append(offer(SPOT, SPOT, usd_per_hour=price["usd_per_hour_spot"]))
    return tuple(found)


def reserved_name(term_years: float, usd_per_hour: float = 0, upfront_usd: float = 0) -> str:
    """As cloud providers name it: "reserved 3 y, partial up-front"."""
    paid = "partial" if usd_per_hour else "all"
    return f"{RESERVED} {term_years:g} y, {paid if upfront_usd else 'no'} up-front"


def age_note(priced_on: str | None, today: date) -> str | None:
    """What a reader must know of a price of this date (ISO 8601); None: it is of the last year."""
    if priced_on is None:
        return "the price has no date"
    age = (today - date.fromisoformat(priced_on)).days
    if age < 0:
        return f"the price is dated {priced_on}, after today"
    return f"the price of {priced_on} is older than a year" if age > OLD_DAYS else None


def read_api(path: Path, today: date) -> Api:
    """A hosted API's TOML: name, source, date, and a table usd_per of prices by unit.

    Raises UserError, one line, on anything else.
    """
    found = load_toml(path)
    if unknown := [key for key in found if key not in API_KEYS]:
        keys = ", ".join(API_KEYS)
        raise UserError(f"{path}: no key {plain(unknown[0])!r:.40}; there are {keys}")
    usd_per = found.get("usd_per")
    if not isinstance(usd_per, dict) or not usd_per:
        raise UserError(f"{path}: needs a table [usd_per] of prices by unit")
    for unit, usd in usd_per.items():
        if not _is_amount(usd):
            raise UserError(f"{path}: usd_per {plain(unit)!r:.60} must be a number from 0 on")
    name, source = (found.get(key, "") for key in ("name", "source"))
    if not (isinstance(name, str) and isinstance(source, str) and name and source):
        raise UserError(f"{path}: needs name and source, both text")
    priced_on = found.get("date")
    try:
        priced_on = priced_on and date.fromisoformat(str(priced_on)).isoformat()
    except ValueError:
        raise UserError(f"{path}: date must be like {today.isoformat()}") from None
    note = age_note(priced_on, today)
    return Api(
        plain(name),
        plain(usd_per),
        plain(source),
        priced_on,
        (f"{plain(name)}: {note}",) * bool(note),
    )


def _is_amount(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf
