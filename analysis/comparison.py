"""Sides against a baseline, where both did the same work with what is fair to compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import median

from analysis import gates, machines, ratio
from analysis.records import Key, Run, Unit, differing, listed
from harness.cli import UserError

Sides = dict[str, list[Run]]
Limits = Mapping[str, float]  # by metric, the most that its 95th percentile may be


@dataclass
class Comparison:
    """One side against the baseline, at the same work."""

    label: str
    baseline: str
    side: str
    primary: str
    unfair: list[str]  # why there are no ratios; empty where there are
    differences: dict[str, tuple[str, str]] = field(default_factory=dict)  # (baseline, side)
    runs: tuple[int, int] = (0, 0)  # that carry a verdict: the valid ones, unless all are allowed
    counted: tuple[str, str] = ("run", "run")  # what these are: runs, or machines with their runs
    work: list[Unit] = field(default_factory=list)
    leads: bool = True  # whether a summary mentions it
    gate: str | None = None  # the accuracy gate that was missed
    shares: dict[str, float] = field(default_factory=dict)  # of its machine's CPUs, by side
    ratios: dict[str, ratio.Ratio] = field(default_factory=dict)  # by metric, the primary first
    labels: dict[str, str] = field(default_factory=dict)  # by metric
    units: dict[str, str] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)  # what every sentence about it has to say
    notes: list[str] = field(default_factory=list)

    @property
    def missing_runs(self) -> dict[str, str]:
        """By side, how many more a verdict needs: '2 more runs'."""
        more = {}
        for side, count, what in zip(
            (self.side, self.baseline), reversed(self.runs), reversed(self.counted)
        ):
            if (lacking := ratio.MIN_RUNS - count) > 0:
                more[side] = f"{lacking} more {what}{'s' * (lacking > 1)}"
        return more


@dataclass(frozen=True)
class Chosen:
    """A side's runs at one fair setting."""

    runs: list[Run]  # the valid ones; all where none is, or all are allowed
    carrying: int  # how many of them may carry a verdict: runs, or machines with their runs
    counted: str  # "run" or "machine"
    marks: list[str]
    notes: list[str]


def pick_baseline(runs: list[Run], requested: str | None) -> str:
    """The requested side, by its name or its machine's; else that of the first record."""
    if requested is None:
        return runs[0].side
    for run in runs:
        if requested in (run.side, run.machine):
            return run.side
    sides = ", ".join(sorted({run.side for run in runs}))
    raise UserError(f"--baseline {requested}: no record is of that side; there are {sides}")


def compare(
    runs: list[Run], baseline: str, allow_invalid: bool = False, limits: Limits | None = None
) -> list[Comparison]:
    """Every other side against the baseline, for each work that both did.

    Where several levels of a load were measured, the sides are also compared each at its own best
    level within `limits`, and of these comparisons only that one leads. Records of quality are not
    compared: their gates count for the runs of the same setting; nor are trials of a tuning.
    """
    measured = [run for run in runs if not (run.gate or run.is_tuning)]
    for name in limits or {}:
        if not any(name in run.metrics for run in measured):
            raise UserError(f"--limit {name}: no record has this metric")
    comparisons: list[Comparison] = []
    swept = set()
    for key, sides in grouped(measured, _load_key).items():
        if len({run.task[run.level] for run in chain(*sides.values()) if run.level}) > 1:
            swept.add(key)
            best = {side: [_as_setting(run) for run in each] for side, each in sides.items()}
            comparisons += _against(baseline, best, allow_invalid, limits or {})
    for sides in grouped(measured, lambda run: run.work_key).values():
        for comparison in _against(baseline, sides, allow_invalid, {}):
            comparison.leads = _load_key(sides[baseline][0]) not in swept
            comparisons.append(comparison)
    return sorted(comparisons, key=lambda comparison: (not comparison.leads, comparison.label))


def grouped(runs: Iterable[Run], key: Callable[[Run], object]) -> dict[object, Sides]:
    """Runs by key, then side."""
    groups: dict[object, Sides] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[key(run)][run.side].append(run)
    return groups


def _load_key(run: Run) -> object:
    """The same for runs of the same work at any level of the load."""
    task = {name: value for name, value in run.task.items() if name != run.level}
    return run.workload, run.level, frozenset(task.items())


def _as_setting(run: Run) -> Run:
    """Its level of the load taken as a way to use the machine, of which each side has its best."""
    assert run.level
    level = {run.level: run.task[run.level]}
    label = run.label.replace(f", {listed(level)}", "", 1) + f", each at its best {run.level}"
    return replace(run, label=label, configuration={**level, **run.configuration})


def _against(
    baseline: str, sides: Sides, allow_invalid: bool, limits: Limits
) -> Iterable[Comparison]:
    if baseline not in sides:
        return
    for side in sorted(sides):
        if side == baseline:
            continue
        base, ours = (
            [run for run in sides[name] if _is_within(run, limits)] for name in (baseline, side)
        )
        if base and ours:
            yield from _compare_sides(base, ours, allow_invalid)
            continue
        run, limit = sides[side][0], listed(dict(limits))
        none = [name for name, each in ((baseline, base), (side, ours)) if not each]
        unfair = [f"{name} has no level within {limit}" for name in none]
        yield Comparison(run.label, baseline, side, run.primary, unfair)


def _is_within(run: Run, limits: Limits) -> bool:
    return all(
        name in run.metrics and run.metrics[name].p95 <= limit for name, limit in limits.items()
    )


def _compare_sides(base: list[Run], side: list[Run], allow_invalid: bool) -> Iterable[Comparison]:
    """One comparison for each fair setting of `side`, with the nearest one of the baseline."""
    theirs = best_by_setting(base, allow_invalid)
    for setting, ours in best_by_setting(side, allow_invalid).items():
        near = max(theirs, key=lambda other: (other == setting, len(other & setting)))
        against, runs = theirs[near].runs, ours.runs
        first, second = against[0].comparable_by, runs[0].comparable_by
        unfair = [
            f"{name} {first.get(name, 'not given')} against {second.get(name, 'not given')}"
            for name in differing([first, second])
        ]
        missed = [str(r.quality) for r in against + runs if r.quality and not r.quality.passed]
        comparison = Comparison(
            label=runs[0].label,
            baseline=against[0].side,
            side=runs[0].side,
            primary=runs[0].primary,
            unfair=unfair,
            differences=differences(against, runs),
            runs=(theirs[near].carrying, ours.carrying),
            counted=(theirs[near].counted, ours.counted),
            work=runs[0].work,
            gate=missed[0] if missed else None,
            shares={
                each[0].side: min(r.share_of_machine for r in each) for each in (against, runs)
            },
            marks=[*dict.fromkeys(missed), *theirs[near].marks, *ours.marks],
            notes=[*theirs[near].notes, *ours.notes, *_unknown_quality(against + runs)],
        )
        if not unfair:
            _add_ratios(comparison, against, runs)
        comparison.notes += _warnings(against + runs)
        yield comparison


def _add_ratios(comparison: Comparison, against: list[Run], runs: list[Run]) -> None:
    """The ratios of all metrics that all runs have and that have a better direction. The primary
    metric alone has a verdict: of a dozen, one would be false every second time."""
    names = [name for name in runs[0].metrics if all(name in r.metrics for r in against + runs)]
    for name in sorted(names, key=lambda name: name != comparison.primary):
        metric = runs[0].metrics[name]
        if not metric.better:
            continue
        comparison.labels[name], comparison.units[name] = metric.label, metric.unit
        base, side = (machines.observations(each, name) for each in (against, runs))
        found = ratio.compare(base, side, metric.better)
        if comparison.missing_runs:
            found = replace(found, ci95=None, verdict=ratio.MORE_RUNS)
        if name != comparison.primary:
            found = replace(found, verdict=None)
        comparison.ratios[name] = found


def best_by_setting(runs: list[Run], allow_invalid: bool) -> dict[Key, Chosen]:
    """A side's runs by what must be equal for a ratio to be fair.

    Runs of other configurations are no repetitions of each other: those with the best primary
    metric stand for the side; ones with no valid run only where there are no others.
    """
    settings: dict[Key, Sides] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        configured = listed(run.configuration) or "defaults"
        settings[frozenset(run.comparable_by.items())][configured].append(run)
    return {
        setting: _best(configurations, allow_invalid)
        for setting, configurations in settings.items()
    }


def _best(configurations: Sides, allow_invalid: bool) -> Chosen:
    carrying = {
        name: [run for run in runs if allow_invalid or not run.reasons]
        for name, runs in configurations.items()
    }
    used = {name: carrying[name] or runs for name, runs in configurations.items()}
    name = max(used, key=lambda each: (bool(carrying[each]), median(r.score for r in used[each])))
    runs, side = used[name], used[name][0].side
    invalid = sum(bool(run.reasons) for run in runs)
    left_out = len(configurations[name]) - len(runs)
    marks, notes = [], []
    if shares := {run.share_of_machine for run in runs if run.share_of_machine < 1}:
        used_cpus = " or ".join(f"{share:.0%}" for share in sorted(shares))
        marks.append(f"{side} was allowed {used_cpus} of its machine's CPUs")
    if invalid and allow_invalid:
        marks.append(f"{invalid} invalid run(s) of {side} used")
    elif invalid:
        marks.append(f"no run of {side} is valid as evidence")
    if left_out:
        notes.append(f"{side}: {left_out} invalid run(s) left out (--allow_invalid uses them)")
    if others := "; ".join(sorted(set(configurations) - {name})):
        notes.append(f"{side}: taken at its best, {name} (also measured: {others})")
    for what, of in (("machines", _machine), ("hosts", lambda run: run.host)):
        if len(kinds := sorted({of(run) for run in runs})) > 1:
            together = f"runs of {len(kinds)} {what} are taken together: {' / '.join(kinds)}"
            notes.append(f"{side}: {together}")
    if several := machines.sentence(runs):
        notes.append(f"{side}: {several}")
    carry, what = machines.counted(carrying[name] or runs)
    return Chosen(runs, carry if carrying[name] else 0, what, marks, notes)


def _machine(run: Run) -> str:
    return str(run.context.get("machine"))


def _unknown_quality(runs: list[Run]) -> list[str]:
    """A note for each setting of which there is no accuracy record."""
    unknown = [run for run in runs if not run.quality and "model" in run.comparable_by]
    settings = dict.fromkeys(gates.setting(run.comparable_by) for run in unknown)
    return [f"no accuracy record with a gate, so its quality is not known: {s}" for s in settings]


def differences(base: list[Run], side: list[Run]) -> dict[str, tuple[str, str]]:
    """What is not the same on both sides; several values of a side are all named."""

    def values(runs: list[Run], name: str) -> str:
        shown = ({**run.context, **run.configuration}.get(name, "not given") for run in runs)
        return " or ".join(sorted({str(value) for value in shown}))

    names = differing([{**run.context, **run.configuration} for run in base + side])
    pairs = {name: (values(base, name), values(side, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _warnings(runs: list[Run]) -> list[str]:
    """Warnings of the runs; similar ones, which differ in their numbers, once and counted."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        for warning in run.warnings:
            alike = "".join(c for c in warning if not c.isdigit())
            kinds[run.side, alike].append(f"{run.side}: {warning}")
    return [
        each[0] + (f" (and the like in {len(each) - 1} more runs)" if len(each) > 1 else "")
        for each in kinds.values()
    ]
