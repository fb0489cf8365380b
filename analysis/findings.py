"""What a page says of a report: its question and answer, and sections whose titles are findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from analysis import cost, gates, report, sizing
from analysis.comparison import Comparison, best_by_setting
from analysis.page_costs import Answer, answer, candidates, cost_chart, is_decided, overall, unknown
from analysis.page_parts import Chart, Line, Row, Section
from analysis.pricing import PricedWork
from analysis.ratio import NO_DIFFERENCE
from analysis.records import Run, listed, series
from analysis.report import Report
from analysis.text import Table, amount, in_words, times

MAX_ROWS, MAX_CURVES, MAX_RESULTS = 60, 12, 6  # of a chart; of a section; beside the answer
MAX_DETAIL, MAX_NAMES = 200, 50  # characters of a line that a run printed, and of sides
FULL = 0.8  # of what the machine has, from which on that limits the work
Capacities = Mapping[str, Mapping[str, sizing.Capacity]]
Mixes = Mapping[str, Sequence[sizing.Mix]]


def question(found: Report) -> str:
    """What the page answers."""
    if found.demand:
        return f"Which machines for {found.demand.work.unit}?"
    if len(found.sides) == 1:
        return f"What does {found.baseline} carry?"
    names = " or ".join(found.sides)
    does = "costs less for the same work" if leading(found) else "does more work"
    if len(found.sides) > 2 or len(names) > MAX_NAMES:
        return f"Which of {len(found.sides)} machines {does}?"
    return f"{names}: which {does}?"


def answers(found: Report) -> Answer:
    """The answer, how sure that is, and what is not in it."""
    years = found.assumptions["years"].value or 0.0
    if works := leading(found):
        return answer(works[0], years) if len(works) == 1 else overall(works)
    if found.demand:
        work = found.demand.work
        return f"What {work.unit} cost is not known.", " ".join(unknown([work])), ""
    if len(found.sides) == 1:
        return " ".join(_carried(found)), "", ""
    led = [c for c in found.comparisons if c.leads]
    return f"{performance_title(found, led)}.", " ".join(report.sentence(c) for c in led[:2]), ""


def leading(found: Report) -> list[PricedWork]:
    """The costs that decide: those of the demand, else of each unit of work that has several."""
    if found.demand:
        return [work for work in [found.demand.work] if work.alternatives]
    several = [work for work in found.priced if is_decided(work)]
    return [work for work in several if len({a.side for a in candidates(work)}) > 1]


def first_chart(found: Report) -> Chart:
    """What stands beside the answer."""
    if works := leading(found):
        return cost_chart(works)
    return _nearest_limits(found) if len(found.sides) == 1 else _ratios(found.comparisons)


def sections(found: Report) -> list[Section]:
    """In the order in which a reader doubts; those of costs are of page_costs.py."""
    several = len(found.sides) > 1
    made = [
        performance(found, found.comparisons) if several else results(found),
        capacity(found),
        quality(found),
        *([differences(found, found.comparisons)] if several else []),
        limits(found),
        tuning(found),
        warnings(found),
    ]
    return [section for section in made if section]


def performance(found: Report, comparisons: list[Comparison]) -> Section:
    led = [c for c in comparisons if c.leads]
    lines = [report.sentence(c) for c in led]
    if not lines:
        lines = report.summary(replace(found, demand=None, costs=[], comparisons=[]))
    ratios, words = _ratios(led), Table("In words", ["Result"], [[line] for line in lines])
    charts = [*([ratios] if ratios.rows else []), *_curves(found)]
    tables = [words, report.ratio_table(comparisons)] if charts else [words]
    title = performance_title(found, led)
    return Section("performance", title, [], charts, [each for each in tables if each.rows])


def performance_title(found: Report, led: Sequence[Comparison]) -> str:
    """'edge is better than cloud at all 3 works: 1.40 to 2.10 ×'"""
    if not led:
        return "No two machines did the same work"
    ratios = [(c, c.ratios[c.primary]) for c in led if c.primary in c.ratios]
    wins: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for c, r in ratios:
        if r.verdict in ("better", "worse"):
            ahead = _turned(r.ratio or 1, r.better)
            side, many = (c.side, ahead) if r.verdict == "better" else (c.baseline, 1 / ahead)
            wins[side].append((c.label, many))
    if not wins:
        if any(r.verdict == NO_DIFFERENCE for _, r in ratios):
            return "No difference in performance is shown"
        return "No verdict on performance"
    side = max(wins, key=lambda name: len(wins[name]))
    won, works = wins[side], len(led)
    low, high = min(many for _, many in won), max(many for _, many in won)
    span = f"{low:.2f} ×" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} ×"
    against = f" than {_other(found, side)}" if len(found.sides) == 2 else " than the others"
    if works == 1:
        return f"{side} is better{against} at {won[0][0]}: {span}"
    where = f"all {works}" if len(won) == works else f"{len(won)} of {works}"
    return f"{side} is better{against} in {where} comparisons: {span}"


def _other(found: Report, side: str) -> str:
    return next(name for name in found.sides if name != side)


def _turned(ratio: float, better: str) -> float:
    """So that more is better."""
    return 1 / ratio if better == "lower" and ratio else ratio


def _ratios(comparisons: Sequence[Comparison]) -> Chart:
    rows = []
    for c in comparisons:
        r = c.ratios.get(c.primary)
        if r and r.ratio:
            low, high = sorted(_turned(v, r.better) for v in r.ci95 or (r.ratio, r.ratio))
            sure = f", 95 % CI {times(low)}–{times(high)}" if r.ci95 else ", too few runs"
            value = _turned(r.ratio, r.better)
            rows.append(Row(c.side, c.side, value, f"{value:.2f} ×{sure}", low, high, c.label))
    baseline = comparisons[0].baseline if comparisons else ""
    title = f"Performance as a multiple of {baseline}; further right is better"
    return Chart("ratios", title, rows[:MAX_ROWS])


def _steadiness(found: Report) -> list[Chart]:
    """Every run over the median of its side and configuration."""
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in found.runs:
        if not (run.gate or run.is_tuning):
            setting = frozenset({**run.comparable_by, **run.configuration}.items())
            groups[run.label, run.side, setting].append(run)
    rows = []
    order = [*found.sides]
    for label, side, setting in sorted(groups, key=lambda g: (g[0], order.index(g[1]))):
        runs = groups[label, side, setting]
        middle = median(run.result.median for run in runs)
        if len(runs) > 1 and middle > 0:
            points = [(run.result.median / middle, not run.reasons) for run in runs]
            low, high = min(points)[0], max(points)[0]
            text = f"{len(runs)} runs, {low - 1:+.1%} to {high - 1:+.1%}"
            rows.append(Row(side, side, 1.0, text, low, high, label, points))
    title = "Every run over the median of its kind; hollow: not valid"
    return [Chart("ratios", title, rows[:MAX_ROWS])] if rows else []


def _curves(found: Report) -> list[Chart]:
    """The primary metric over every number that was varied; the same points are drawn once."""
    charts, seen = [], []
    for across, group in series(found.runs):
        values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for x, run in group:
            values[run.side][x].append(run.result.median)
        lines = [
            Line(side, side, [(x, median(values[side][x])) for x in sorted(values[side])])
            for side in found.sides
            if side in values
        ]
        run = group[0][1]
        if max(len(line.points) for line in lines) > 1 and (run.workload, lines) not in seen:
            seen.append((run.workload, lines))
            axis = f"{run.result.label}, {run.result.unit}"
            charts.append(Chart("lines", f"{run.title} over {across}", [], lines, across, axis))
    return charts[:MAX_CURVES]


def results(found: Report) -> Section:
    """Of one machine alone."""
    works: dict[str, list[Run]] = defaultdict(list)
    for run in found.runs:
        if not (run.gate or run.is_tuning):
            works[run.label].append(run)
    rows, spreads = [], []
    for label, runs in works.items():
        for setting in best_by_setting(runs, allow_invalid=False).values():
            chosen = [run.result.median for run in setting.runs]
            unit, count = setting.runs[0].result, len(chosen)
            spread = "–"
            if count > 1 and min(chosen) > 0:
                spreads.append(max(chosen) / min(chosen) - 1)
                spread = f"{spreads[-1]:.1%}"
            used = listed(setting.runs[0].configuration) or "defaults"
            valid = f"{setting.carrying} of {count}" if setting.counted == "run" else str(count)
            cells = unit.label, amount(median(chosen), unit.unit), valid, spread, used
            rows.append([label, *cells])
    charts = [*_steadiness(found), *_curves(found)]
    title = "Results"
    if spreads:
        title = f"Valid runs of the same work differ by {max(spreads):.1%} at most"
    headings = ["Work", "Metric", "Median of runs", "Valid runs", "Runs differ by", "At"]
    table = Table("Results", headings, rows)
    return Section("performance", title, [], charts, [table])


def _capacities(found: Report) -> tuple[Capacities, Mixes, list[str]]:
    """By side and unit, in order; what mixes were measured; and what was left out, and why."""
    sized = (found.demand.capacities, found.demand.mixes, list[str]()) if found.demand else None
    capacities, mixes, problems = sized or sizing.from_runs(found.runs)
    order = sorted(capacities, key=[*found.sides, *capacities].index)
    return {side: dict(sorted(capacities[side].items())) for side in order}, mixes, problems


def _carried(found: Report) -> list[str]:
    """'edge carries 127 users and 12 cameras.', or what its best runs came to."""
    capacities, _, _ = _capacities(found)
    if not capacities:
        return [
            f"{run.label}: {amount(run.result.median, run.result.unit)}."
            for run in _best_runs(found)[:MAX_RESULTS]
        ]
    return [
        f"{side} carries {in_words([_carries(c) for c in own.values()])}."
        for side, own in capacities.items()
    ]


def _carries(c: sizing.Capacity) -> str:
    return _count(c.count, c.unit) + (f" (95 %: {c.low:g}–{c.high:g})" if c.low < c.high else "")


def _count(count: float, unit: str) -> str:
    return f"{count:,g} {unit.removesuffix('s') if count == 1 else unit}"


def capacity(found: Report) -> Section:
    capacities, mixes, problems = _capacities(found)
    rows = []
    for unit in dict.fromkeys(c.unit for own in capacities.values() for c in own.values()):
        for side, own in capacities.items():
            if c := own.get(unit):
                rows.append(Row(side, side, c.count, _carries(c), c.low, c.high, unit))
    for side, each in mixes.items():
        for mix in each:
            (unit, count), (other, beside) = [*mix.counts.items()][:2]
            at_least = "" if mix.is_limit else " or more"
            text, group = f"{_count(count, unit)}{at_least}", f"{unit} beside {beside:g} {other}"
            rows.append(Row(side, side, count, text, group=group))
    if not rows:
        return Section("capacity", "", [])
    table = cost.capacity_table(capacities)
    chart = Chart("bars", "What one machine carries within its limits", rows[:MAX_ROWS])
    return Section("capacity", _capacity_title(found, capacities), problems, [chart], [table])


def _capacity_title(found: Report, capacities: Capacities) -> str:
    if len(capacities) == 2:
        first, other = capacities
        if shared := [u for u in capacities[first] if u in capacities[other]]:
            ahead = sum(capacities[first][u].count > capacities[other][u].count for u in shared)
            if 2 * ahead < len(shared):
                first, other = other, first
            parts = [
                f"{capacities[first][u].count / capacities[other][u].count:.2g} × the {u}"
                for u in shared
                if capacities[other][u].count
            ]
            if all(part.startswith("1 ×") for part in parts):
                return f"{first} and {other} carry the same number of {in_words(shared)}"
            if parts:
                return f"{first} carries {' and '.join(parts)} of {other}"
    if len(capacities) == 1:
        return _carried(found)[0].rstrip(".")
    best: dict[str, tuple[str, float]] = {}
    for side, own in capacities.items():
        for c in own.values():
            if c.count > best.get(c.unit, ("", -1.0))[1]:
                best[c.unit] = side, c.count
    most: dict[str, list[str]] = defaultdict(list)
    for unit, (side, _) in best.items():
        most[side].append(unit)
    parts = [f"{side} carries the most {in_words(units)}" for side, units in most.items()]
    return in_words(parts)


def quality(found: Report) -> Section:
    gated = [run for run in found.runs if run.gate]
    if not gated:
        return Section("quality", "", [])
    rows = []
    for run in gated:
        best: dict[str, Run] = {}
        for each in sorted(found.runs, key=lambda each: (not each.reasons, each.score)):
            if each.quality is run.gate and each.side == run.side and not each.is_tuning:
                best[each.label] = each
        speeds = [
            f"{label}: {amount(each.result.median, each.result.unit)}"
            for label, each in sorted(best.items())
        ]
        cells = (
            gates.setting(run.comparable_by),
            "; ".join(speeds[:MAX_RESULTS]) or "–",
            str(run.gate),
        )
        rows.append([run.side, run.label, *cells, run.path.name])
    missed = sum(not run.gate.passed for run in gated if run.gate)
    title = f"{missed} of {len(gated)} accuracy gates are missed"
    if not missed:
        title = f"All {len(gated)} accuracy gates are passed"
        title = title if len(gated) > 1 else "The accuracy gate is passed"
    headings = ["Side", "Work", "Setting", "Speed at it", "Gate", "Record"]
    return Section("quality", title, tables=[Table("Quality beside speed", headings, rows)])


def differences(found: Report, comparisons: list[Comparison]) -> Section:
    table = report.difference_table(comparisons)
    names = dict.fromkeys(row[2] for row in table.rows)
    title = f"The sides differ in {len(names)} things"
    if len(names) < 4:
        title = f"The sides differ in {in_words([*names])}" if names else "Nothing else differs"
    tables = [each for each in (table, report.system_table(found)) if each.rows]
    return Section("differences", title, [], [], tables)


def _shares(run: Run) -> dict[str, float]:
    """What the run took of what the machine has."""
    peaks = {m.label: m.median for m in run.metrics.values() if m.unit == "of peak"}
    return {**run.usage, **peaks}


def _limits(found: Report) -> Chart:
    rows = [
        Row(name, run.side, share, f"{share:.0%}", group=_named(found, run))
        for run in _best_runs(found)
        for name, share in _shares(run).items()
    ]
    title = "Share of what the machine has, in each work's best run"
    return Chart("shares", title, rows[:MAX_ROWS])


def _nearest_limits(found: Report) -> Chart:
    """What each work comes to, and how near it is to a limit."""
    rows = []
    for run in _best_runs(found)[:MAX_RESULTS]:
        name, share = max(_shares(run).items(), key=lambda each: each[1], default=("", 0.0))
        near = f", takes {share:.0%} of the {name}" if name else ""
        text = f"{amount(run.result.median, run.result.unit)}{near}"
        rows.append(Row(_named(found, run), run.side, share, text))
    return Chart("shares", "Best run of each work, and how near it is to a limit", rows)


def _named(found: Report, run: Run) -> str:
    return run.label if len(found.sides) == 1 else f"{run.label}, {run.side}"


def _best_runs(found: Report) -> list[Run]:
    """Of each work, at its best level of load, and side."""
    best: dict[tuple, Run] = {}
    for run in found.runs:
        task = frozenset(item for item in run.task.items() if item[0] != run.level)
        key = run.workload, task, run.side
        rank = not run.reasons, run.score
        if not (run.gate or run.is_tuning):
            if key not in best or rank > (not best[key].reasons, best[key].score):
                best[key] = run
    return sorted(best.values(), key=lambda run: (run.label, run.side))


def limits(found: Report) -> Section:
    """What each work is limited by, as its runs say."""
    chart = _limits(found)
    rows = [
        [_named(found, run), line[:MAX_DETAIL]]
        for run in _best_runs(found)
        for line in run.details
        if line.strip() and len(line) <= 2 * MAX_DETAIL and not line.startswith(" ")
    ][:MAX_ROWS]
    if not (chart.rows or rows):
        return Section("limits", "", [])
    title = _limits_title(chart.rows) if chart.rows else "What the runs say"
    table = Table("What the best run of each work says", ["Work", "It says"], rows)
    return Section("limits", title, [], [chart] if chart.rows else [], [table] if rows else [])


def _limits_title(rows: list[Row]) -> str:
    """'CPU time limits LLM and Video AI'"""
    top: dict[str, Row] = {}
    for row in rows:
        if row.group not in top or row.value > top[row.group].value:
            top[row.group] = row
    full: dict[str, list[str]] = defaultdict(list)
    for group, row in top.items():
        if row.value >= FULL:
            full[row.name].append(group)
    if not full:
        most = max(top.values(), key=lambda row: row.value)
        return f"Nothing is used up: at most {most.text} ({most.name}, {most.group})"
    name, runs = max(full.items(), key=lambda each: len(each[1]))
    if len(runs) < 4:
        return f"{name} limits {in_words(runs)}"
    return f"{name} limits {len(runs)} of {len(top)} best runs"


def tuning(found: Report) -> Section:
    """The best layouts that --tune found, with the commands that repeat them."""
    newest = {
        (run.workload, run.side): run
        for run in sorted(found.runs, key=lambda run: run.finished_at)
        if run.is_tuning
    }
    commands = []
    for run in newest.values():
        text = "\n".join(run.details)
        _, _, best = text.partition("Highest throughput: ")
        if best:
            commands.append((f"{_named(found, run)}, highest throughput", best.strip()))
    title = "The best use of the cores, to copy"
    return Section("tuning", title, commands=commands)


def warnings(found: Report) -> Section:
    invalid = [run for run in found.runs if run.reasons]
    are = "is" if len(invalid) == 1 else "are"
    title = f"{len(invalid)} of {len(found.runs)} runs {are} not valid as evidence"
    if not invalid:
        title = f"All {len(found.runs)} runs are valid as evidence"
    rows = [[run.side, run.label, "; ".join(run.reasons), run.path.name] for run in invalid]
    table = Table("Runs that do not count", ["Side", "Work", "Why", "Record"], rows)
    notes = Table("Notes", ["Note"], [[note] for note in report.notes(found)])
    charts = _steadiness(found) if len(found.sides) > 1 else []
    return Section("warnings", title, [], charts, [each for each in (table, notes) if each.rows])
