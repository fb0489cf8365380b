"""A comparison in the forms people read: sentences and tables, as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from analysis import gates
from analysis.comparison import Comparison
from analysis.cost import Assumed, CostRow, Machine
from analysis.ratio import NO_DIFFERENCE
from analysis.records import Run, listed, nearest
from analysis.text import amount, csv_cell, inline, interval, number, times, times_interval
from analysis.text import markdown as escaped
from harness import cli

MAX_RUNS = 500  # in the table of runs
MARK = "Made by analysis.compare of Edge v/s Cloud Performance Testing"  # in all but the CSV
CSV_HEADER = "work,metric,unit,baseline,side,baseline_median,side_median,ratio,ci95_low,ci95_high"

METHOD = (
    "The run (a process of its own) is the unit of evidence: a verdict takes 4 valid runs per "
    "side. A ratio is that of the geometric means of the runs' medians; its 95 % confidence "
    "interval is Welch's, on their logarithms. One that includes 1 shows no difference. Only "
    "each work's primary metric has a verdict.",
    "Runs are compared where they did the same task with what must be equal for a fair ratio: "
    "model, weight format, precision, runtime, device and what else their records name. Runs that "
    "are not valid as evidence, or whose setting missed its accuracy gate, carry no verdict. "
    "docs/records-and-statistics.md has the thresholds.",
    "Cost per hour in use of an owned server: (price / years + price × maintenance share) / (8,760 "
    "hours × utilization) + power × PUE × price per kWh. Of a rented instance: its price per hour, "
    "while it works. docs/comparing-and-cost.md has all formulas.",
)


@dataclass(frozen=True)
class Side:
    machine: str
    runs: int
    price: Machine | None


@dataclass(frozen=True)
class Report:
    """All that any form of the report is made from."""

    made_at: str
    baseline: str
    sides: dict[str, Side]  # the baseline first
    comparisons: list[Comparison]
    leading: list[str]  # labels of the works that the summary mentions
    costs: list[CostRow]
    assumptions: dict[str, Assumed]
    runs: list[Run]
    skipped: list[str]

    @property
    def title(self) -> str:
        several = len(self.sides) > 1
        return "Edge against cloud" if several else f"Performance of {self.baseline}"

    @property
    def about(self) -> str:
        made = self.made_at[:16].replace("T", " ")
        sides = " · ".join(self.sides)
        return f"{sides} — baseline {self.baseline}, {len(self.runs)} runs, made {made} UTC"

    @property
    def leading_costs(self) -> list[CostRow]:
        return [row for row in self.costs if row.label in self.leading]


@dataclass(frozen=True)
class Table:
    title: str
    headings: list[str]
    rows: list[list[str]]


def sentence(c: Comparison) -> str:
    """What a comparison comes to: the verdict on its primary metric, or what it takes to have one;
    then what speaks against it."""
    return marked(f"{c.label}: {_outcome(c)}", c.marks)


def marked(line: str, marks: Sequence[str]) -> str:
    return f"{line} [{'; '.join(marks)}]" if marks else line


def _outcome(c: Comparison) -> str:
    if c.unfair:
        return f"{c.side} and {c.baseline} can't be compared fairly ({'; '.join(c.unfair)})."
    found = c.ratios.get(c.primary)
    if found is None:
        return f"{c.side} and {c.baseline} have no primary metric in common."
    what, sides = inline(c.labels[c.primary]), f"{c.side} against {c.baseline}"
    if found.ratio is None:
        return f"{what}, {sides}: {found.verdict}."
    many, sure = f"{times(found.ratio)} times", f"95 % CI {times_interval(found.ci95)}"
    if found.ci95 is None:
        return f"{sides}: {many} the {what}. No verdict: {_no_verdict(c)}."
    if found.verdict == NO_DIFFERENCE:
        return f"{found.verdict} in {what}, {sides}: {many}, {sure}."
    return f"{c.side} is {found.verdict} than {c.baseline}, {many} the {what} ({sure})."


def _no_verdict(c: Comparison) -> str:
    if c.gate and c.missing_runs:
        return "the accuracy gate is missed"
    if not c.missing_runs:
        return c.ratios[c.primary].verdict or ""
    counts = {side: f"{n} more run{'s' * (n > 1)}" for side, n in c.missing_runs.items()}
    if len(counts) == 2 and len(set(counts.values())) == 1:
        return f"{counts[c.side]} needed on each side"
    return " and ".join(f"{count} of {side}" for side, count in counts.items()) + " needed"


def cost_sentences(row: CostRow, marks: Sequence[str] = ()) -> list[str]:
    """What a unit of work costs on either side, and when owning pays."""
    lines = []
    priced = [
        f"{number(side.usd_per_unit)} on {name}"
        for name, side in row.sides.items()
        if side.usd_per_unit is not None
    ]
    if priced:
        lines.append(marked(f"{row.label}: USD per {row.unit}: {', '.join(priced)}.", marks))
    if row.missing:
        lines.append(f"Cost is not known; missing: {'; '.join(row.missing)}.")
    return lines + [marked(f"{row.label}: {even}", marks) for even in row.break_evens]


def summary(report: Report) -> list[str]:
    """The sentences on top."""
    lines = [sentence(c) for c in report.comparisons if c.label in report.leading]
    if len(report.sides) == 1:
        lines = [
            f"{run.label}: {amount(run.result.median, run.result.unit)} "
            f"({inline(run.result.label)}; 95 % CI {interval(run.result.ci95)})."
            for run in report.runs[:20]
        ]
    elif not report.comparisons:
        lines = ["Nothing to compare: no other side did the same work as the baseline."]
        lines += nearest(report.runs, report.baseline)
    marks: dict[tuple[str, ...], list[str]]
    marks = {(c.label, c.baseline, c.side): c.marks for c in report.comparisons}
    for row in report.leading_costs:
        lines += cost_sentences(row, marks.get((row.label, *row.sides), []))
    return list(dict.fromkeys(lines))


def notes(report: Report) -> list[str]:
    """What speaks against the figures, and what was left out."""
    labels: dict[str, dict[str, None]] = {}  # by note, the works that have it
    for c in report.comparisons:
        for note in [*c.marks, *c.notes]:
            labels.setdefault(note, {})[c.label] = None
    found = [
        f"{next(iter(works))}{f' and {len(works) - 1} more' if len(works) > 1 else ''}: {note}"
        for note, works in labels.items()
    ]
    return [*found, *(f"skipped: {line}" for line in report.skipped)]


def tables(report: Report) -> list[Table]:
    found = [_ratios(report), _differences(report), _costs(report)]
    found += [table for row in report.leading_costs for table in _sensitivity(row)]
    assumed = [[a.label, f"{a.value:g}", a.source] for a in report.assumptions.values()]
    assumptions = Table("Assumptions", ["What", "Value", "Source"], assumed if report.costs else [])
    found += [_systems(report), _accuracy(report), assumptions, _runs(report)]
    return [table for table in found if table.rows]


def _ratios(report: Report) -> Table:
    headings = "Work|Metric|Side|Mean|Baseline|Mean|Ratio|95 % CI|Side is".split("|")
    rows = []
    for c in report.comparisons:
        for name, r in c.ratios.items():
            side, base = (amount(value, c.units[name]) for value in (r.side, r.baseline))
            found = times(r.ratio), times_interval(r.ci95), r.verdict or "–"
            rows.append([c.label, c.labels[name], c.side, side, c.baseline, base, *found])
    return Table("Ratios", headings, rows)


def _differences(report: Report) -> Table:
    rows = [
        [c.label, f"{c.side} / {c.baseline}", name, ours, theirs]
        for c in report.comparisons
        for name, (theirs, ours) in c.differences.items()
    ]
    headings = ["Work", "Sides", "What", "Side", "Baseline"]
    return Table("What differs between the sides", headings, rows)


def _costs(report: Report) -> Table:
    rows = []
    for row in report.costs:
        for name, s in row.sides.items():
            numbers = map(number, (s.units_per_hour, s.usd_per_hour, s.usd_per_unit))
            rows.append([row.label, row.unit, name, *numbers])
    headings = "Work|Unit|Side|Units per hour|USD per hour in use|USD per unit".split("|")
    return Table("Cost", headings, rows)


def _sensitivity(row: CostRow) -> Iterator[Table]:
    for even, cases in zip(row.break_evens, row.sensitivity):
        sides = [f"{even.owned}, USD per unit", f"{even.rented}, USD per unit"]
        headings = ["Changed", *sides, "Owning costs less from utilization", "and from month"]
        rows = []
        for changed, e in {"as assumed": even, **cases}.items():
            usd = number(e.owned_usd_per_unit), number(e.rented_usd_per_unit)
            share = "never" if e.utilization is None else f"{e.utilization:.0%}"
            rows.append([changed, *usd, share, "never" if e.month is None else str(e.month)])
        yield Table(f"Sensitivity: {row.label}, {row.unit}", headings, rows)


def _systems(report: Report) -> Table:
    rows = []
    for name, side in report.sides.items():
        m = side.price or Machine(name)
        prices = [f"{m.usd:,.2f} USD"] if m.usd is not None else []
        prices += [f"{m.usd_per_hour:g} USD per hour"] if m.usd_per_hour is not None else []
        power = "unknown" if m.power_w is None else f"{m.power_w:g} W"
        priced = " or ".join(prices) or "unknown"
        about = [name, side.machine, str(side.runs)]
        rows.append([*about, priced, m.price_source, power, m.power_source])
    headings = "Side|Machine|Runs|Price|Source|Power at work|Source".split("|")
    return Table("Systems", headings, rows)


def _accuracy(report: Report) -> Table:
    rows = [
        [run.side, run.label, gates.setting(run.comparable_by), str(run.gate), run.path.name]
        for run in report.runs
        if run.gate
    ]
    return Table("Accuracy", ["Side", "Work", "Setting", "Gate", "Record"], rows)


def _runs(report: Report) -> Table:
    headings = "Side|Work|Result|95 % CI|Setting|Finished|Warnings|Valid|Record".split("|")
    rows = []
    for run in report.runs[:MAX_RUNS]:
        result = amount(run.result.median, run.result.unit), interval(run.result.ci95)
        setting = listed({**run.comparable_by, **run.configuration})
        valid = "; ".join(run.reasons) or "valid"
        about = setting, run.finished_at, str(len(run.warnings)), valid, run.path.name
        rows.append([run.side, run.label, *result, *about])
    more = f" (the first {MAX_RUNS} of {len(report.runs)})" if len(report.runs) > MAX_RUNS else ""
    return Table(f"Runs{more}", headings, rows)


def text(report: Report) -> str:
    """For the terminal: the summary, the most important tables, the notes."""
    shown = ["Ratios", "What differs between the sides", "Cost", "Accuracy"]
    if any(s.usd_per_unit is not None for row in report.costs for s in row.sides.values()):
        shown += ["Systems", "Assumptions"]
    lines = [*summary(report), ""]
    for table in tables(report):
        if table.title in shown:
            cells = cli.columns([table.headings, *table.rows])
            lines += [table.title, *(f"  {line}" for line in cells), ""]
    # Files that were skipped have been named on stderr.
    lines += [f"note: {note}" for note in notes(replace(report, skipped=[]))]
    return "\n".join(lines).rstrip() + "\n"


def markdown(report: Report) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [f"# {escaped(report.title)}", ""]
    lines += [*(f"- {escaped(each)}" for each in summary(report)), ""]
    for table in tables(report):
        rule = ["---"] * len(table.headings)
        rows = [line([escaped(cell) for cell in row]) for row in (table.headings, *table.rows)]
        lines += [f"## {escaped(table.title)}", "", rows[0], line(rule), *rows[1:], ""]
    for title, each in (("Notes", notes(report)), ("Method", METHOD)):
        if each:
            lines += [f"## {title}", "", *(f"- {escaped(entry)}" for entry in each), ""]
    return "\n".join([*lines, f"<!-- {MARK} -->", ""])


def csv(report: Report) -> str:
    """Every ratio."""
    buffer = io.StringIO()
    writer = csv_module.writer(buffer, lineterminator="\n")
    writer.writerow([*CSV_HEADER.split(","), "better", "verdict", "marks"])
    for c in report.comparisons:
        for name, r in c.ratios.items():
            medians = r.baseline, r.side, r.ratio, *(r.ci95 or (None, None))
            about = c.label, name, c.units[name], c.baseline, c.side
            row = *about, *medians, r.better, r.verdict, "; ".join(c.marks)
            writer.writerow([csv_cell(cell) for cell in row])
    return buffer.getvalue()


def json(report: Report) -> str:
    """All of it but the runs' samples."""
    runs = [replace(run, durations={}) for run in report.runs]
    content = {"made_by": MARK, **asdict(replace(report, runs=runs))}
    return json_module.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"
