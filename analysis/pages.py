"""The report with its charts: an HTML page that needs nothing else, and a PDF."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import matplotlib
from fpdf import FPDF
from fpdf.fonts import FontFace

from analysis.charts import Chart, drawn
from analysis.report import MARK, METHOD, Report, notes, summary, tables

TEMPLATE = Path(__file__).with_name("report.html.j2")


def html(report: Report) -> bytes:
    """One page that needs nothing else."""

    def uri(chart: Chart, theme: str) -> str:
        picture = base64.b64encode(chart.render(theme, "svg")).decode()
        return f"data:image/svg+xml;base64,{picture}"

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        summary=summary(report),
        charts=[(chart, uri(chart, "light"), uri(chart, "dark")) for chart in drawn(report)],
        tables=tables(report),
        notes=notes(report),
        method=METHOD,
        mark=MARK,
    )
    return page.encode()


class Document(FPDF):
    """An A4 page that is written from top to bottom."""

    def __init__(self, title: str):
        super().__init__(format="A4", unit="mm")
        fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
        self.set_title(title)
        self.set_creator(MARK)
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
    page.say(report.about, 8, gap=4)
    for line in summary(report):
        page.say(line, 10.5, gap=2)
    for chart in drawn(report):
        width, high = page.epw, page.epw * chart.height / chart.width
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
    for title, lines in (("Notes", notes(report)), ("Method", METHOD)):
        if lines:
            page.heading(title)
            for line in lines:
                page.say(line, 8)
    return bytes(page.output())
