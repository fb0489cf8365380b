"""A comparison in the forms people read: sentences and tables, as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from analysis import cost, gates
from analysis.assumptions import Assumption
from analysis.comparison import Comparison
from analysis.prices import System
from analysis.pricing import PricedWork
from analysis.ratio import NO_DIFFERENCE
from analysis.records import Run, listed, nearest
from analysis.text import Table, amount, as_json, csv_cell, inline, interval, times, times_interval
from analysis.text import markdown as escaped
from harness import cli

MAX_RUNS = 2000  # in the table of runs
MARK = "Made by analysis.compare of Edge v/s Cloud Performance Testing"  # in all but the CSV
CSV_PRICES = ("usd", "usd_low90", "usd_high90", "machines")
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
    "A cost is the present value of all that is paid over the years, per unit of work done in "
    "them. Its 90 % range comes of the runs' spread and of each assumption's stated range (Monte "
    "Carlo, fixed seed). Between 10 and 90 % probability the data do not decide. docs/cost.md has "
    "all formulas.",
)


@dataclass(frozen=True)
class Side:
    machine: str
    runs: int
    price: System | None


@dataclass(frozen=True)
class Report:
    """All that any form of the report is made from."""

    made_at: str
    baseline: str
    sides: dict[str, Side]  # the baseline first
    comparisons: list[Comparison]
    leading: list[str]  # labels of the works that the summary mentions
    demand: cost.Sized | None  # priced on whole machines
    costs: list[PricedWork]  # per unit of work
    assumptions: dict[str, Assumption]
    runs: list[Run]
    skipped: list[str]
    command: list[str]  # that makes the same again, without its outputs
    others: dict[str, list[Comparison]]  # by baseline: for a reader who chooses another

    @property
    def title(self) -> str:
        several = len(self.sides) > 1
        return "Edge against cloud" if several else f"Performance of {self.baseline}"

    @property
    def about(self) -> str:
        made = self.made_at[:16].replace("T", " ")
        sides = " · ".join(self.sides)
        valid = sum(not run.reasons for run in self.runs)
        return f"{sides} — {len(self.runs)} runs, {valid} of them valid, {made} UTC"

    @property
    def leading_costs(self) -> list[PricedWork]:
        """Of the works that the summary mentions, per unit."""
        return [row for row in self.costs if row.label in self.leading]

    @property
    def priced(self) -> list[PricedWork]:
        """What is shown of costs: the demand, then units of work."""
        return [*([self.demand.work] if self.demand else []), *self.leading_costs]


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
    counts = c.missing_runs
    if len(counts) == 2 and len(set(counts.values())) == 1:
        return f"{counts[c.side]} needed on each side"
    return " and ".join(f"{count} of {side}" for side, count in counts.items()) + " needed"


def summary(report: Report) -> list[str]:
    """The sentences on top."""
    lines = [sentence(c) for c in report.comparisons if c.label in report.leading]
    if len(report.sides) == 1:
        lines = [_result(run) for run in report.runs[:20]]
    elif not report.comparisons:
        lines = ["Nothing to compare: no other side did the same work as the baseline."]
        lines += nearest(report.runs, report.baseline)
    years = report.assumptions["years"].value or 0.0
    priced = [
        [marked(line, work.marks) for line in cost.sentences(work, years)] for work in report.priced
    ]
    leading = 1 if report.demand else 0  # a demand is asked for: its answer comes first
    return list(dict.fromkeys(chain(*priced[:leading], lines, *priced[leading:])))


def _result(run: Run) -> str:
    """'LLM: 30.1 tokens/s (throughput; 95 % CI 29.8–30.3).'"""
    sure = f"; 95 % CI {interval(run.result.ci95)}" if run.result.ci95 else ""
    line = f"{run.label}: {amount(run.result.median, run.result.unit)} "
    line += f"({inline(run.result.label)}{sure})."
    return f"{line} [not valid as evidence]" if run.reasons else line


def notes(report: Report) -> list[str]:
    """What speaks against the figures, and what was left out."""
    labels: dict[str, dict[str, None]] = {}  # by note, the works that have it
    for c in report.comparisons:
        for note in [*c.marks, *c.notes]:
            labels.setdefault(note, {})[c.label] = None
    for work in report.priced:
        labels |= {note: {work.label or work.unit: None} for note in work.notes}
    found = [
        f"{next(iter(works))}{f' and {len(works) - 1} more' if len(works) > 1 else ''}: {note}"
        for note, works in labels.items()
    ]
    found += report.demand.notes if report.demand else []
    return [*found, *(f"skipped: {line}" for line in report.skipped)]


def tables(report: Report) -> list[Table]:
    priced = [cost.tables(work) for work in report.priced]
    found = [ratio_table(report.comparisons), difference_table(report.comparisons)]
    if report.demand:
        found = [*priced.pop(0), cost.capacity_table(report.demand.capacities), *found]
    found += chain(*priced)
    assumptions = [cost.assumption_table(report.assumptions)] if report.priced else []
    found += [system_table(report), _accuracy(report), *assumptions, run_table(report)]
    return [table for table in found if table.rows]


def ratio_table(comparisons: Sequence[Comparison]) -> Table:
    headings = "Work|Metric|Side|Mean|Baseline|Mean|Ratio|95 % CI|Side is".split("|")
    rows = []
    for c in comparisons:
        for name, r in c.ratios.items():
            side, base = (amount(value, c.units[name]) for value in (r.side, r.baseline))
            found = times(r.ratio), times_interval(r.ci95), r.verdict or "–"
            rows.append([c.label, c.labels[name], c.side, side, c.baseline, base, *found])
    return Table("Ratios", headings, rows)


def difference_table(comparisons: Sequence[Comparison]) -> Table:
    rows = [
        [c.label, f"{c.side} / {c.baseline}", name, ours, theirs]
        for c in comparisons
        for name, (theirs, ours) in c.differences.items()
    ]
    headings = ["Work", "Sides", "What", "Side", "Baseline"]
    return Table("What differs between the sides", headings, rows)


def system_table(report: Report) -> Table:
    rows = []
    for name, side in report.sides.items():
        system = side.price or System(name)
        offers = [f"{offer.name}: {offer.price} ({offer.evidence})" for offer in system.offers]
        about = [name, side.machine, str(side.runs)]
        rows.append([*about, "; ".join(offers) or "unknown", system.power_source])
    return Table("Systems", "Side|Machine|Runs|Prices|Power".split("|"), rows)


def _accuracy(report: Report) -> Table:
    rows = [
        [run.side, run.label, gates.setting(run.comparable_by), str(run.gate), run.path.name]
        for run in report.runs
        if run.gate
    ]
    return Table("Accuracy", ["Side", "Work", "Setting", "Gate", "Record"], rows)


def run_table(report: Report) -> Table:
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
    shown = [
        "Ratios",
        "What differs between the sides",
        "Cost",
        "Capacity",
        "Owning against renting",
        "Accuracy",
    ]
    if any(work.alternatives for work in report.priced):
        shown += ["Systems", "Assumptions"]
    lines = [*summary(report), ""]
    for table in tables(report):
        if table.title.split(":")[0] in shown:
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
    """Every ratio, then every price: its `metric` is "cost", and its last columns are filled."""
    buffer = io.StringIO()
    writer = csv_module.writer(buffer, lineterminator="\n")
    writer.writerow([*CSV_HEADER.split(","), "better", "verdict", "marks", *CSV_PRICES])
    for c in report.comparisons:
        for name, r in c.ratios.items():
            medians = r.baseline, r.side, r.ratio, *(r.ci95 or (None, None))
            about = c.label, name, c.units[name], c.baseline, c.side
            row = *about, *medians, r.better, r.verdict, "; ".join(c.marks)
            writer.writerow([csv_cell(cell) for cell in row])
    for work in report.priced:
        for a in work.alternatives:
            unit = f"USD for {work.unit}" if a.machines else f"USD per {work.unit}"
            machines = a.machines and a.machines.value
            usd = a.usd.value, a.usd.low, a.usd.high, machines
            row = work.label, "cost", unit, "", a.name, *[""] * 7, "; ".join(work.marks), *usd
            writer.writerow([csv_cell(cell) for cell in row])
    return buffer.getvalue()


def json(report: Report) -> str:
    """All of it, against the one baseline."""
    content = {"made_by": MARK, **as_json(replace(report, others={}))}
    return json_module.dumps(content, indent=1, ensure_ascii=False, default=as_json) + "\n"
