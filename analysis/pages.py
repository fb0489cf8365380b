"""The report with its charts: an HTML page that needs nothing else, and a PDF."""

from __future__ import annotations

import base64
import io
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from fpdf import FPDF
from fpdf.fonts import FontFace

from analysis import charts
from analysis.charts import Chart
from analysis.records import Run, series
from analysis.report import METHOD, Report, all_notes, summary, tables

TEMPLATE = Path(__file__).with_name("report.html.j2")


def drawn(report: Report) -> list[Chart]:
    """The charts of all there is something to draw for."""
    found = [_ratios(report), _per_dollar(report), *_durations(report), *_curves(report)]
    for row in report.leading_costs:
        if row.over_time and (even := row.break_even):
            label, sides = f"{row.label}, {row.unit}", (even.owned, even.rented)
            found.append(charts.cost_over_time(label, *sides, row.over_time, even.month))
    return [chart for chart in found if chart]


def _ratios(report: Report) -> Chart | None:
    rows = []
    for c in report.comparisons:
        r = c.ratios.get(c.primary)
        if r and r.ratio:
            turned = r.better == "lower"
            ci95 = (1 / r.ci95[1], 1 / r.ci95[0]) if r.ci95 and turned else r.ci95
            rows.append((f"{c.side}: {c.label}", 1 / r.ratio if turned else r.ratio, ci95))
    return charts.ratios(rows[:25], report.baseline) if rows else None


def _per_dollar(report: Report) -> Chart | None:
    rows = [
        (row.unit, name, side.usd_per_unit)
        for row in report.leading_costs
        for name, side in row.sides.items()
        if side.usd_per_unit
    ]
    return charts.per_dollar(list(dict.fromkeys(rows))[:20], list(report.sides)) if rows else None


def _durations(report: Report) -> Iterator[Chart]:
    """The distribution of a time, for each work that several sides did: the one with most samples
    of those of which less is better."""
    works: dict[str, list[Run]] = defaultdict(list)
    for run in report.runs:
        if run.label in report.leading:
            works[run.label].append(run)
    for label, runs in sorted(works.items()):
        names = [
            name
            for name in runs[0].durations
            if all(name in run.durations for run in runs)
            and runs[0].metrics[name].better == "lower"
        ]
        parts: dict[str, list[np.ndarray]] = defaultdict(list)
        if names:
            name = max(names, key=lambda name: sum(run.metrics[name].n for run in runs))
            for run in runs:
                parts[run.side].append(run.durations[name])
        if len(parts) > 1:
            axis = f"{runs[0].metrics[name].label}, seconds"
            samples = {side: np.concatenate(each) for side, each in parts.items()}
            yield charts.distributions(f"{label}: time", axis, samples, list(report.sides))


def _curves(report: Report) -> Iterator[Chart]:
    """The primary metric over every number that was varied; the same points are drawn once."""
    seen = []
    for across, group in series(report.runs):
        values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for x, run in group:
            values[run.side][x].append(run.result.median)
        lines = {
            side: [(x, statistics.median(values[side][x])) for x in sorted(values[side])]
            for side in report.sides
            if side in values
        }
        run = group[0][1]
        if max(map(len, lines.values())) > 1 and (run.workload, lines) not in seen:
            seen.append((run.workload, lines))
            axis = f"{run.result.label}, {run.result.unit}"
            yield charts.curves(
                f"{run.title} over {across}", across, axis, lines, list(report.sides)
            )


def html(report: Report) -> bytes:
    """One page that needs nothing else."""

    def uri(chart: Chart, theme: str) -> str:
        picture = base64.b64encode(chart.render(theme, "svg")).decode()
        return f"data:image/svg+xml;base64,{picture}"

    pictures = [
        {"title": c.title, "alt": c.alt, "light": uri(c, "light"), "dark": uri(c, "dark")}
        for c in drawn(report)
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        summary=summary(report),
        charts=pictures,
        tables=tables(report),
        notes=all_notes(report),
        method=METHOD,
    )
    return page.encode()


class Document(FPDF):
    """An A4 page that is written from top to bottom."""

    def __init__(self, title: str):
        super().__init__(format="A4", unit="mm")
        fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
        self.set_title(title)
        self.set_lang("en")
        self.set_margin(16)
        self.add_font("sans", "", fonts / "DejaVuSans.ttf")
        self.add_font("sans", "B", fonts / "DejaVuSans-Bold.ttf")
        self.add_page()

    def say(self, line: str, size: float, style: str = "", gap: float = 1.5) -> None:
        self.set_font("sans", style, size)
        self.multi_cell(0, size * 0.5, line, align="L", new_x="LMARGIN", new_y="NEXT")
        self.ln(gap)

    def heading(self, title: str, needed: float = 0) -> None:
        """On a new page where less than `needed` mm are left."""
        if self.get_y() + needed > self.page_break_trigger:
            self.add_page()
        self.ln(4)
        self.say(title, 11, "B")


def pdf(report: Report) -> bytes:
    """The same, to print and send."""
    page = Document(report.title)
    page.say(report.title, 20, "B")
    made = report.made_at[:16].replace("T", " ")
    page.say(f"Baseline {report.baseline} · {len(report.runs)} runs · made {made} UTC", 8, gap=4)
    for line in summary(report):
        page.say(line, 10.5, gap=2)
    for chart in drawn(report):
        width, high = page.epw, page.epw * chart.size[1] / chart.size[0]
        page.heading(chart.title, high + 12)
        picture = io.BytesIO(chart.render("light", "png"))
        page.image(picture, w=width, h=high, alt_text=chart.alt)
    for table in tables(report):
        page.heading(table.title, 30)
        page.set_font("sans", "", 6.5)
        rows = [table.headings, *table.rows]
        widths = [max(6, min(40, max(map(len, column)))) for column in zip(*rows)]
        with page.table(
            col_widths=widths,
            line_height=3.6,
            text_align="LEFT",
            borders_layout="HORIZONTAL_LINES",
            headings_style=FontFace(emphasis="BOLD"),
        ) as cells:
            for row in rows:
                cells.row(row)
    for title, lines in (("Notes", all_notes(report)), ("Method", METHOD)):
        if lines:
            page.heading(title)
            for line in lines:
                page.say(line, 8)
    return bytes(page.output())
