"""What a throughput costs, on a server one owns and on an instance one rents.

All formulas of the kit's costs stand here:

  owned, USD per hour in use    = (price / years + price * maintenance_share)
                                  / (8760 h * utilization) + energy
  energy, USD per hour in use   = power_w / 1000 * pue * usd_per_kwh
  rented, USD per hour in use   = usd_per_hour    (an instance is stopped when it has nothing to do)
  USD per unit of work          = USD per hour in use / units per hour
  units per hour                = median of the record's metric * 3600 / amount

`utilization` is the share of all hours in which there is work. A record says in its `work` what is
priced: a unit, a metric and an amount.

Break-even, for the same work done on either side; `instances` = owned units per hour / rented units
per hour is how many instances do the work of one server:

  utilization u*  at which both cost the same: fixed / (rented * instances - energy),
                  fixed = (price / years + price * maintenance_share) / 8760
  month m         after which owning has cost less: price / (renting - running), a month of 730 h;
                  renting = rented * instances * utilization * 730,
                  running = price * maintenance_share / 12 + energy * utilization * 730

What is not known stays unknown: no price, no cost.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any

from analysis.comparison import Comparison
from analysis.records import Unit
from analysis.text import number
from harness import cli, sut
from harness.cli import UserError

HOURS_PER_YEAR, HOURS_PER_MONTH = 8760, 730
SUT_DIR = Path(__file__).resolve().parent.parent / "sut"
QUANTITIES = {"hour": 3600.0, "thousand": 1e3, "million": 1e6, "billion": 1e9}


def _assumed(default: float, check: Callable[[str], float], label: str) -> Any:
    return field(default=default, metadata={"check": check, "label": label})


@dataclass(frozen=True)
class Assumptions:
    """What no record says. The defaults are starting points to be replaced by one's own figures."""

    years: float = _assumed(4.0, cli.positive_float, "years a server is kept")
    utilization: float = _assumed(0.5, cli.share, "share of all hours with work")
    usd_per_kwh: float = _assumed(0.15, cli.non_negative_float, "USD per kWh")
    pue: float = _assumed(1.5, cli.positive_float, "power of the site over that of its machines")
    maintenance_share: float = _assumed(
        0.1, cli.non_negative_float, "maintenance per year, share of the price"
    )
    load: float = _assumed(0.7, cli.share, "share of rated power drawn while working")


LABELS: dict[str, str] = {each.name: each.metadata["label"] for each in fields(Assumptions)}


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
        if self.is_rented:
            return []
        needed = {"price": self.usd, "power": self.power_w}
        return [name for name, value in needed.items() if value is None]


@dataclass(frozen=True)
class Options:
    """What the user says of costs."""

    assumptions: Assumptions
    units: list[Unit]  # of the user's own
    power_w: dict[str, float]  # by side, as measured
    rate: str  # of rented instances: on_demand, reserved or spot
    systems: dict[str, dict]  # of sut/, by name
    sut: dict[str, str]  # side: system


@dataclass(frozen=True)
class BreakEven:
    """When owning costs less than renting, for the same work."""

    owned: str
    rented: str
    instances: float  # rented, that do the work of one owned server
    utilization: float | None  # from which on owning costs less over `years`; None: at none
    month: int | None  # from which on owning has cost less, as assumed; None: not within `years`

    def __str__(self) -> str:
        share = (
            f"from {self.utilization:.0%} of all hours on"
            if self.utilization is not None
            else "at no utilization"
        )
        month = f"from month {self.month} on" if self.month is not None else "not within its life"
        return (
            f"one {self.owned} does the work of {self.instances:.2f} {self.rented}. "
            f"Owning costs less {share}; as assumed, {month}."
        )


@dataclass(frozen=True)
class Sensitivity:
    """The outcome with one assumption changed."""

    changed: str
    owned_usd_per_unit: float | None
    rented_usd_per_unit: float | None
    break_even_utilization: float | None
    break_even_month: int | None


@dataclass(frozen=True)
class Priced:
    """A side's work; costs are None where unknown."""

    units_per_hour: float
    usd_per_hour: float | None
    usd_per_unit: float | None


@dataclass
class CostRow:
    """One unit of work on both sides of a comparison."""

    label: str
    unit: str
    sides: dict[str, Priced]
    missing: list[str]
    break_even: BreakEven | None = None
    sensitivity: list[Sensitivity] = field(default_factory=list)
    over_time: list[tuple[int, float, float]] = field(default_factory=list)


def machine(system: dict, measured_w: float | None, load: float, rate: str) -> Machine:
    """A system's TOML as a Machine; power as measured, else as rated times `load`."""
    price, power = system.get("price", {}), system.get("power", {})
    usd = price.get("usd")
    usd_per_hour = price.get("usd_per_hour" if rate == "on_demand" else f"usd_per_hour_{rate}")
    power_w, power_source = measured_w, "measured" if measured_w is not None else "unknown"
    if measured_w is None and "rated_w" in power:
        power_w = power["rated_w"] * load
        power_source = f"rated {power['rated_w']:g} W x load {load:g}"
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
    saved = rented.usd_per_hour * instances - energy_per_hour(owned.power_w, a)  # per hour in use
    utilization = fixed_per_hour(owned.usd, a) / saved if saved > 0 else math.inf
    maintenance = owned.usd * a.maintenance_share / 12
    saved_per_month = saved * a.utilization * HOURS_PER_MONTH - maintenance
    month = math.ceil(owned.usd / saved_per_month) if saved_per_month > 0 else None
    return BreakEven(
        owned.name,
        rented.name,
        instances,
        utilization if utilization <= 1 else None,
        month if month is not None and month <= a.years * 12 else None,
    )


def over_time(
    owned: Machine, rented: Machine, instances: float, a: Assumptions
) -> Iterator[tuple[int, float, float]]:
    """(month, USD spent on owning, on renting for the same work) until the end of `years`."""
    if owned.usd is None or owned.power_w is None or rented.usd_per_hour is None:
        return
    hours = a.utilization * HOURS_PER_MONTH
    running = owned.usd * a.maintenance_share / 12 + energy_per_hour(owned.power_w, a) * hours
    for month in range(int(a.years * 12) + 1):
        yield month, owned.usd + running * month, rented.usd_per_hour * instances * hours * month


def sensitivity(
    owned: Machine, rented: Machine, owned_units: float, rented_units: float, a: Assumptions
) -> list[Sensitivity]:
    """The outcome as assumed, then with one assumption changed at a time."""
    alternatives = {
        "usd_per_kwh": [a.usd_per_kwh * 0.5, a.usd_per_kwh * 2.0],
        "years": [3.0, 5.0],
        "utilization": [0.25, 0.5, 0.75, 1.0],
    }
    cases = [("as assumed", a)] + [
        (f"{name} {value:g}", replace(a, **{name: value}))
        for name, values in alternatives.items()
        for value in values
        if value != getattr(a, name)
    ]
    rows = []
    for changed, assumed in cases:
        even = break_even(owned, rented, owned_units, rented_units, assumed)
        usd = [
            price(m, n, assumed).usd_per_unit
            for m, n in ((owned, owned_units), (rented, rented_units))
        ]
        rows.append(Sensitivity(changed, *usd, even and even.utilization, even and even.month))
    return rows


def machines_of(sides: Mapping[str, str], options: Options) -> dict[str, Machine | None]:
    """By side, the system of sut/ that it is; None where there is none.

    `sides` has each side's machine. A system is found by --sut, else by the name of machine or side.
    """
    for name in [*options.sut, *options.power_w]:
        if name not in sides:
            raise UserError(f"{name} is no side: there are {', '.join(sorted(sides))}")
    found: dict[str, Machine | None] = {}
    for side, product in sides.items():
        if side in options.sut and options.sut[side] not in options.systems:
            raise UserError(f"--sut {side}={options.sut[side]}: no {options.sut[side]}.toml")
        words = product.lower().split()
        exact = [n for n in options.systems if n.lower() in (product.lower(), side.lower())]
        similar = [n for n in options.systems if n.lower() in words]
        name = options.sut.get(side) or next(iter(exact + similar), None)
        found[side] = _machine(name, side, options) if name else None
    return found


def _machine(name: str, side: str, options: Options) -> Machine:
    load = options.assumptions.load
    return machine(options.systems[name], options.power_w.get(side), load, options.rate)


def price_comparisons(
    comparisons: Sequence[Comparison], machines: Mapping[str, Machine | None], options: Options
) -> list[CostRow]:
    """One row for each fair comparison and unit of its work, or of the user's own."""
    return [
        _cost_row(comparison, unit, machines, options.assumptions)
        for comparison in comparisons
        for unit in [*comparison.work, *options.units]
        if unit.metric in comparison.ratios
    ]


def _cost_row(
    comparison: Comparison, unit: Unit, machines: Mapping[str, Machine | None], a: Assumptions
) -> CostRow:
    ratio = comparison.ratios[unit.metric]
    units = {
        comparison.baseline: unit.per_hour(ratio.baseline),
        comparison.side: unit.per_hour(ratio.side),
    }
    known = {side: m for side in units if (m := machines[side])}
    no_system = ["price, power: no system of sut/ is this side (--sut)"]
    row = CostRow(
        comparison.label,
        unit.name,
        {side: price(machines[side], rate, a) for side, rate in units.items()},
        [
            f"{side}: {what}"
            for side in units
            for what in (known[side].missing() if side in known else no_system)
        ],
    )
    if row.missing:
        return row
    for own, rent in permutations(known, 2):
        owned, rented = known[own], known[rent]
        if owned.usd is not None and rented.is_rented:
            work = owned, rented, units[own], units[rent], a
            if even := break_even(*work):
                row.break_even = replace(even, owned=own, rented=rent)
                row.sensitivity = sensitivity(*work)
                row.over_time = list(over_time(owned, rented, even.instances, a))
    return row


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Options for the assumptions, units, prices and power. Returns their group, for more."""
    about = "prices and rated power stand in sut/*.toml; unknown ones stay unknown"
    group = parser.add_argument_group("cost", about)
    add = group.add_argument
    for each in fields(Assumptions):
        check, label = each.metadata["check"], each.metadata["label"]
        add(f"--{each.name}", type=check, default=each.default, help=label)
    power = "power that the whole machine drew while it worked"
    add("--power_w", type=assignment, action="append", default=[], metavar="SIDE=W", help=power)
    add("--rate", choices=("on_demand", "reserved", "spot"), default="on_demand", help="of renting")
    unit = "another unit to price: units per hour = METRIC x 3600 / AMOUNT"
    kind, metavar = unit_of_ones_own, "NAME=METRIC:AMOUNT"
    add("--unit", type=kind, action="append", default=[], metavar=metavar, help=unit)
    add("--sut_dir", type=Path, default=SUT_DIR, help="folder of the systems")
    return group


def options_of(args: argparse.Namespace) -> Options:
    return Options(
        assumptions=Assumptions(**{name: getattr(args, name) for name in LABELS}),
        units=args.unit,
        power_w={side: positive(text, f"--power_w {side}={text}") for side, text in args.power_w},
        rate=args.rate,
        systems={system["system"]["name"]: system for system in sut.read_all(args.sut_dir)},
        sut=dict(getattr(args, "sut", [])),
    )


def assignment(text: str) -> tuple[str, str]:
    name, _, value = text.rpartition("=")
    if not (name and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def unit_of_ones_own(text: str) -> Unit:
    """NAME=METRIC:AMOUNT as a unit of work."""
    name, _, rest = text.rpartition("=")
    metric, _, amount = rest.rpartition(":")
    if not (name and metric):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=METRIC:AMOUNT")
    try:
        return Unit(name, metric, cli.positive_float(amount))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: {amount!r} is not a number") from None


def counted_unit(text: str) -> Unit:
    """A unit whose first word says how much it is: 'million items', '1,000 items', 'hour of work'
    (of something that is counted in seconds); or NAME=METRIC:AMOUNT."""
    if "=" in text:
        return unit_of_ones_own(text)
    quantity, _, counted = text.partition(" ")
    try:
        amount = QUANTITIES.get(quantity) or cli.positive_float(quantity.replace(",", ""))
    except ValueError:
        counted = ""
    if not counted:
        wanted = "start with thousand, million, billion, hour or a number, or be NAME=METRIC:AMOUNT"
        raise argparse.ArgumentTypeError(f"{text!r} must {wanted}")
    return Unit(text, counted, amount)


def positive(text: str, where: str) -> float:
    try:
        return cli.positive_float(text)
    except (ValueError, argparse.ArgumentTypeError):
        raise UserError(f"{where}: not a number above 0") from None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.cost",
        description="What a unit of work costs on systems of sut/, at throughputs given by you.\n\n"
        '  python3 -m analysis.cost "million items" R760xa=1200 m7i.48xlarge=1000',
        formatter_class=cli.HelpFormatter,
    )
    what = "what is priced: 'million items', '1,000 items', 'hour of work' or NAME=METRIC:AMOUNT"
    parser.add_argument("priced", type=counted_unit, metavar="UNIT", help=what)
    rate = "throughput of a system, per second"
    parser.add_argument("throughput", type=assignment, nargs="+", metavar="SYSTEM=RATE", help=rate)
    add_arguments(parser)
    return parser.parse_args()


def main() -> int:
    """Print the costs of the systems of sut/ at throughputs that the user gives."""
    args = parse_args()
    options = options_of(args)
    a = options.assumptions
    rates = {name: positive(text, f"{name}={text}") for name, text in args.throughput}
    for name in rates:
        if name not in options.systems:
            known = ", ".join(sorted(options.systems))
            raise UserError(f"{name} is no system: {args.sut_dir} has {known}")
    machines = {name: _machine(name, name, options) for name in rates}
    for unit in [args.priced, *options.units]:
        units = {name: unit.per_hour(rate) for name, rate in rates.items()}
        rows = [["System", "USD per hour in use", f"USD per {unit.name}", "price", "power"]]
        for name, m in machines.items():
            priced = price(m, units[name], a)
            missing = f"unknown; missing: {', '.join(m.missing())}"
            usd = missing if priced.usd_per_unit is None else number(priced.usd_per_unit)
            rows.append([name, number(priced.usd_per_hour), usd, m.price_source, m.power_source])
        print("\n".join(f"  {line}" for line in cli.columns(rows)))
        for own, rent in permutations(machines.values(), 2):
            if own.usd is not None and rent.is_rented:
                if even := break_even(own, rent, units[own.name], units[rent.name], a):
                    print(even)
    print("\n".join(f"assumed: {LABELS[name]}: {value:g}" for name, value in asdict(a).items()))
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
