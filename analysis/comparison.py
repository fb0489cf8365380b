"""Sides against a baseline, where both did the same work with what is fair to compare."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from analysis import ratio
from analysis.records import Key, Run, Unit, differing, series
from harness.cli import UserError

MIN_RUNS = 4  # on each side, from which on the interval covers well what differs from run to run


@dataclass
class Comparison:
    """One side against the baseline, at the same work."""

    label: str
    baseline: str
    side: str
    primary: str
    unfair: list[str]  # why there are no ratios; empty where there are
    differences: dict[str, tuple[str, str]]  # what differs: (baseline, side)
    runs: tuple[int, int]
    work: list[Unit]
    ratios: dict[str, ratio.Ratio] = field(default_factory=dict)  # by metric, the primary first
    labels: dict[str, str] = field(default_factory=dict)  # by metric
    units: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def pick_baseline(runs: list[Run], requested: str | None) -> str:
    """The requested side, by its name or its machine's; else that of the first record."""
    if requested is None:
        return runs[0].side
    for run in runs:
        if requested in (run.side, run.machine):
            return run.side
    sides = ", ".join(sorted({run.side for run in runs}))
    raise UserError(f"--baseline {requested}: no record is of that side; there are {sides}")


def compare(runs: list[Run], baseline: str) -> list[Comparison]:
    """Every other side against the baseline, for each work that both did."""
    works: dict[object, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        works[run.work_key][run.side].append(run)
    comparisons = [
        comparison
        for sides in works.values()
        if baseline in sides
        for side in sorted(sides)
        if side != baseline
        for comparison in _compare_sides(sides[baseline], sides[side])
    ]
    return sorted(comparisons, key=lambda comparison: comparison.label)


def _compare_sides(base: list[Run], side: list[Run]) -> list[Comparison]:
    """One comparison for each fair setting of `side`, with the nearest one of the baseline."""
    theirs, comparisons = _best_by_setting(base), []
    for setting, (runs, chosen) in _best_by_setting(side).items():
        near = max(theirs, key=lambda other: (other == setting, len(other & setting)))
        against, chosen_there = theirs[near]
        first, second = against[0].comparable_by, runs[0].comparable_by
        comparison = Comparison(
            label=runs[0].label,
            baseline=against[0].side,
            side=runs[0].side,
            primary=runs[0].primary,
            unfair=[
                f"{name} {first.get(name, 'not given')} against {second.get(name, 'not given')}"
                for name in differing([first, second])
            ],
            differences=_differences(against, runs),
            runs=(len(against), len(runs)),
            work=runs[0].work,
            notes=[*chosen_there, *chosen],
        )
        if not comparison.unfair:
            _add_ratios(comparison, against, runs)
        for each in (against, runs):
            if len(kinds := sorted({str(run.context.get("machine")) for run in each})) > 1:
                several = f"runs of {len(kinds)} machines are taken together: {' / '.join(kinds)}"
                comparison.notes.append(f"{each[0].side}: {several}")
        comparison.notes += _warnings(against + runs)
        comparisons.append(comparison)
    return comparisons


def _add_ratios(comparison: Comparison, against: list[Run], runs: list[Run]) -> None:
    """The ratios of all metrics that all runs have and that have a better direction."""
    names = [name for name in runs[0].metrics if all(name in r.metrics for r in against + runs)]
    for name in sorted(names, key=lambda name: name != comparison.primary):
        metric = runs[0].metrics[name]
        if metric.better:
            comparison.labels[name], comparison.units[name] = metric.label, metric.unit
            base, side = ([run.samples[name] for run in each] for each in (against, runs))
            comparison.ratios[name] = ratio.compare(base, side, metric.better)
    if min(comparison.runs) < MIN_RUNS:
        comparison.notes.append(
            f"{comparison.runs[0]} run(s) of {comparison.baseline} and {comparison.runs[1]} of "
            f"{comparison.side}: the interval covers well what differs from run to run only from "
            f"{MIN_RUNS} on each side on"
        )


def _best_by_setting(runs: list[Run]) -> dict[Key, tuple[list[Run], list[str]]]:
    """By what must be equal for a ratio to be fair, a side's runs, and a note on how chosen.

    Runs of other configurations are no repetitions of each other: those with the best primary
    metric stand for the side.
    """
    settings: dict[Key, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        settings[frozenset(run.comparable_by.items())][run.configured].append(run)
    chosen: dict[Key, tuple[list[Run], list[str]]] = {}
    for setting, configurations in settings.items():
        name = max(configurations, key=lambda name: median(r.score for r in configurations[name]))
        others = "; ".join(sorted(set(configurations) - {name}))
        note = f"{runs[0].side}: taken at its best, {name} (also measured: {others})"
        chosen[setting] = configurations[name], [note] if others else []
    return chosen


def _differences(base: list[Run], side: list[Run]) -> dict[str, tuple[str, str]]:
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


def leading(runs: list[Run], baseline: str) -> list[str]:
    """Labels of the works that a summary mentions: all, but of tasks that differ in one number
    (levels of a load, say) only the one at which the baseline does best."""
    passed_over = set()
    for name, group in series(runs):
        levels = [run for _, run in group if name in run.task]
        own = [run for run in levels if run.side == baseline]
        if own:
            best = max(own, key=lambda run: run.score).label
            passed_over |= {run.label for run in levels} - {best}
    return sorted({run.label for run in runs} - passed_over)
