"""What work costs on machines that one owns, rents or calls as a hosted API.

A demand on the machines whose capacity was measured:
  python3 -m analysis.cost --demand cameras=120,calls=40,users=200 results/edge results/cloud
A unit of work at throughputs of your own:
  python3 -m analysis.cost "million tokens" R760xa=1200 m7i.48xlarge=1000
docs/cost.md has the formulas, docs/sizing.md how machines are counted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import assumptions as assuming
from analysis import prices, pricing, sizing, sut, uncertainty
from analysis.assumptions import Assumption
from analysis.comparison import Comparison
from analysis.prices import System
from analysis.pricing import BreakEven, Demand, PricedWork
from analysis.records import Run, Unit, read_runs
from analysis.text import Table, as_json, number, plain
from analysis.uncertainty import Estimate
from harness import cli
from harness.cli import UserError

SUT_DIR = Path(__file__).resolve().parent.parent / "sut"
MANY: dict[str, Any] = {"action": "append", "default": []}  # an option given several times
QUANTITY = cli.between(1e-9, 1e24)  # of work, power or throughput
QUANTITIES = {"hour": 3600.0, "thousand": 1e3, "million": 1e6, "billion": 1e9}
DEMAND_OPTIONS = (
    *("capacity", "profile", "profiles", "billing", "spare", "headroom"),
    *("storage_gb", "egress_gb", "api", "api_use", "where"),
)
MAX_SWINGS = 6  # of a tornado chart that are shown


def price_comparisons(
    comparisons: list[Comparison],
    systems: Mapping[str, System | None],
    own_units: list[Unit],
    given: Mapping[str, Assumption],
    share: bool = False,
) -> list[PricedWork]:
    """Each work's units, and the user's own, priced on all sides that are fair to compare.

    A side that was allowed a part of its machine has no cost, unless `share`: then that part of the
    machine is priced.
    """
    measured = {name for comparison in comparisons for name in comparison.ratios}
    for unit in own_units:
        if measured and unit.metric not in measured:
            known = ", ".join(sorted(measured))
            raise UserError(f"--unit {unit.name}: no metric {unit.metric}; there are {known}")
    works: dict[tuple, list[tuple[Comparison, Unit]]] = defaultdict(list)
    for c in comparisons:
        for unit in [*c.work, *own_units]:
            ratio = c.ratios.get(unit.metric)
            if ratio and min(*ratio.medians[0], *ratio.medians[1]) > 0:
                works[c.label, unit.name, tuple(ratio.medians[0])].append((c, unit))
    return [_priced(work, systems, given, share) for work in works.values()]


def _priced(
    work: Sequence[tuple[Comparison, Unit]],
    systems: Mapping[str, System | None],
    given: Mapping[str, Assumption],
    share: bool,
) -> PricedWork:
    """Comparisons of the same runs of the baseline with other sides, in one unit."""
    rates, missing = {}, []
    for c, unit in work:
        for side, medians in zip((c.baseline, c.side), c.ratios[unit.metric].medians):
            part = c.shares.get(side, 1.0)
            if part < 1 and not share:
                missing.append(
                    f"{side}: was allowed {part:.0%} of its machine's CPUs: --share prices "
                    "that part of the machine"
                )
                continue
            per_hour = [unit.per_hour(median) / part for median in medians]
            label, more = f"{c.labels[unit.metric]} of {side}", f"more runs of {side}"
            rates[side] = uncertainty.measured(f"rate of {side}", label, per_hour, more)
    (c, unit), marks = work[0], dict.fromkeys(mark for c, _ in work for mark in c.marks)
    priced = pricing.price_unit(c.label, unit.name, rates, systems, given)
    missing = list(dict.fromkeys([*missing, *priced.missing]))
    return replace(priced, missing=missing, marks=tuple(marks))


def machines_of(
    runs: Sequence[Run], capacities: Sequence[tuple[str, Any]]
) -> dict[str, str | None]:
    """By side, its machine: that of the first run; None where that is a server elsewhere. A side
    that only a user's capacity names is the machine itself."""
    measured = {run.side: None if run.is_remote else run.machine for run in reversed(runs)}
    return {**{side: side for side, _ in capacities}, **measured}


def systems_of(
    sides: Mapping[str, str | None], args: argparse.Namespace
) -> dict[str, System | None]:
    """By side, the system of sut/ that it is: by --sut, else named like it or its machine.

    `sides` has each side's machine; None where that is another than what did the work, so that only
    --sut names it. The result is None where there is no such system.
    """
    tomls = {system["system"]["name"]: system for system in sut.read_all(args.sut_dir)}
    chosen, power_w, idle_w = dict(args.sut), dict(args.power_w), dict(args.idle_w)
    for name in [*chosen, *power_w, *idle_w]:
        if name not in sides:
            raise UserError(f"{name} is no side: there are {', '.join(sorted(sides))}")
    by_name = {name.lower(): name for name in tomls}
    found: dict[str, System | None] = {}
    for side, product in sides.items():
        if side in chosen and chosen[side] not in tomls:
            raise UserError(f"--sut {side}={chosen[side]}: no {chosen[side]}.toml")
        names = [product.lower(), side.lower(), *product.lower().split()] if product else []
        alike = [by_name[name] for name in names if name in by_name]
        toml = next((tomls[name] for name in [chosen.get(side), *alike] if name), None)
        watts = power_w.get(side), idle_w.get(side)
        if watts != (None, None) and not toml:
            raise UserError(f"--power_w {side}: no system of sut/ is {side}: add --sut {side}=NAME")
        made = prices.read_system(toml, date.today(), *watts) if toml else None
        if watts != (None, None) and made and made.offers and not made.offers[0].is_owned:
            raise UserError(f"--power_w {side}: {made.name} is rented, its power is in the price")
        found[side] = made
    return found


def describe(estimate: Estimate, unit: str = "") -> str:
    """A value with its 90 % range: '301,000 (262,000–349,000)'."""
    value, low, high = map(money, (estimate.value, estimate.low, estimate.high))
    return f"{value}{unit}" if low == high else f"{value}{unit} ({low}–{high})"


def money(value: float) -> str:
    """With the digits that matter: '301,234', '7.09', '0.00123'."""
    return f"{value:,.0f}" if abs(value) >= 1000 else number(value)


def whole(estimate: Estimate) -> str:
    low, high = round(estimate.low), round(estimate.high)
    value = f"{estimate.value:.3g}"
    return value if low == high else f"{value} ({low}–{high})"


def sentences(work: PricedWork, years: float) -> list[str]:
    """What the work costs, and which way costs less, how sure that is, and what it hangs on."""
    about = f"{work.label}: " if work.label else ""
    lines = []
    if work.alternatives:
        least = min(work.alternatives, key=lambda each: each.usd.value)
        if least.machines is None:
            each = (
                f"{describe(a.usd)} on {a.name}{_without(a.without)}" for a in work.alternatives
            )
            lines.append(f"{about}USD per {work.unit}: {'; '.join(each)}.")
        else:
            lines.append(
                f"{work.unit} cost least on {whole(least.machines)} × {least.name}: "
                f"{describe(least.usd, ' USD')} over {years:g} years{_without(least.without)}."
            )
    lines += [f"{about}not known: {line}." for line in work.missing]
    return lines + [f"{about}{line}" for even in work.break_evens for line in verdict(even)]


def _without(items: Sequence[str]) -> str:
    return f" without {' and '.join(items)}" if items else ""


def verdict(even: BreakEven) -> list[str]:
    d = even.decision
    less, more, sure = d.first, d.other, d.probability
    if sure < 0.5:
        less, more, sure = d.other, d.first, 1 - sure
    lines = [f"{less} costs less than {more} with a probability of {percent(sure)}."]
    if not d.is_decided:
        lines[0] = f"The data do not decide: {lines[0]}"
        if d.swings:
            lines.append(f"What would narrow it most: {d.swings[0].remedy}.")
    lines += left_out(even)
    if even.month:
        lines[0] += f" Owning has cost less from month {months(even)} on."
    prices_of = [
        f"at {factor(flip)} of the {price} of {name}"
        for name, flip, price in zip((d.first, d.other), d.flips, even.paid)
        if flip.value > 0
    ]
    if prices_of:
        lines.append(f"Both cost the same {' or '.join(prices_of)}.")
    return lines


def left_out(even: BreakEven) -> list[str]:
    """What is not in the costs: one sentence, or none."""
    names = even.decision.first, even.decision.other
    found = [f"{' and '.join(items)} of {n}" for n, items in zip(names, even.left_out) if items]
    if even.left_out[0] and even.room_usd > 0:
        found[0] += f" (at {money(even.room_usd)} USD per server and month both cost the same)"
    return [f"Not in it: {'; '.join(found)}."] if found else []


def months(even: BreakEven) -> str:
    """'26 (19–34)'; 'never' where it does not pay."""
    if even.month is None:
        return "never"
    low, high = (
        "never" if value == float("inf") else f"{value:.0f}"
        for value in (even.month.low, even.month.high)
    )
    return f"{even.month.value:.0f}" + (f" ({low}–{high})" if low != high else "")


def percent(share: float) -> str:
    return "over 99 %" if share > 0.99 else "under 1 %" if share < 0.01 else f"{share:.0%}"


def factor(flip: Estimate) -> str:
    """'83 % (70–98 %)'"""
    return f"{flip.value:.0%} ({flip.low:.0%}–{flip.high:.0%})"


def tables(work: PricedWork) -> list[Table]:
    """The ways with their costs, their line items, and of each decision what it hangs on."""
    about = f": {work.label}, {work.unit}" if work.label else f": {work.unit}"
    is_demand = any(a.machines for a in work.alternatives)
    unit = "USD over the years" if is_demand else f"USD per {work.unit}"
    rows = [
        [
            a.side,
            a.offer,
            *([whole(a.machines) if a.machines else "–"] if is_demand else []),
            describe(a.usd),
            ", ".join(a.without) or "–",
            a.evidence,
        ]
        for a in work.alternatives
    ]
    machines = ["Machines"] if is_demand else []
    headings = ["Side", "Paid", *machines, f"{unit} (90 %)", "Without", "Price from"]
    found = [Table(f"Cost{about}", headings, rows)]
    items = [
        [a.name, item.name, "unknown" if item.usd is None else money(float(item.usd)), item.source]
        for a in work.alternatives
        for item in a.items
    ]
    found.append(Table(f"Line items{about}", ["Way", "Item", "USD, present value", "From"], items))
    rows = []
    for even in work.break_evens:
        share = "–" if even.utilization is None else f"{even.utilization:.0%}"
        d = even.decision
        flips = map(factor, d.flips)
        cells = percent(d.probability), months(even), share, *flips, describe(even.instances)
        rows.append([d.first, d.other, *cells])
    names = "Owned|Rented|Owning costs less with probability|from month|from utilization|"
    names += "at purchase price ×|at rent ×|Rented machines"
    found.append(Table(f"Owning against renting{about}", names.split("|"), rows))
    for even in work.break_evens:
        d = even.decision
        swings = [
            [s.label, f"{s.low:.4g}–{s.high:.4g}", money(s.usd_at_low), money(s.usd_at_high)]
            + ["yes" if s.flips else "no", s.remedy]
            for s in d.swings[:MAX_SWINGS]
        ]
        names = "What|90 % range|Saved at low|Saved at high|Changes the answer|Narrowed by"
        title = f"What decides: {d.first} against {d.other}{about}"
        found.append(Table(title, names.split("|"), swings))
    return [table for table in found if table.rows]


def assumption_table(given: Mapping[str, Assumption]) -> Table:
    rows = []
    for a in given.values():
        stated = "–" if a.value is None or a.is_exact else f"{a.low:g}–{a.high:g}"
        value = "unknown" if a.value is None else f"{a.value:g}"
        rows.append([a.label, value, stated, a.unit, ", ".join(filter(None, [a.source, a.date]))])
    return Table("Assumptions", ["What", "Value", "Range", "Unit", "Source"], rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the assumptions, units, prices and power."""
    about = "prices and rated power stand in sut/*.toml; unknown ones stay unknown"
    add = parser.add_argument_group("cost", about).add_argument
    power = "power that the whole machine drew while it worked"
    add("--power_w", type=positive_number, metavar="SIDE=WATTS", **MANY, help=power)
    add("--idle_w", type=positive_number, metavar="SIDE=WATTS", **MANY, help="the same when idle")
    own = "another unit to price: units per hour = METRIC x 3600 / AMOUNT"
    add("--unit", type=unit_of_work, metavar="NAME=METRIC:AMOUNT", **MANY, help=own)
    chosen = "sut/NAME.toml that a side is (default: the one named like its machine or folder)"
    add("--sut", type=assignment, metavar="SIDE=NAME", **MANY, help=chosen)
    add("--sut_dir", type=Path, default=SUT_DIR, help="folder of the systems")
    part = "price a part of a machine where runs were allowed only a part of its CPUs"
    add("--share", action="store_true", help=part)
    assuming.add_arguments(parser)


def add_demand_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for a demand, the capacities it is sized with, and how it comes over the day."""
    about = "what machines it takes, and what these cost (docs/cost.md, docs/sizing.md)"
    add = parser.add_argument_group("demand", about).add_argument
    live = "live streams to be carried at the busiest hour, e.g. cameras=120,calls=40,users=200"
    add("--demand", type=streams, metavar="UNIT=NUMBER,...", help=live)
    own = "a capacity of your own, of one whole machine: SIDE:cameras=40,users=300"
    add("--capacity", type=side_streams, metavar="SIDE:UNIT=NUMBER,...", **MANY, help=own)
    load = "load over the day, by a name of analysis/profiles.toml or of --profiles"
    add("--profile", default="always", metavar="NAME", help=load)
    add("--profiles", type=Path, metavar="FILE", help="TOML with profiles of your own")
    billed = "what on-demand and spot machines do with less work: stay on, are off in hours "
    billed += "without work, or as many are on as each hour takes"
    add("--billing", choices=sizing.BILLING, default="always_on", help=billed)
    more = "machines more, for ones that fail (N+1: 1)"
    add("--spare", type=cli.non_negative_int, default=0, help=more)
    growth = "growth, as a share of the demand"
    add("--headroom", type=cli.between(0, 100), default=0.0, help=growth)
    kept = "kept per stream on rented storage: cameras=20"
    add("--storage_gb", type=streams, metavar="UNIT=GB,...", help=kept)
    sent = "sent out of the cloud per stream and hour: cameras=0.1"
    add("--egress_gb", type=streams, metavar="UNIT=GB,...", help=sent)
    hosted = "TOML with the prices of a hosted API (docs/cost.md)"
    add("--api", type=Path, metavar="FILE", help=hosted)
    used = 'what one stream takes of it per hour: "users:million output tokens=0.02"'
    add("--api_use", type=side_streams, metavar="UNIT:WORK=NUMBER,...", **MANY, help=used)
    which = "of several service levels or works that were measured: 'users:max TTFT s=1'"
    add("--where", type=entry, metavar="UNIT:ENTRY=VALUE", **MANY, help=which)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with wrong usage where an option says two things of the same name, or goes with a
    demand where there is none."""
    named = {"--sut": args.sut, "--power_w": args.power_w, "--idle_w": args.idle_w}
    named["--unit"] = [(unit.name, unit) for unit in args.unit]
    for option, pairs in named.items():
        _check_once(parser, f"argument {option}", pairs)
    for name in DEMAND_OPTIONS if args.demand is None else ():
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"argument --{name}: goes with --demand")


def _check_once(
    parser: argparse.ArgumentParser, where: str, pairs: Sequence[tuple[str, object]]
) -> None:
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            parser.error(f"{where}: {name} is given {times} times")


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


def streams(text: str) -> dict[str, float]:
    """'cameras=120,calls=40'"""
    pairs = [positive_number(part) for part in text.split(",")]
    if len(dict(pairs)) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: a unit is given twice")
    return dict(pairs)


def side_streams(text: str) -> tuple[str, dict[str, float]]:
    """'R760xa:cameras=40,calls=60'"""
    side, _, counts = plain(text).rpartition(":")
    if not side:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIDE:UNIT=NUMBER,...")
    return side, streams(counts)


def entry(text: str) -> tuple[tuple[str, str], str]:
    """'users:max TTFT s=1'"""
    name, value = assignment(text)
    unit, _, key = name.partition(":")
    if not (unit and key):
        raise argparse.ArgumentTypeError(f"{text!r} is not UNIT:ENTRY=VALUE")
    return (unit, key), value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.cost", description=__doc__, formatter_class=cli.HelpFormatter
    )
    add = parser.add_argument
    what = (
        "with --demand: records (JSON) or folders of them; else UNIT and SYSTEM=RATE ...: what is "
    )
    what += (
        "priced ('million items', '1,000 items', 'hour of work' or NAME=METRIC:AMOUNT) and each "
    )
    what += "system's throughput per second"
    add("what", nargs="*", help=what)
    add("--json", action="store_true", help="print all as JSON")
    add_demand_arguments(parser)
    allowed = "use runs that are not valid as evidence, too"
    add("--allow_invalid", action="store_true", help=allowed)
    add_arguments(parser)
    args = parser.parse_args()
    check_arguments(parser, args)
    if args.demand is None:
        if len(args.what) < 2:
            parser.error("give a UNIT and SYSTEM=RATE ..., or --demand and records")
        try:
            args.priced = unit_of_work(args.what[0])
            args.rates = [positive_number(each) for each in args.what[1:]]
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        _check_once(parser, "argument SYSTEM=RATE", args.rates)
    elif not (args.what or args.capacity):
        parser.error("--demand takes records to know capacities from, or --capacity")
    return args


def price_rates(args: argparse.Namespace, given: Mapping[str, Assumption]) -> list[PricedWork]:
    """Throughputs that the user gives."""
    rates = dict(args.rates)
    systems = systems_of({name: name for name in rates}, args)
    for name, system in systems.items():
        if not system:
            raise UserError(f"{name} is no system: {args.sut_dir} has no {name}.toml")
    found = []
    for unit in [args.priced, *args.unit]:
        exact = {name: unit.per_hour(rate) for name, rate in rates.items()}
        inputs = {
            name: uncertainty.assumed(f"rate of {name}", name, rate, rate, rate, "")
            for name, rate in exact.items()
        }
        found.append(pricing.price_unit("", unit.name, inputs, systems, given))
    return found


@dataclass(frozen=True)
class Sized:
    """A demand that was priced, and what it rests on."""

    work: PricedWork
    capacities: Mapping[str, Mapping[str, sizing.Capacity]]
    mixes: Mapping[str, Sequence[sizing.Mix]]  # by side
    notes: list[str]  # on what was measured: what was left out, and why


def price_streams(
    args: argparse.Namespace,
    runs: Sequence[Run],
    systems: Mapping[str, System | None],
    given: Mapping[str, Assumption],
) -> Sized:
    """The demand of add_demand_arguments() on the machines whose capacity the runs are of, or the
    user states. Raises UserError where there is none."""
    capacities, mixes, notes = sizing.from_runs(
        runs, args.allow_invalid, args.share, dict(args.where)
    )
    for side, counts in args.capacity:
        own = capacities.setdefault(side, {})
        own |= {unit: sizing.given(side, unit, count) for unit, count in counts.items()}
    if not capacities:
        raise UserError("; ".join(["no capacity was measured (capacity.py)", *notes]))
    profiles = sizing.read_profiles(args.profiles)
    if args.profile not in profiles:
        raise UserError(f"--profile {args.profile}: there are {', '.join(profiles)}")
    api_use: dict[str, dict[str, float]] = {}
    for unit, used in args.api_use:
        api_use[unit] = {**api_use.get(unit, {}), **used}
    demand = Demand(
        args.demand,
        profiles[args.profile],
        args.billing,
        args.spare,
        args.headroom,
        args.storage_gb,
        args.egress_gb,
        api_use,
    )
    apis = [prices.read_api(args.api, date.today())] if args.api else []
    unused = [unit for unit in demand.streams if unit not in api_use]
    if apis and unused:
        raise UserError(f"--api needs --api_use of {', '.join(unused)}: {unused[0]}:WORK=NUMBER")
    work = pricing.price_demand(demand, capacities, mixes, systems, given, apis)
    return Sized(work, capacities, mixes, notes)


def capacity_table(capacities: Mapping[str, Mapping[str, sizing.Capacity]]) -> Table:
    """What each machine carries, and within what: a price holds for this service level only."""
    rows = [
        [side, f"{c.count:g} {unit}", "–" if c.low == c.high else f"{c.low:g}–{c.high:g}"]
        + [str(c.runs) if c.runs else "given", c.conditions, "; ".join(c.marks) or "–"]
        for side, own in capacities.items()
        for unit, c in own.items()
    ]
    headings = ["Side", "One machine carries", "95 % CI", "Runs", "Within", "Marks"]
    return Table("Capacity", headings, rows)


def main() -> int:
    """Print what a unit of work, or a demand, costs."""
    args = parse_args()
    given = assuming.from_args(args)
    years = given["years"].value or 0.0
    if args.demand is None:
        works, shown, notes = price_rates(args, given), [], []
    else:
        runs, skipped = read_runs(map(Path, args.what)) if args.what else ([], [])
        systems = systems_of(machines_of(runs, args.capacity), args)
        sized = price_streams(args, runs, systems, given)
        works, notes = [sized.work], [*skipped, *sized.notes]
        shown = [capacity_table(sized.capacities)]
    if args.json:
        content = {"works": works, "capacities": shown and sized.capacities, "assumptions": given}
        print(json.dumps(content, indent=1, ensure_ascii=False, default=as_json))
        return cli.EXIT_OK
    lines = [line for work in works for line in sentences(work, years)]
    shown += [table for work in works for table in tables(work)]
    for table in [*shown, assumption_table(given)]:
        cells = cli.columns([table.headings, *table.rows])
        lines += ["", table.title, *(f"  {line}" for line in cells)]
    notes += [note for work in works for note in work.notes]
    print("\n".join([*lines, "", *(f"note: {note}" for note in dict.fromkeys(notes))]))
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
