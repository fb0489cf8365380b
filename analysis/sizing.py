"""How many whole machines a demand takes, from what one machine sustained.

A capacity record says how many live streams (users, cameras, calls) one machine sustained within
its limits, and, measured with --beside, how many beside another workload. docs/sizing.md has the
rules. A plan is an assignment of every stream to a machine that was measured to carry as many, so
it can't be too small for these capacities.

Numbers may be floats or NumPy arrays (n samples each), which are then planned one by one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np

from analysis import machines, ratio
from analysis.assumptions import Values, load_toml
from analysis.comparison import Chosen, best_by_setting, grouped
from analysis.records import Beside, Key, Run, Scalar, differing, is_number, listed
from analysis.text import plain
from harness.cli import UserError

Number = float | np.ndarray
BILLING = ("always_on", "active_hours", "scale_to_zero")
PROFILES = Path(__file__).resolve().parent / "profiles.toml"
HOURS = 24
EPSILON = 1e-9  # so that rounding errors make no whole number another one
MAX_LOG = 60.0  # of a number drawn, so that none overflows


@dataclass(frozen=True)
class Capacity:
    """The streams of one kind that one machine of a side sustained, with no other work."""

    unit: str  # "users"
    system: str  # the machine
    count: float  # streams, whole: the runs' median, rounded down
    low: float  # of its 95 % interval, whole
    high: float
    runs: int  # that it is the median of
    conditions: str  # work and limits: "prompt tokens 128, ..., max TTFT s 1, max TPOT s 0.1"
    marks: tuple[str, ...] = ()  # what every sentence about it has to say
    share: float = 1.0  # of its machine's CPUs that the runs were allowed: the price is of a part
    log_mean: float = 0.0  # of ln(streams + 1/2), over runs
    log_error: float = 0.0  # standard error of log_mean
    degrees: float = 1.0  # of freedom, of Student's t


@dataclass(frozen=True)
class Mix:
    """Streams of several kinds that one machine sustained at the same time."""

    counts: Mapping[str, float]  # whole, by unit
    runs: int
    is_limit: bool = True  # one more was not sustained; False: as many as were tried


@dataclass(frozen=True)
class Plan:
    """Machines for a demand."""

    machines: Number  # whole, `spare` among them
    spare: int
    alone: Mapping[str, Number]  # by unit: machines if it shared none; without spare
    shares: Mapping[str, Number]  # by unit: machines' worth of streams at the peak, a fraction
    at_peak: Number  # mean load at the peak of the machines that are not spare, 0 to 1
    method: (
        str  # "one workload", "machines of their own", "measured mix of ...", "shares added ..."
    )
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Day:
    """What of the machines a day's load keeps on and busy."""

    on_share: Number  # of machines x hours that are on, and billed where billing is by the hour
    busy_share: Number  # mean load of those that are on, 0 to 1


@dataclass(frozen=True)
class Profile:
    name: str
    label: str
    shares: tuple[float, ...]  # of the busiest hour's demand, for each of 24 hours


def from_runs(
    runs: Sequence[Run],
    allow_invalid: bool = False,
    share: bool = False,
    where: Mapping[tuple[str, str], str] | None = None,
) -> tuple[dict[str, dict[str, Capacity]], dict[str, list[Mix]], list[str]]:
    """Capacities by side and unit, mixes by side, and a line for each thing left out.

    Records of other kinds are passed over. All sides are taken at the same work, limits and
    setting (comparable_by), each at its best configuration as analysis.comparison takes it.

    Parameters
    ----------
    allow_invalid : take runs that are not valid as evidence, too; they are marked.
    share : take runs that were allowed only a part of their machine's CPUs, too.
    where : (unit, entry of the task or of what is comparable) -> value, to choose one work where
        several were measured: {("users", "max TTFT s"): "1"}.
    """
    problems: list[str] = []
    found: list[Run] = []
    for run in runs:
        if run.search is None or not _is_chosen(run, where or {}):
            continue
        if run.share_of_machine < 1 and not share:
            part = f"allowed {run.share_of_machine:.0%} of its machine's CPUs"
            problems.append(f"{run.side}: {run.primary}: {part}, left out (--share takes a part)")
        else:
            found.append(run)
    works = _works([run for run in found if not _beside(run)], allow_invalid, problems)
    chosen = {unit: work for unit in works if (work := _shared_work(unit, works[unit], problems))}
    capacities: dict[str, dict[str, Capacity]] = defaultdict(dict)
    for unit, work in chosen.items():
        for side, best in works[unit][work].items():
            capacities[side][unit] = _capacity(best)
    mixes = _mixes([run for run in found if _beside(run)], chosen, allow_invalid, problems)
    return dict(capacities), mixes, list(dict.fromkeys(problems))


Work = tuple[str, Key, Key]  # workload, task, what must be equal for a ratio to be fair
Works = dict[str, dict[Work, dict[str, Chosen]]]  # by unit, work, side


def _beside(run: Run) -> Beside | None:
    return run.search.beside if run.search else None


def _is_chosen(run: Run, where: Mapping[tuple[str, str], str]) -> bool:
    """Whether the entries named for the run's unit have the values wanted."""
    entries = {**run.comparable_by, **run.task}
    return all(
        unit != run.primary or value in (str(entries.get(name)), str(_short(entries.get(name, ""))))
        for (unit, name), value in where.items()
    )


def _works(runs: list[Run], allow_invalid: bool, problems: list[str]) -> Works:
    """Each side's runs that count, for each unit and work."""
    works: Works = defaultdict(lambda: defaultdict(dict))
    for sides in grouped(runs, lambda run: run.work_key).values():
        for side, each in sides.items():
            for setting, best in best_by_setting(each, allow_invalid).items():
                first = best.runs[0]
                if best.carrying:
                    work = (*first.work_key, setting)
                    works[first.primary][work][side] = best
                else:
                    why = "; ".join(dict.fromkeys(chain(*(run.reasons for run in best.runs))))
                    problems.append(f"{side}: {first.primary}: no valid run: {why}")
    return works


def _shared_work(
    unit: str, works: Mapping[Work, Mapping[str, Chosen]], problems: list[str]
) -> Work | None:
    """The work that most sides did; None where several are as good."""
    most = max(map(len, works.values()))
    best = [work for work, sides in works.items() if len(sides) == most]
    entries = [{**dict(task), **dict(setting)} for _, task, setting in works]
    names = differing(entries)
    said = {work: _described(each, names) for work, each in zip(works, entries)}
    if len(best) > 1:
        several = " / ".join(f"{', '.join(works[work])}: {said[work]}" for work in best)
        problems.append(f"{unit}: left out, measured in several ways, choose one: {several}")
        return None
    for work, sides in works.items():
        if lacking := [side for side in sides if side not in works[best[0]]]:
            problems.append(
                f"{', '.join(lacking)}: {unit}: measured with {said[work]}, "
                f"not with {said[best[0]]} as elsewhere"
            )
    return best[0]


def _described(entries: Mapping[str, Scalar], names: Sequence[str]) -> str:
    shown = {name: _short(entries[name]) for name in names if name in entries}
    return listed(shown) or "nothing more"


def _short(value: Scalar) -> Scalar:
    """A hash by its first digits, as labels have it; 1.0 as 1."""
    if isinstance(value, str):
        return value[:8] if len(value) == 64 else value
    return f"{value:g}" if is_number(value) else value


def _capacity(best: Chosen) -> Capacity:
    first = best.runs[0]
    counts = machines.observations(best.runs, first.primary)
    logs = np.log(np.array(counts) + 0.5)  # a count of n is a capacity from n to below n + 1
    marks = [*best.marks, *(note for note in best.notes if "invalid" in note)]
    variance, degrees = ratio.moderated(logs)
    if len(counts) < ratio.MIN_RUNS:
        marks.append(f"{first.side}: {first.primary} from {len(counts)} run(s)")
    if all(run.search and run.search.first_over is None for run in best.runs):
        marks.append(f"{first.side}: {first.primary}: as many as were tried, may be more")
    error = math.sqrt(variance / len(counts))
    half = ratio.t_quantile((1 + ratio.CONFIDENCE) / 2, degrees) * error
    count, mean = float(math.floor(median(counts))), float(logs.mean())
    low, high = (float(math.floor(math.exp(mean + way * half) + EPSILON)) for way in (-1, 1))
    setting = {k: v for k, v in first.comparable_by.items() if k != "model"}
    work = {k: v for k, v in first.task.items() if not (isinstance(v, str) and len(v) == 64)}
    return Capacity(
        first.primary,
        first.machine,
        count,
        min(low, count),
        max(high, count),
        len(counts),
        listed({name: _short(value) for name, value in {**work, **setting}.items()}),
        tuple(marks),
        first.share_of_machine,
        mean,
        error,
        degrees,
    )


def _mixes(
    runs: list[Run], chosen: Mapping[str, Work], allow_invalid: bool, problems: list[str]
) -> dict[str, list[Mix]]:
    """By side, the mixes whose both works are those that the capacities are of."""
    mixes: dict[str, list[Mix]] = defaultdict(list)
    for sides in grouped(runs, lambda run: run.work_key).values():
        for side, each in sides.items():
            for best in best_by_setting(each, allow_invalid).values():
                first = best.runs[0]
                beside = _beside(first)
                assert beside
                what = f"{side}: {first.primary} beside {beside.count:g} {beside.unit}"
                if not best.carrying:
                    problems.append(f"{what}: no valid run")
                elif not _is_same_work(first, chosen):
                    problems.append(f"{what}: not the work that is sized, left out")
                else:
                    count = float(math.floor(median(run.result.median for run in best.runs)))
                    over = any(run.search and run.search.first_over for run in best.runs)
                    counts = {first.primary: count, beside.unit: beside.count}
                    mixes[side].append(Mix(counts, len(best.runs), over))
    return dict(mixes)


def _is_same_work(run: Run, chosen: Mapping[str, Work]) -> bool:
    """Whether both workloads of a mixed run did the work, alone, that was chosen for their unit."""
    beside = _beside(run)
    assert beside
    if run.primary not in chosen or beside.unit not in chosen or run.primary == beside.unit:
        return False
    own = {k: v for k, v in run.task.items() if k != "beside" and not k.startswith("beside: ")}
    if (run.workload, frozenset(own.items())) != chosen[run.primary][:2]:
        return False
    if frozenset(run.comparable_by.items()) != chosen[run.primary][2]:
        return False
    workload, task, setting = chosen[beside.unit]
    theirs = {name: value for name, value in task if name != "input"}
    own_task = {name: value for name, value in beside.task.items() if name != "input"}
    if (beside.workload, own_task) != (workload, theirs):
        return False
    known = beside.comparable_by.items()
    return all(dict(setting).get(name) == value for name, value in known)


def given(side: str, unit: str, count: float) -> Capacity:
    """A capacity that a user states: exact, of no run."""
    marks = (f"{side}: {unit} as given, not measured",)
    return Capacity(unit, side, count, count, count, 0, "as given", marks)


def quantiles(capacity: Capacity, probabilities: np.ndarray) -> np.ndarray:
    """What the machine may sustain, whole, by how far the runs differ.

    Student's t on the logarithm, as the interval is; 1 at least, which was seen to be sustained.
    """
    if not capacity.runs:
        return np.full(np.shape(probabilities), capacity.count)
    by_chance = capacity.log_error * ratio.t_quantiles(probabilities, capacity.degrees)
    drawn = np.exp(np.minimum(capacity.log_mean + by_chance, MAX_LOG))
    return np.maximum(np.floor(drawn + EPSILON), 1.0)


def machines_needed(
    demand: Mapping[str, Number],
    capacities: Mapping[str, Capacity],
    mixes: Sequence[Mix],
    v: Values,
    spare: int = 0,
    headroom: float = 0.0,
    counts: Mapping[str, Number] | None = None,
) -> Plan:
    """The machines of one side that carry a demand, workloads together or apart, whichever is less.

    Parameters
    ----------
    demand : streams by unit; those of 0 are passed over.
    capacities, mixes : of one side, as from_runs() has them.
    spare : machines more, to replace ones that fail (1: N+1).
    headroom : growth to plan for, as a share of the demand.
    counts : in place of the capacities' own, e.g. arrays of draws.

    Raises UserError where a unit was not measured on this side, or not one stream was sustained.
    """
    for unit in demand:
        _check(unit, capacities)
    if len({capacities[unit].share for unit in demand}) > 1:
        raise UserError("capacities of parts of a machine of different sizes can't share machines")
    fleet = _fleet(demand, capacities, mixes, v, headroom, counts or {})
    units = list(fleet.shares)
    notes = []
    if fleet.is_added:
        notes.append("whether the workloads fit into a machine's memory together was not measured")
    busy = sum(fleet.shares.values()) / np.maximum(fleet.machines, 1.0) if units else 0.0
    return Plan(
        fleet.machines + spare,
        spare,
        fleet.alone,
        fleet.shares,
        np.minimum(busy, 1.0),
        fleet.way if len(units) > 1 else "one workload",
        tuple(notes),
    )


def _check(unit: str, capacities: Mapping[str, Capacity]) -> None:
    if unit not in capacities:
        known = ", ".join(sorted(capacities)) or "none"
        raise UserError(f"no capacity was measured for {unit}; there is: {known}")
    found = capacities[unit]
    if found.count < 1:
        raise UserError(f"{found.system} sustained not one of {unit}: {found.conditions}")


@dataclass(frozen=True)
class _Fleet:
    machines: Number  # without spare
    alone: dict[str, Number]
    shares: dict[str, Number]
    way: str
    is_added: bool  # whether some of it was not measured: shares of workloads were added


def _fleet(
    demand: Mapping[str, Number],
    capacities: Mapping[str, Capacity],
    mixes: Sequence[Mix],
    v: Values,
    headroom: float,
    counts: Mapping[str, Number],
) -> _Fleet:
    """The fewest machines of three ways to place whole streams, each within what was measured:
    workloads apart, in a measured mix, or with their shares added."""
    units = [unit for unit, number in demand.items() if np.any(np.asarray(number) > 0)]
    most = {unit: counts.get(unit, capacities[unit].count) for unit in units}
    peak = {unit: demand[unit] * v.peak_factor * (1 + headroom) for unit in units}
    planned = {unit: _whole(peak[unit] / v.planning_share) for unit in units}
    alone = {unit: _whole(planned[unit] / most[unit]) for unit in units}
    shares = {unit: peak[unit] / most[unit] for unit in units}
    joint = [mix for mix in mixes if sum(unit in mix.counts for unit in units) > 1]
    measured = [
        max(0.0, 1 / sum(n / capacities[unit].count for unit, n in mix.counts.items()) - 1)
        for mix in joint
        if mix.is_limit and set(units) <= set(mix.counts) <= set(capacities)
    ]
    interference = max(measured) if measured else v.interference_share
    best, way = sum(alone.values()), "each workload on machines of its own"
    added = f"shares added, {np.mean(interference):.1%} {'measured' if measured else 'assumed'} "
    added += "interference"
    ways = []  # by how much of it was measured
    for mix in joint:
        scaled = {
            unit: np.floor(mix.counts[unit] * most[unit] / capacities[unit].count + EPSILON)
            for unit in units
            if unit in mix.counts
        }
        named = "measured mix of " + " + ".join(f"{mix.counts[unit]:g} {unit}" for unit in scaled)
        ways.append((named, _mixed(planned, most, scaled, None), False))
        ways.append((f"{named}; {added}", _mixed(planned, most, scaled, interference), True))
    ways.append((added, _packed(planned, most, interference), True))
    is_added = False
    for name, needed, adds in sorted(ways, key=lambda each: (each[2], "mix" in each[0])):
        if np.mean(np.minimum(best, needed)) < np.mean(best):
            way, is_added = name, adds
        best = np.minimum(best, needed)
    return _Fleet(best, alone, shares, way, is_added)


def _whole(value: Number) -> Number:
    """Rounded up, but for what is a whole number in all but the last digits of a float."""
    return np.ceil(value * (1 - EPSILON))


def _mixed(
    planned: Mapping[str, Number],
    most: Mapping[str, Number],
    mix: Mapping[str, Number],
    interference: Number | None,
) -> Number:
    """Machines of which as many as is best carry a mix, or less; the others one workload each, or,
    with an interference, as in _packed()."""
    best: Number = np.inf
    for unit, count in mix.items():
        for turn in (np.floor, np.ceil):
            mixed = turn(planned[unit] / np.maximum(count, 1.0))
            rest = {u: np.maximum(n - mixed * mix.get(u, 0.0), 0.0) for u, n in planned.items()}
            if interference is None:
                others = sum(_whole(number / most[u]) for u, number in rest.items())
            else:
                others = _packed(rest, most, interference)
            best = np.minimum(best, mixed + others)
    return best


def _packed(
    planned: Mapping[str, Number], most: Mapping[str, Number], interference: Number
) -> Number:
    """Machines of one workload as long as they are full, and what remains first fit.

    A machine with streams of several workloads carries them where the sum of their shares (streams
    over capacity) x (1 + interference) is at most 1. Never more machines than without sharing: a
    remainder opens one at most.
    """
    full: Number = 0.0
    taken: list[Number] = []  # of each machine that is shared: the sum of shares
    for unit, number in planned.items():
        whole = np.floor(number / most[unit])
        full, left = full + whole, number - whole * most[unit]
        for index, share in enumerate(taken):
            room = np.floor(np.maximum(1 / (1 + interference) - share, 0) * most[unit] + EPSILON)
            added = np.where(share > 0, np.minimum(left, room), 0.0)
            taken[index], left = share + added / most[unit], left - added
        taken.append(left / most[unit])
    return full + sum(np.where(share > 0, 1.0, 0.0) for share in taken)


def day(
    profile: Profile,
    billing: str,
    demand: Mapping[str, Number],
    capacities: Mapping[str, Capacity],
    mixes: Sequence[Mix],
    v: Values,
    spare: int = 0,
    headroom: float = 0.0,
    counts: Mapping[str, Number] | None = None,
) -> Day:
    """How many of machines_needed()'s machines a day keeps on, and how busy these are.

    `billing` "always_on": all of them, all hours. "active_hours": all of them in the hours with
    any demand. "scale_to_zero": in each hour as many as its own demand takes, with the spare. The
    load is that of the demand itself: bursts, for which the peak factor is, don't last.
    """
    assert billing in BILLING, billing

    def fleet(share: float) -> _Fleet:
        hourly = {unit: number * share for unit, number in demand.items()}
        return _fleet(hourly, capacities, mixes, v, headroom, counts or {})

    peak = fleet(1.0)
    total = peak.machines + spare
    machines: dict[float, Number] = {}  # that are on, by the hour's share of the peak
    for share in set(profile.shares):
        if share == 1 or billing == "always_on" or (billing == "active_hours" and share > 0):
            machines[share] = total
        elif share > 0:  # what carries the peak carries less, too
            machines[share] = np.minimum(fleet(share).machines, peak.machines) + spare
        else:
            machines[share] = 0.0
    on = sum(machines[share] for share in profile.shares)
    work = sum(profile.shares) * sum(peak.shares.values()) / v.peak_factor / (1 + headroom)
    some = np.maximum(on, 1.0)  # machines are whole: either none at all, or 1
    return Day(on / np.maximum(total, 1.0) / HOURS, np.minimum(work / some, 1.0))


def read_profiles(path: Path | None = None) -> dict[str, Profile]:
    """By name, those of a TOML file, else the kit's. Raises UserError for a file that is wrong."""
    path = path or PROFILES
    return {name: _profile(path, name, table) for name, table in plain(load_toml(path)).items()}


def _profile(path: Path, name: str, table: object) -> Profile:
    label, shares = (
        (table.get("label"), table.get("shares")) if isinstance(table, dict) else (None, None)
    )
    if (
        not isinstance(label, str)
        or not isinstance(shares, list)
        or len(shares) != HOURS
        or not all(is_number(share) and 0 <= share <= 1 for share in shares)
        or max(shares) < 1
    ):
        needs = f"a label and {HOURS} shares from 0 to 1, of which at least one is 1"
        raise UserError(f"{path}: {name}: a profile needs {needs}")
    return Profile(name, label, tuple(map(float, shares)))
