"""What the page says of a report: sections whose titles are findings, with charts and tables.

Charts are data: page.js draws them. Sections that a slider changes are made anew by page.js in the
same words; tests/analysis/test_page.py holds both together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from analysis import cost, gates, report, sizing
from analysis.assumptions import PLAIN
from analysis.comparison import Comparison, best_by_setting
from analysis.pricing import Alternative, BreakEven, PricedWork
from analysis.ratio import NO_DIFFERENCE
from analysis.records import Run, listed, series
from analysis.report import Report, marked
from analysis.text import Table, amount, times
from analysis.uncertainty import UNDECIDED, Decision, Estimate

MAX_ROWS, MAX_CURVES, MAX_LINES = 60, 12, 20  # of a chart; of a section
MAX_DETAIL = 200  # characters of a line that a run printed
ALMOST_CERTAIN, SURE = 0.99, UNDECIDED[1]  # probabilities
BARS, MAX_NAMES, MAX_PRICES = 6, 50, 160  # rows, characters
FULL = 0.8  # of what the machine has, from which on that limits the work
FIRST = ("utilization", "years", "usd_per_kwh", "purchase_price_factor", "rental_price_factor")
Rows = list["Row"]
Capacities = Mapping[str, Mapping[str, sizing.Capacity]]
Mixes = Mapping[str, Sequence[sizing.Mix]]
Answer = tuple[str, str, str]  # what it is, how sure, and what a reader must know of it


@dataclass(frozen=True)
class Row:
    """A bar or a dot, with its range where it has one."""

    name: str
    side: str  # decides its colour
    value: float
    text: str  # the figure in words
    low: float | None = None
    high: float | None = None
    group: str = ""  # bars of one group have one scale
    points: list[tuple[float, bool]] = field(default_factory=list)  # single runs; whether valid


@dataclass(frozen=True)
class Line:
    name: str
    side: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """`kind`: "bars" from 0, "shares" from 0 to 1, "ratios" about 1, or "lines"."""

    kind: str
    title: str
    rows: Rows = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    x: str = ""
    y: str = ""


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    lines: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)  # what for, and the lines

    def __bool__(self) -> bool:
        return bool(self.lines or self.charts or self.tables or self.commands)


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
    return [work for work in found.priced if len({a.side for a in candidates(work)}) > 1]


def first_chart(found: Report) -> Chart:
    """What stands beside the answer."""
    if works := leading(found):
        return cost_chart(works)
    return _nearest_limits(found) if len(found.sides) == 1 else _ratios(found.comparisons)


# What costs come to: page.js says the same, in the same words.


def candidates(work: PricedWork) -> list[Alternative]:
    """The alternatives that are decided between, the cheapest first; all where none is."""
    some = [a for a in work.alternatives if a.least is not None] or work.alternatives
    return sorted(some, key=lambda a: a.usd.value)


def main_decision(work: PricedWork) -> BreakEven | None:
    """Of the cheapest alternative's decisions the least sure one."""
    if not work.break_evens:
        return None
    least = candidates(work)[0].name
    of_it = [e for e in work.break_evens if least in (e.decision.first, e.decision.other)]
    return min(of_it, key=lambda even: _share(even.decision, least))


def _share(d: Decision, name: str) -> float:
    """The probability that `name` costs less."""
    return d.probability if d.first == name else 1 - d.probability


def answer(work: PricedWork, years: float) -> Answer:
    least, even = candidates(work)[0], main_decision(work)
    count, per = cost.whole(least.machines) if least.machines else "", f"per {work.unit}"
    if count:
        per = f"over {years:g} years"
    line = f"{count} × {least.name}" if count else least.name
    costs = "cost" if count not in ("", "1") else "costs"
    costs += " least" if len(candidates(work)) > 1 else ""
    line += f", {costs}: {about(least.usd)} {per}."
    line = f"{work.label}: {line}" if work.label else line
    left_out = cost.left_out(even) if even else []
    noted = [*left_out, *unknown([work]), *prices([work])]
    return marked(line, work.marks), certainty(work), " ".join(noted)


def unknown(works: Sequence[PricedWork]) -> list[str]:
    """Which side has no price, in a sentence, or none."""
    missing = list(dict.fromkeys(why for work in works for why in work.missing))
    return [f"Not known: {'; '.join(missing)}."] if missing else []


def about(usd: Estimate) -> str:
    """'301,000 USD (90 % range 262,000–349,000)'"""
    value, low, high = (cost.money(float(f"{v:.3g}")) for v in (usd.value, usd.low, usd.high))
    return f"{value} USD" + (f" (90 % range {low}–{high})" if low != high else "")


def prices(works: Sequence[PricedWork]) -> list[str]:
    """What the prices are from, in a sentence; none where there is more than fits."""
    found = list(dict.fromkeys(a.evidence for work in works for a in candidates(work)))
    said = f"Prices: {'; '.join(found)}."
    return [said] if len(said) <= MAX_PRICES else []


def overall(works: Sequence[PricedWork]) -> Answer:
    found: dict[str, list[PricedWork]] = defaultdict(list)
    for work in works:
        found[candidates(work)[0].name].append(work)
    name = max(found, key=lambda each: len(found[each]))
    of = "all" if len(found) == 1 else f"{len(found[name])} of"
    marks = dict.fromkeys(mark for work in works for mark in work.marks)
    sure = []
    for work in works:
        least = candidates(work)[0]
        share = 1.0 if least.least is None else least.least
        who = "" if len(found) == 1 else f"{least.name}, "
        decided = "" if share >= SURE else ", not decided"
        sure.append(f"{work.label or work.unit}: {who}{cost.percent(share)}{decided}")
    line = f"{name}, costs least for {of} {len(works)} works."
    probable = f"Probability that it costs least: {'; '.join(sure)}."
    return marked(line, list(marks)), probable, " ".join([*unknown(works), *prices(works)])


def certainty(work: PricedWork) -> str:
    found = candidates(work)
    share = found[0].least
    if len(found) < 2 or share is None:
        return "Nothing else that it could be compared with has a price."
    usd = cost.money(float(f"{found[1].usd.value:.3g}"))
    against = f"{cost.percent(share)} that it costs less than {found[1].name} ({usd} USD)"
    if len(found) > 2:
        against += f" and the {len(found) - 2} other{'s' * (len(found) > 3)}"
    if share < SURE:
        return f"The data do not decide: {against}."
    return f"{'Almost certain' if share > ALMOST_CERTAIN else 'Very likely'}: {against}."


def cost_chart(works: Sequence[PricedWork]) -> Chart:
    rows = []
    for work in works:
        several = len(works) > 1
        unit = f"USD per {work.unit}" if not any(a.machines for a in work.alternatives) else ""
        for a in sorted(work.alternatives, key=lambda a: a.usd.value)[: 2 if several else BARS]:
            name = f"{cost.whole(a.machines)} × {a.name}" if a.machines else a.name
            text = about(a.usd).replace("90 % range ", "")
            text = text.replace(" USD", "") if unit else text
            group = ": ".join(filter(None, [work.label, unit]))
            rows.append(Row(name, a.side, a.usd.value, text, a.usd.low, a.usd.high, group))
    return Chart("bars", "Cost, with 90 % ranges", rows)


def cost_sections(work: PricedWork) -> list[Section]:
    """What a slider changes."""
    if not work.alternatives:
        return [Section("cost", "No price is known", work.missing)]
    least = candidates(work)[0]
    what = f" of {work.label}" if work.label else ""
    first, *rest = cost.tables(work)
    swings = [t for t in rest if t.title.startswith("What decides")]
    pairs = [t for t in rest if t.title.startswith("Owning")]
    items = [t for t in rest if t not in swings and t not in pairs]
    even = main_decision(work)
    made = [
        Section(
            "cost",
            f"{least.name}, costs least{what}",
            [*(cost.left_out(even) if even else []), *unknown([work])],
            [cost_chart([work])],
            [first, *items],
        )
    ]
    if even:
        made += [
            Section("time", time_title(even), tables=pairs),
            Section("decides", decides_title(even), flips(even), tables=swings),
        ]
    return made


def time_title(even: BreakEven) -> str:
    owned = even.curves[0].name
    if even.month:
        return f"{owned}: cheaper from month {cost.months(even)} on than {even.curves[1].name}"
    last = len(even.curves[0].usd) - 1
    return f"{owned}: not cheaper than {even.curves[1].name} within {last} months"


def decides_title(even: BreakEven) -> str:
    swings = even.decision.swings
    if not swings:
        return "No figure has a range that could change the answer"
    changing = [s.label for s in swings if s.flips]
    if not changing:
        return f"No single figure changes the answer; {swings[0].label} matters most"
    return f"{changing[0]} can change the answer"


def flips(even: BreakEven) -> list[str]:
    """At which price the other one would be chosen."""
    d = even.decision
    return [
        f"Both cost the same at {cost.factor(flip)} of the {price} of {name}."
        for name, flip, price in zip((d.first, d.other), d.flips, even.paid)
        if flip.value > 0
    ]


# Sections that no slider changes.


def sections(found: Report) -> list[Section]:
    """In the order in which a reader doubts; those of costs are cost_sections()."""
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


def _steadiness(found: Report) -> Iterator[Chart]:
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
    if rows:
        yield Chart(
            "ratios", "Every run over the median of its kind; hollow: not valid", rows[:MAX_ROWS]
        )


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
    title = (
        f"Valid runs of the same work differ by {max(spreads):.1%} at most"
        if spreads
        else "Results"
    )
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
            for run in _best_runs(found)[:BARS]
        ]
    return [
        f"{side} carries {_listed([_carries(c) for c in own.values()])}."
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
                return f"{first} and {other} carry the same number of {_listed(shared)}"
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
    parts = [f"{side} carries the most {_listed(units)}" for side, units in most.items()]
    return _listed(parts)


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
        cells = gates.setting(run.comparable_by), "; ".join(speeds[:BARS]) or "–", str(run.gate)
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
        title = f"The sides differ in {_listed([*names])}" if names else "Nothing else differs"
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
    for run in _best_runs(found)[:BARS]:
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


def _limits_title(rows: Rows) -> str:
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
    name, works = max(full.items(), key=lambda each: len(each[1]))
    return f"{name} limits {_listed(works) if len(works) < 4 else f'{len(works)} works'}"


def _listed(names: Sequence[str]) -> str:
    """'a, b and c'"""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


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
    title = f"{len(invalid)} of {len(found.runs)} runs are not valid as evidence"
    if not invalid:
        title = f"All {len(found.runs)} runs are valid as evidence"
    rows = [[run.side, run.label, "; ".join(run.reasons), run.path.name] for run in invalid]
    table = Table("Runs that do not count", ["Side", "Work", "Why", "Record"], rows)
    notes = Table("Notes", ["Note"], [[note] for note in report.notes(found)])
    charts = list(_steadiness(found)) if len(found.sides) > 1 else []
    return Section("warnings", title, [], charts, [each for each in (table, notes) if each.rows])


# Sliders.


@dataclass(frozen=True)
class Slider:
    """A figure that a reader may change; `name` is that of an assumption, or demand.UNIT."""

    name: str
    label: str
    unit: str
    value: float
    low: float
    high: float
    least: float
    most: float
    step: float
    usd: float | None = None  # a price that the figure is a factor on
    is_first: bool = True  # shown without unfolding


def sliders(found: Report) -> list[Slider]:
    made = []
    demand = found.demand and found.demand.work.basis.demand
    for unit, count in (demand.streams if demand else {}).items():
        step = max(1.0, _step(count * 4))
        about = f"demand.{unit}", unit, ""
        made.append(Slider(*about, count, count, count, step, 4 * count, step))
    for a in found.assumptions.values():
        if a.value is None or a.low is None or a.high is None:
            continue
        least, most = a.allowed
        if (least, most) != (0, 1) and a.name != "utilization":
            reach = max(a.high, 2 * a.value) or 1.0
            least, most = max(least, min(a.low, a.value / 4)), min(most, reach)
        step = _step(most - least)
        least = float(f"{math.ceil(least / step - 1e-9) * step:.10g}")
        usd = _price(found, a.name)
        figures = a.value, a.low, a.high, least, most, step, usd
        unit = "" if a.unit in PLAIN else a.unit
        made.append(Slider(a.name, a.label, unit, *figures, a.name in FIRST))
    return sorted(made, key=lambda slider: not slider.is_first)


def _step(span: float) -> float:
    """Some 100 steps, each 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(span / 100))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= span / 100.001)


def _price(found: Report, name: str) -> float | None:
    """The first price that a factor is on."""
    for side in found.sides.values():
        for offer in side.price.offers if side.price else ():
            if name == "purchase_price_factor" and offer.is_owned:
                return float(offer.usd)
            if name == "rental_price_factor" and not offer.is_owned and offer.usd_per_hour:
                return float(offer.usd_per_hour)
    return None
