"""What a measured throughput costs, on a server one owns and on an instance one rents.

All formulas of the kit's costs stand here:

  owned, USD per hour in use    = (price / years + price * maintenance_share) / (8760 h * utilization) + energy
  energy, USD per hour in use   = power_w / 1000 * pue * usd_per_kwh
  rented, USD per hour in use   = usd_per_hour                       (an instance is stopped when it has nothing to do)
  USD per unit of work          = USD per hour in use / units per hour

`utilization` is the share of all hours in which there is work. Units per hour follow from the measured throughput:

  llm, gpu-tgi  1,000,000 tokens     tokens/s * 3600 / 1e6
  video         1,000 camera-hours   frames/s / target_fps / 1000   (cameras carried, if throughput were all that limits)
  audio         an hour of audio     RTFx
  gpu-tgi       1,000 requests       requests/s * 3600 / 1000

Break-even, for the same work done on either side; `instances` = owned units per hour / rented units per hour is how many
instances do the work of one server:

  utilization u*  at which both cost the same:  fixed / (rented * instances - energy), fixed = (price / years + price *
                  maintenance_share) / 8760
  month m         after which owning has cost less:  price / (renting - running), a month of 730 h; renting = rented * instances *
                  utilization * 730, running = price * maintenance_share / 12 + energy * utilization * 730

What is not known stays unknown: no price, no cost.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness import cli

HOURS_A_YEAR, HOURS_A_MONTH = 8760, 730
SUT_DIR = Path(__file__).resolve().parent.parent / "sut"


@dataclass(frozen=True)
class Assumptions:
    """What no record tells. The defaults are starting points to be replaced by one's own figures."""

    years: float = 4.0  # a server is kept
    utilization: float = 0.5  # share of all hours with work
    usd_per_kwh: float = 0.15
    pue: float = 1.5  # power usage effectiveness: all power of the site over that of its machines
    maintenance_share: float = 0.1  # of the price, a year
    load: float = 0.7  # of the rated power, drawn while working; used where power was not measured
    target_fps: float = 30.0  # of a camera


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
        """What would be needed for its cost; empty where nothing is."""
        if self.usd_per_hour is not None and self.usd is None:
            return []
        lacking = ["price"] if self.usd is None else []
        return lacking + (["power"] if self.power_w is None else [])


@dataclass(frozen=True)
class Unit:
    """What work is counted in."""

    name: str  # in a sentence: "USD per ..."
    metric: str  # of the record
    per_hour: float  # units per hour for a metric of 1


def unit_of(workload: str, assumptions: Assumptions) -> list[Unit]:
    """The units of a workload's work, the first being the one decisions are made by."""
    tokens = Unit("million tokens", "tokens_per_second", 3600 / 1e6)
    requests = Unit("1,000 requests", "requests_per_second", 3600 / 1000)
    return {
        "llm": [tokens],
        "video": [Unit("1,000 camera-hours", "frames_per_second", 1 / assumptions.target_fps / 1000)],
        "audio": [Unit("hour of audio", "rtfx", 1.0)],
        "gpu-tgi": [tokens, requests],
    }.get(workload, [])


def machine(system: dict, measured_w: float | None, assumptions: Assumptions, rate: str = "on_demand") -> Machine:
    """A system's TOML as a Machine; power as measured, else as rated times `load`. `rate`: on_demand, reserved or spot."""
    price, power = system.get("price", {}), system.get("power", {})
    key = "usd_per_hour" if rate == "on_demand" else f"usd_per_hour_{rate}"
    watts, said = None, "unknown"
    if measured_w is not None:
        watts, said = measured_w, "measured"
    elif "rated_w" in power:
        watts, said = power["rated_w"] * assumptions.load, f"rated {power['rated_w']:g} W x load {assumptions.load:g}"
    if "usd" not in price and key in price:
        said = "in the price"
    source = ", ".join(filter(None, [price.get("basis"), price.get("source")]))
    known = "usd" in price or key in price
    return Machine(
        system["system"]["name"], price.get("usd"), price.get(key), watts, source or "entered" if known else "unknown", said
    )


def fixed_per_hour(owned: Machine, a: Assumptions) -> float | None:
    """USD per hour of the calendar, worked or not."""
    return None if owned.usd is None else (owned.usd / a.years + owned.usd * a.maintenance_share) / HOURS_A_YEAR


def energy_per_hour(owned: Machine, a: Assumptions) -> float | None:
    """USD per hour in use."""
    return None if owned.power_w is None else owned.power_w / 1000 * a.pue * a.usd_per_kwh


def per_hour(m: Machine, a: Assumptions) -> float | None:
    """USD per hour in use, owned or rented; None where something is unknown."""
    if m.is_rented:
        return m.usd_per_hour
    fixed, energy = fixed_per_hour(m, a), energy_per_hour(m, a)
    return None if fixed is None or energy is None or not a.utilization else fixed / a.utilization + energy


def per_unit(m: Machine, units_per_hour: float, a: Assumptions) -> float | None:
    """USD per unit of work."""
    cost = per_hour(m, a)
    return None if cost is None or units_per_hour <= 0 else cost / units_per_hour


@dataclass(frozen=True)
class BreakEven:
    """When owning costs less than renting, for the same work."""

    instances: float  # rented, that do the work of one owned server
    utilization: float | None  # from which on owning costs less over `years`; None: at no utilization
    month: int | None  # the first by whose end owning has cost less, at the assumed utilization; None: not within `years`


def break_even(owned: Machine, rented: Machine, owned_units: float, rented_units: float, a: Assumptions) -> BreakEven | None:
    """None where a price or the power is unknown."""
    fixed, energy = fixed_per_hour(owned, a), energy_per_hour(owned, a)
    if fixed is None or energy is None or rented.usd_per_hour is None or min(owned_units, rented_units) <= 0:
        return None
    instances = owned_units / rented_units
    saved = rented.usd_per_hour * instances - energy  # USD per hour in use
    utilization = fixed / saved if saved > 0 else None
    a_month = saved * a.utilization * HOURS_A_MONTH - owned.usd * a.maintenance_share / 12
    month = math.ceil(owned.usd / a_month) if a_month > 0 else None
    return BreakEven(
        instances,
        utilization if utilization is not None and utilization <= 1 else None,
        month if month is not None and month <= a.years * 12 else None,
    )


def over_time(owned: Machine, rented: Machine, instances: float, a: Assumptions) -> Iterator[tuple[int, float, float]]:
    """(month, USD spent on owning, USD spent on renting for the same work) from 0 to the end of `years`."""
    running = owned.usd * a.maintenance_share / 12 + energy_per_hour(owned, a) * a.utilization * HOURS_A_MONTH
    renting = rented.usd_per_hour * instances * a.utilization * HOURS_A_MONTH
    for month in range(int(a.years * 12) + 1):
        yield month, owned.usd + running * month, renting * month


def sensitivity(owned: Machine, rented: Machine, owned_units: float, rented_units: float, a: Assumptions) -> list[dict]:
    """The break-even with one assumption changed at a time."""
    changes = [{}]
    changes += [{"usd_per_kwh": a.usd_per_kwh * factor} for factor in (0.5, 2.0)]
    changes += [{"years": years} for years in (3.0, 5.0) if years != a.years]
    changes += [{"utilization": share} for share in (0.25, 0.5, 0.75, 1.0) if share != a.utilization]
    rows = []
    for change in changes:
        assumed = replace(a, **change)
        even = break_even(owned, rented, owned_units, rented_units, assumed)
        rows.append({
            "changed": ", ".join(f"{name} {value:g}" for name, value in change.items()) or "as assumed",
            "owned_usd_per_unit": per_unit(owned, owned_units, assumed),
            "rented_usd_per_unit": per_unit(rented, rented_units, assumed),
            "break_even_utilization": even and even.utilization,
            "break_even_month": even and even.month,
        })  # fmt: skip
    return rows


def add_arguments(parser: argparse.ArgumentParser):
    """Options for the assumptions, and where prices and power come from. Returns their group, for more of them."""
    group = parser.add_argument_group("cost", "prices and rated power stand in sut/*.toml; unknown ones stay unknown")
    a = Assumptions()
    group.add_argument("--years", type=cli.positive_float, default=a.years, help="a server is kept for")
    group.add_argument("--utilization", type=cli.share, default=a.utilization, help="share of all hours in which there is work")
    group.add_argument("--usd_per_kwh", type=cli.non_negative_float, default=a.usd_per_kwh, help="price of electricity")
    group.add_argument("--pue", type=cli.positive_float, default=a.pue, help="power of the site over that of its machines")
    group.add_argument(
        "--maintenance_share", type=cli.non_negative_float, default=a.maintenance_share, help="of the price, a year"
    )
    group.add_argument("--load", type=cli.share, default=a.load, help="of the rated power, drawn while working")
    group.add_argument("--target_fps", type=cli.positive_float, default=a.target_fps, help="frames per second of a camera")
    group.add_argument("--power_w", type=assignment, action="append", default=[], metavar="SIDE=WATTS",
                       help="power the whole machine drew, measured while it worked")  # fmt: skip
    group.add_argument("--rate", choices=("on_demand", "reserved", "spot"), default="on_demand", help="of a rented instance")
    group.add_argument("--sut_dir", type=Path, default=SUT_DIR, help="folder of the systems")
    return group


def assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def positive(text: str, where: str) -> float:
    try:
        return cli.positive_float(text)
    except (ValueError, argparse.ArgumentTypeError):
        raise cli.UserError(f"{where}: not a number above 0") from None


def measured_w(drawn: dict[str, str], side: str) -> float | None:
    """What --power_w says of a side; None where it says nothing."""
    return positive(drawn[side], f"--power_w {side}={drawn[side]}") if side in drawn else None


def assumptions(args: argparse.Namespace) -> Assumptions:
    return Assumptions(**{name: getattr(args, name) for name in Assumptions.__dataclass_fields__})


def main() -> int:
    """Costs of the systems of sut/ at throughputs that the user fills in."""
    from harness import report, sut

    parser = argparse.ArgumentParser(
        prog="python3 -m harness.cost",
        description="What the systems of sut/ cost for a unit of work, at throughputs given by you: no measurement of the kit.\n\n"
        "  python3 -m harness.cost llm R760xa=1200 m7i.48xlarge=1000 --power_w R760xa=900",
        formatter_class=cli.HelpFormatter,
    )
    parser.add_argument("workload", choices=("llm", "video", "audio", "gpu-tgi"))
    parser.add_argument("throughput", type=assignment, nargs="+", metavar="SYSTEM=NUMBER",
                        help="tokens/s (llm, gpu-tgi), frames/s (video) or RTFx (audio) of a system of sut/")  # fmt: skip
    add_arguments(parser)
    args = parser.parse_args()
    a, drawn = assumptions(args), dict(args.power_w)
    systems = {told["system"]["name"]: told for told in sut.read_all(args.sut_dir)}
    unit = unit_of(args.workload, a)[0]
    priced, units = {}, {}
    for name, text in args.throughput:
        if name not in systems:
            raise cli.UserError(f"{name} is no system: {args.sut_dir} has {', '.join(sorted(systems))}")
        priced[name] = machine(systems[name], measured_w(drawn, name), a, args.rate)
        units[name] = positive(text, f"{name}={text}") * unit.per_hour
    rows = [["System", "USD per hour in use", f"USD per {unit.name}", "price", "power"]]
    for name, m in priced.items():
        usd = per_unit(m, units[name], a)
        lacking = "" if usd is not None else f"unknown for want of {', '.join(m.missing())}"
        rows.append([name, f"{report.number(per_hour(m, a))}", lacking or report.number(usd), m.price_source, m.power_source])
    print("\n".join(f"  {line}" for line in cli.columns(rows)))
    for own, owned in priced.items():
        for rent, rented in priced.items():
            even = break_even(owned, rented, units[own], units[rent], a) if owned.usd is not None and rented.is_rented else None
            if even:
                print(report.break_even_sentence({"owned": own, "rented": rent, **asdict(even)}))
    print("\n".join(f"assumed: {report.ASSUMED[name]}: {value:g}" for name, value in asdict(a).items()))
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
