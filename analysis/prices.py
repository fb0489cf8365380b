"""What a system may be bought or rented for, each price with its date and evidence; hosted APIs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from analysis.text import plain
from harness import cli
from harness.cli import UserError
from harness.sut_toml import tomllib

BOUGHT, ON_DEMAND, RESERVED, SPOT = KINDS = ("bought", "on demand", "reserved", "spot")
OLD_DAYS = 365


@dataclass(frozen=True)
class Offer:
    """One price of one machine. USD that are not part of such a price are 0."""

    name: str  # "bought", "on demand", "reserved 1 y, all up-front", "spot"
    kind: str  # of KINDS
    usd: float = 0.0  # to buy it
    usd_per_hour: float = 0.0  # rented
    upfront_usd: float = 0.0  # reserved: at each term's begin
    term_years: float | None = None  # reserved; None where unknown: then the whole time
    source: str = "entered"
    date: str | None = None

    @property
    def is_owned(self) -> bool:
        return self.kind == BOUGHT


@dataclass(frozen=True)
class System:
    """A machine's offers and power. Watts of the whole machine; None where unknown."""

    name: str
    offers: tuple[Offer, ...] = ()
    full_w: float | None = None  # at full work, as measured
    rated_w: float | None = None
    idle_w: float | None = None
    notes: tuple[str, ...] = ()  # e.g. a price that is older than a year

    def power_w(self, v: Any) -> tuple[Any, Any] | None:
        """(idle, full work) in watts, as measured, else by `v.load` of the rated power and
        `v.idle_power_share` of full work; None where neither power is known."""
        raise NotImplementedError

    @property
    def power_source(self) -> str:
        """How power_w() knows, in words."""
        raise NotImplementedError


@dataclass(frozen=True)
class Api:
    """A hosted API: what it asks per unit of work."""

    name: str
    usd_per: Mapping[str, float]  # by unit: "million input tokens", "minute of audio", "image"
    source: str
    date: str | None


def read_system(
    system: Mapping[str, Any],
    today: date,
    measured_w: float | None = None,
    measured_idle_w: float | None = None,
) -> System:
    """A system's TOML (harness.sut_toml.read) with the power measured at the whole machine.

    Offers come in the order bought, on demand, reserved, spot. Raises UserError where it draws
    more when idle than at full work.
    """
    raise NotImplementedError


def read_api(path: Path, today: date) -> tuple[Api, list[str]]:
    """A hosted API's TOML: name, source, date, and a table usd_per of prices by unit; and notes.

    Raises UserError, one line, on anything else.
    """
    raise NotImplementedError


def age_note(priced: str | None, today: date) -> str | None:
    """What is said of a price of this date: None where it is at most a year old."""
    raise NotImplementedError
