"""What no record says and a cost needs: each with its range, its source and its date.

The shipped figures are in assumptions.toml; a user's TOML and --set replace them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.text import plain
from harness import cli
from harness.cli import UserError
from harness.sut_toml import tomllib

SHIPPED = Path(__file__).with_name("assumptions.toml")
KEYS = ("value", "low", "high", "source", "date")  # that a user's TOML may have
GIVEN = "given"
FORMS = "VALUE, LOW..HIGH or LOW..VALUE..HIGH"
OPTIONS = ("years", "utilization", "usd_per_kwh", "pue", "maintenance_share", "load")
PLAIN = ("share", "ratio")  # units that a sentence leaves out
Quantity = Any  # a float, or an array of one float per draw


@dataclass(frozen=True)
class Assumption:
    """One figure. `low` and `high` are its stated range, equal to `value` where it is exact; all
    three are None where there is no good default and none was given."""

    name: str
    label: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    source: str
    date: str | None
    allowed: tuple[float, float]

    @property
    def is_exact(self) -> bool:
        return self.low == self.high

    @property
    def evidence(self) -> str:
        """Where the figure is from, and of when."""
        return self.source if self.date is None else f"{self.source}, {self.date}"

    def __str__(self) -> str:
        """'price of electricity: 0.15 (0.08 to 0.3) USD per kWh'"""
        if self.value is None:
            return f"{self.label}: unknown"
        stated = "" if self.is_exact else f" ({self.low:g} to {self.high:g})"
        unit = "" if self.unit in PLAIN else f" {self.unit}"
        return f"{self.label}: {self.value:g}{stated}{unit}"


@dataclass(frozen=True)
class Values:
    """The figures themselves, by name: floats, or arrays of draws; None where unknown."""

    years: Quantity
    utilization: Quantity
    usd_per_kwh: Quantity
    pue: Quantity
    load: Quantity
    idle_power_share: Quantity
    maintenance_share: Quantity
    residual_share: Quantity
    discount_rate: Quantity
    rack_units_usd_per_month: Quantity | None
    admin_usd_per_year: Quantity | None
    usd_per_gb_month: Quantity | None
    usd_per_gb_egress: Quantity | None
    spot_overhead_share: Quantity
    peak_factor: Quantity
    planning_share: Quantity
    interference_share: Quantity
    purchase_price_factor: Quantity
    rental_price_factor: Quantity


def read(path: Path | None = None, given: Mapping[str, str] | None = None) -> dict[str, Assumption]:
    """The shipped assumptions, by name, as a user's TOML `path` and then `given` change them.

    `given` has texts as of --set: VALUE, LOW..HIGH (its middle is the value) or LOW..VALUE..HIGH.
    A single value is exact. Raises UserError, one line, on a name that is not known and on a figure
    that is not allowed.
    """
    found = {name: _shipped(name, table) for name, table in load_toml(SHIPPED).items()}
    for name, table in (load_toml(path) if path else {}).items():
        found[name] = _changed(_known(found, name, f"{path}"), table, path)
    for name, text in (given or {}).items():
        assumption = _known(found, name, "--set")
        try:
            low, value, high = parse(text, assumption.allowed)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--set {name}: {error}") from None
        found[name] = replace(assumption, low=low, value=value, high=high, source=GIVEN, date=None)
    return found


def values(assumptions: Mapping[str, Assumption]) -> Values:
    """Each assumption's value."""
    return Values(**{name: each.value for name, each in assumptions.items()})


def parse(text: str, allowed: tuple[float, float]) -> tuple[float, float, float]:
    """(low, value, high) of VALUE, LOW..HIGH or LOW..VALUE..HIGH.

    Raises argparse.ArgumentTypeError where that is no number, out of order or not allowed.
    """
    check = cli.between(*allowed)
    parts = [check(part) for part in text.split("..")]
    if len(parts) > 3 or parts != sorted(parts):
        raise argparse.ArgumentTypeError(f"must be {FORMS}, from low to high, not {text!r:.60}")
    return parts[0], parts[1] if len(parts) == 3 else (parts[0] + parts[-1]) / 2, parts[-1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--assumptions, --set, and an option of its own for each of OPTIONS."""
    shipped = read()
    about = f"analysis/{SHIPPED.name} has all; each is {FORMS}"
    add = parser.add_argument_group("assumptions", about).add_argument
    file = "TOML with your own figures: only the tables and keys that you change"
    add("--assumptions", type=Path, metavar="FILE", help=file)
    many: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    add("--set", type=_setting(shipped), **many, help="one figure; may be given several times")
    for name in OPTIONS:
        each = shipped[name]
        about = f"{each.label} (default: {_spell(each)})"
        add(f"--{name}", type=_text(each), metavar="VALUE", help=about)


def from_args(args: argparse.Namespace) -> dict[str, Assumption]:
    """The assumptions as the options of add_arguments() change them."""
    options = {name: text for name in OPTIONS if (text := getattr(args, name)) is not None}
    given: dict[str, str] = {}
    for name, text in [*options.items(), *args.set]:
        if name in given:
            raise UserError(f"{name} is given more than once: give it once (--set, --{name})")
        given[name] = text
    return read(args.assumptions, given)


def _text(assumption: Assumption) -> Callable[[str], str]:
    """The type of an option: the text, checked."""

    def check(text: str) -> str:
        parse(text, assumption.allowed)
        return text

    return check


def _setting(known: Mapping[str, Assumption]) -> Callable[[str], tuple[str, str]]:
    def check(text: str) -> tuple[str, str]:
        name, _, value = plain(text).partition("=")
        if name not in known:
            names = ", ".join(known)
            raise argparse.ArgumentTypeError(f"no assumption {name!r:.40}; there are {names}")
        return name, _text(known[name])(value)

    return check


def _known(found: Mapping[str, Assumption], name: str, where: str) -> Assumption:
    if name not in found:
        raise UserError(f"{where}: no assumption {plain(name)!r:.40}; there are {', '.join(found)}")
    return found[name]


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML of the user's. Raises UserError, one line, where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not TOML: {cli.one_line(error)}") from None


def _shipped(name: str, table: dict) -> Assumption:
    value = table.get("value")
    low, high = table.get("low", value), table.get("high", value)
    about = table["label"], table["unit"]
    allowed = tuple(table["allowed"])
    return Assumption(name, *about, value, low, high, table["source"], table.get("date"), allowed)


def _changed(assumption: Assumption, table: Any, path: Path | None) -> Assumption:
    """As a table of a user's TOML says: `value` alone is exact, `low` and `high` a range."""
    where = f"{path}: {assumption.name}"
    if not isinstance(table, dict):
        raise UserError(f"{where}: must be a table: [{assumption.name}], then value = ...")
    if unknown := [key for key in table if key not in KEYS]:
        raise UserError(f"{where}: no key {plain(unknown[0])!r:.40}; there are {', '.join(KEYS)}")
    figures = [table[key] for key in ("low", "value", "high") if key in table]
    if ("low" in table) != ("high" in table) or not figures:
        raise UserError(f"{where}: needs value, or low and high, or all three")
    if not all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in figures):
        raise UserError(f"{where}: low, value and high must be numbers")
    try:
        low, value, high = parse("..".join(map(repr, figures)), assumption.allowed)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{where}: {error}") from None
    source = plain(str(table.get("source", f"{GIVEN} in {path.name if path else ''}")))
    date = plain(str(table["date"])) if "date" in table else None
    return replace(assumption, low=low, value=value, high=high, source=source, date=date)


def _spell(each: Assumption) -> str:
    figures = (each.value,) if each.is_exact else (each.low, each.value, each.high)
    return "..".join(f"{figure:g}" for figure in figures)
