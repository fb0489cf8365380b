"""What a throughput costs, on a server one owns and on an instance one rents.

docs/comparing-and-cost.md has the formulas. `utilization` is the share of all hours in which there
is work; an instance is stopped when it has none. What is not known stays unknown.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import sut
from analysis.comparison import Comparison
from analysis.records import Unit
from analysis.text import number, plain
from harness import cli
from harness.cli import UserError

HOURS_PER_YEAR, HOURS_PER_MONTH = 8760, 730
SUT_DIR = Path(__file__).resolve().parent.parent / "sut"
QUANTITY = cli.between(1e-9, 1e24)  # of work, power or throughput
QUANTITIES = {"hour": 3600.0, "thousand": 1e3, "million": 1e6, "billion": 1e9}


def _assumed(default: float, check: Callable[[str], float], label: str) -> Any:
    return field(default=default, metadata={"check": check, "label": label})


@dataclass(frozen=True)
class Assumptions:
    """What no record says. The defaults are starting points to be replaced by one's own figures."""

    years: float = _assumed(4.0, cli.between(0.1, 100), "years a server is kept")
    utilization: float = _assumed(0.5, cli.share, "share of all hours with work")
    usd_per_kwh: float = _assumed(0.15, cli.between(0, 1000), "USD per kWh")
    pue: float = _assumed(1.5, cli.between(1, 10), "power of the site over that of its machines")
    maintenance_share: float = _assumed(
        0.1, cli.between(0, 10), "maintenance per year, share of the price"
    )
    load: float = _assumed(0.7, cli.share, "share of rated power drawn while working")


@dataclass(frozen=True)
class Assumed:
    """One assumption, with where it comes from."""

    label: str
    value: float
    source: str


@dataclass(frozen=True)
class Machine:
    """A system's price and power, each None where unknown."""

    name: str
    usd: float | None = None  # to buy
    usd_per_hour: float | None = None  # to rent
    power_w: float | None = None  # drawn while working
    price_source: str = "unknown"
    power_source: str = "unknown"

    @property
    def is_rented(self) -> bool:
        return self.usd is None and self.usd_per_hour is not None

    def missing(self) -> list[str]:
        """What its cost would need; empty where nothing is missing."""
        needed = {} if self.is_rented else {"price": self.usd, "power": self.power_w}
        return [name for name, value in needed.items() if value is None]


@dataclass(frozen=True)
class BreakEven:
    """When owning costs less than renting, for the same work."""

    owned: str
    rented: str
    owned_usd_per_unit: float | None
    rented_usd_per_unit: float | None
    instances: float  # rented, that do the work of one owned server
    utilization: float | None  # from which on owning costs less over `years`; None: at none
    month: int | None  # from which on owning has cost less, as assumed; None: not within `years`
    months: int  # the server's life
    purchase_usd: float
    owning_usd_per_month: float  # besides the purchase
    renting_usd_per_month: float

    def __str__(self) -> str:
        at, by = self.utilization, self.month
        share = "at no utilization" if at is None else f"from {at:.0%} of all hours on"
        month = "not within its life" if by is None else f"from month {by} on"
        does = f"one {self.owned} does the work of {self.instances:.2f} {self.rented}"
        return f"{does}. Owning costs less {share}; as assumed, {month}."


@dataclass(frozen=True)
class Priced:
    """A machine's work; costs are None where unknown."""

    units_per_hour: float
    usd_per_hour: float | None
    usd_per_unit: float | None


@dataclass
class CostRow:
    """One unit of work on several machines, and each way to own or rent between them."""

    label: str
    unit: str
    sides: dict[str, Priced]
    missing: list[str]
    break_evens: list[BreakEven] = field(default_factory=list)
    sensitivity: list[dict[str, BreakEven]] = field(default_factory=list)  # by what is changed


Machines = Mapping[str, Machine | None]  # by side; None where no system is known


def machine(system: dict, measured_w: float | None, load: float, rate: str) -> Machine:
    """A system's TOML as a Machine; power as measured, else as rated times `load`."""
    price, rated_w = system.get("price", {}), system.get("power", {}).get("rated_w")
    usd = price.get("usd")
    usd_per_hour = price.get("usd_per_hour" if rate == "on_demand" else f"usd_per_hour_{rate}")
    power_w, power_source = measured_w, "unknown" if measured_w is None else "measured"
    if measured_w is None and rated_w is not None:
        power_w, power_source = rated_w * load, f"rated {rated_w:g} W x load {load:g}"
    if usd is None and usd_per_hour is not None:
        power_source = "in the price"
    source = ", ".join(filter(None, [price.get("basis"), price.get("source")])) or "entered"
    known = usd is not None or usd_per_hour is not None
    name = system["system"]["name"]
    return Machine(name, usd, usd_per_hour, power_w, source if known else "unknown", power_source)


def fixed_per_hour(usd: float, a: Assumptions) -> float:
    """USD per hour of the calendar, worked or not."""
    return (usd / a.years + usd * a.maintenance_share) / HOURS_PER_YEAR


def energy_per_hour(power_w: float, a: Assumptions) -> float:
    """USD per hour in use."""
    return power_w / 1000 * a.pue * a.usd_per_kwh


def per_hour(m: Machine, a: Assumptions) -> float | None:
    """USD per hour in use, owned or rented; None where something is unknown."""
    if m.is_rented:
        return m.usd_per_hour
    if m.usd is None or m.power_w is None or not a.utilization:
        return None
    return fixed_per_hour(m.usd, a) / a.utilization + energy_per_hour(m.power_w, a)


def price(m: Machine | None, units_per_hour: float, a: Assumptions) -> Priced:
    usd = per_hour(m, a) if m else None
    return Priced(
        units_per_hour,
        usd,
        usd / units_per_hour if usd is not None and units_per_hour > 0 else None,
    )


def break_even(
    owned: Machine, rented: Machine, owned_units: float, rented_units: float, a: Assumptions
) -> BreakEven | None:
    """For units per hour of both; None where a price, the power or a throughput is unknown."""
    if owned.usd is None or owned.power_w is None or rented.usd_per_hour is None:
        return None
    if min(owned_units, rented_units) <= 0:
        return None
    instances = owned_units / rented_units
    energy = energy_per_hour(owned.power_w, a)
    saved = rented.usd_per_hour * instances - energy  # per hour in use
    utilization = fixed_per_hour(owned.usd, a) / saved if saved > 0 else math.inf
    hours = a.utilization * HOURS_PER_MONTH
    owning = owned.usd * a.maintenance_share / 12 + energy * hours
    renting = rented.usd_per_hour * instances * hours
    month = math.ceil(owned.usd / (renting - owning)) if renting > owning else math.inf
    months = int(a.years * 12)
    return BreakEven(
        *(owned.name, rented.name),
        price(owned, owned_units, a).usd_per_unit,
        price(rented, rented_units, a).usd_per_unit,
        instances,
        utilization if utilization <= 1 else None,
        int(month) if month <= months else None,
        months,
        owned.usd,
        *(owning, renting),
    )


def alternatives(a: Assumptions) -> dict[str, Assumptions]:
    """One assumption changed at a time, by what is changed."""
    changes = [("usd_per_kwh", a.usd_per_kwh * factor) for factor in (0.5, 2.0)]
    changes += [("years", years) for years in (3.0, 5.0)]
    changes += [("utilization", share) for share in (0.25, 0.5, 0.75, 1.0)]
    return {
        f"{name} {value:g}": replace(a, **{name: value})
        for name, value in changes
        if value != getattr(a, name)
    }


def price_work(
    label: str, unit: Unit, rates: Mapping[str, float], machines: Machines, a: Assumptions
) -> CostRow:
    """The costs of one unit of work, from each side's rate of its metric."""
    units = {side: unit.per_hour(rate) for side, rate in rates.items()}
    known = {side: replace(m, name=side) for side in units if (m := machines[side])}
    no_system = ["price, power: no system of sut/ is this side (--sut)"]
    missing = {side: known[side].missing() if side in known else no_system for side in units}
    row = CostRow(
        label,
        unit.name,
        {side: price(machines[side], units[side], a) for side in units},
        [f"{side}: {what}" for side in units for what in missing[side]],
    )
    for owned, rented in permutations(known.values(), 2):
        work = owned, rented, units[owned.name], units[rented.name]
        if rented.is_rented and (even := break_even(*work, a)):
            changed = {name: break_even(*work, b) for name, b in alternatives(a).items()}
            row.break_evens.append(even)
            row.sensitivity.append({name: other for name, other in changed.items() if other})
    return row


def price_comparisons(
    comparisons: list[Comparison], machines: Machines, own_units: list[Unit], a: Assumptions
) -> list[CostRow]:
    """One row for each fair comparison and unit of its work, or of the user's own."""
    measured = {name for comparison in comparisons for name in comparison.ratios}
    for unit in own_units:
        if measured and unit.metric not in measured:
            known = ", ".join(sorted(measured))
            raise UserError(f"--unit {unit.name}: no metric {unit.metric}; there are {known}")
    return [
        price_work(c.label, unit, {c.baseline: ratio.baseline, c.side: ratio.side}, machines, a)
        for c in comparisons
        for unit in [*c.work, *own_units]
        if (ratio := c.ratios.get(unit.metric))
    ]


def machines_of(sides: Mapping[str, str], args: argparse.Namespace) -> dict[str, Machine | None]:
    """By side, the system of sut/ that it is: by --sut, else named like it or its machine.

    `sides` has each side's machine. None where there is no such system.
    """
    systems = {system["system"]["name"]: system for system in sut.read_all(args.sut_dir)}
    chosen, power_w = dict(args.sut), dict(args.power_w)
    for name in [*chosen, *power_w]:
        if name not in sides:
            raise UserError(f"{name} is no side: there are {', '.join(sorted(sides))}")
    by_name = {name.lower(): name for name in systems}
    found: dict[str, Machine | None] = {}
    for side, product in sides.items():
        if side in chosen and chosen[side] not in systems:
            raise UserError(f"--sut {side}={chosen[side]}: no {chosen[side]}.toml")
        names = [product.lower(), side.lower(), *product.lower().split()]
        alike = [by_name[name] for name in names if name in by_name]
        system = next((systems[name] for name in [chosen.get(side), *alike] if name), None)
        watts = power_w.get(side)
        if watts is not None and not system:
            raise UserError(f"--power_w {side}: no system of sut/ is {side}: add --sut {side}=NAME")
        found[side] = made = machine(system, watts, args.load, args.rate) if system else None
        if watts is not None and made and made.is_rented:
            raise UserError(f"--power_w {side}: {made.name} is rented, its power is in the price")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the assumptions, units, prices and power."""
    about = "prices and rated power stand in sut/*.toml; unknown ones stay unknown"
    add = parser.add_argument_group("cost", about).add_argument
    for each in fields(Assumptions):
        check, label = each.metadata["check"], each.metadata["label"]
        add(f"--{each.name}", type=check, default=each.default, help=label)
    many: dict[str, Any] = {"action": "append", "default": []}
    power = "power that the whole machine drew while it worked"
    add("--power_w", type=positive_number, metavar="SIDE=WATTS", **many, help=power)
    add("--rate", choices=("on_demand", "reserved", "spot"), default="on_demand", help="of renting")
    own = "another unit to price: units per hour = METRIC x 3600 / AMOUNT"
    add("--unit", type=unit_of_work, metavar="NAME=METRIC:AMOUNT", **many, help=own)
    chosen = "sut/NAME.toml that a side is (default: the one named like its machine or folder)"
    add("--sut", type=assignment, metavar="SIDE=NAME", **many, help=chosen)
    add("--sut_dir", type=Path, default=SUT_DIR, help="folder of the systems")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with wrong usage where an option says two things of the same name."""
    named = {"--sut": args.sut, "--power_w": args.power_w}
    named["--unit"] = [(unit.name, unit) for unit in args.unit]
    for option, pairs in named.items():
        _check_once(parser, f"argument {option}", pairs)


def _check_once(
    parser: argparse.ArgumentParser, where: str, pairs: Sequence[tuple[str, object]]
) -> None:
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            parser.error(f"{where}: {name} is given {times} times")


def assumptions(args: argparse.Namespace) -> Assumptions:
    return Assumptions(**{each.name: getattr(args, each.name) for each in fields(Assumptions)})


def describe(a: Assumptions) -> dict[str, Assumed]:
    """By name, each assumption as a report lists it."""
    return {
        each.name: Assumed(
            each.metadata["label"],
            value := getattr(a, each.name),
            "the kit's default" if value == each.default else "given",
        )
        for each in fields(a)
    }


def assignment(text: str) -> tuple[str, str]:
    name, _, value = plain(text).rpartition("=")
    if not (name and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def positive_number(text: str) -> tuple[str, float]:
    name, value = assignment(text)
    try:
        return name, QUANTITY(value)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def unit_of_work(text: str) -> Unit:
    """NAME=METRIC:AMOUNT, or a name that begins with its amount: 'million items', '1,000 items',
    'hour of work' (of what is counted in seconds)."""
    text = plain(text)
    if own := re.match(r"(.+)=(\w+):(.+)$", text):
        return Unit(own[1], own[2], QUANTITY(own[3]))
    first, _, counted = text.partition(" ")
    try:
        return Unit(text, counted, QUANTITIES.get(first) or QUANTITY(first.replace(",", "")))
    except argparse.ArgumentTypeError:
        forms = "'million items', '1,000 items', 'hour of work' or NAME=METRIC:AMOUNT"
        raise argparse.ArgumentTypeError(f"{text!r} says no amount: {forms}") from None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.cost",
        description="What a unit of work costs on systems of sut/, at throughputs given by you.",
        formatter_class=cli.HelpFormatter,
    )
    what = "what is priced: 'million items', '1,000 items', 'hour of work' or NAME=METRIC:AMOUNT"
    parser.add_argument("priced", type=unit_of_work, metavar="UNIT", help=what)
    rate = "throughput of a system, per second"
    parser.add_argument("rates", type=positive_number, nargs="+", metavar="SYSTEM=RATE", help=rate)
    add_arguments(parser)
    args = parser.parse_args()
    check_arguments(parser, args)
    _check_once(parser, "argument SYSTEM=RATE", args.rates)
    return args


def main() -> int:
    """Print the costs of the systems of sut/ at throughputs that the user gives."""
    args = parse_args()
    rates, a = dict(args.rates), assumptions(args)
    machines = machines_of({name: name for name in rates}, args)
    for unit in [args.priced, *args.unit]:
        row = price_work("", unit, rates, machines, a)
        cells = [["System", "USD per hour in use", f"USD per {unit.name}", "price", "power"]]
        for name, m in machines.items():
            if not m:
                raise UserError(f"{name} is no system: {args.sut_dir} has no {name}.toml")
            usd = row.sides[name].usd_per_hour, row.sides[name].usd_per_unit
            cells.append([name, *map(number, usd), m.price_source, m.power_source])
        print("\n".join(f"  {line}" for line in cli.columns(cells)))
        print("\n".join([*map(str, row.break_evens), *(f"missing: {m}" for m in row.missing)]))
    for assumed in describe(a).values():
        print(f"assumed: {assumed.label}: {assumed.value:g}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
