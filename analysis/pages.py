"""The report as a page that needs nothing else, and as a PDF printed from it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import matplotlib
from fpdf import FPDF
from fpdf.fonts import FontFace
from markupsafe import Markup

from analysis import cost, findings, page_costs, page_model, report
from analysis.page_costs import Slider
from analysis.page_parts import Section
from analysis.pricing import PricedWork
from analysis.report import MARK, METHOD, Report
from analysis.text import as_json

FOLDER = Path(__file__).resolve().parent
TEMPLATE = FOLDER / "report.html.j2"
SCRIPTS = page_model.SCRIPT, FOLDER / "page_costs.js", FOLDER / "page.js"
BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge", "msedge"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
NAMES = {  # of sections, in the list of them
    "performance": "Performance",
    "capacity": "Capacity",
    "cost": "Cost and other figures",
    "time": "Cost over time",
    "decides": "What decides",
    "quality": "Quality",
    "differences": "Differences",
    "limits": "Limits",
    "tuning": "Tuning",
    "warnings": "Warnings",
}
MAX_WORKS = 20  # that a reader can price again
PRINT_S = 90  # after which a browser that prints is given up
NO_BROWSER = (
    "Printed without a browser: the charts, and more, are in the page (--html). With Chromium, "
    "Chrome or Edge on the machine this PDF is the page."
)


def html(found: Report, folder: Path | None = None) -> bytes:
    """One page that needs nothing else. Records are linked from `folder`, where the page will lie;
    without it they are named."""
    script = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = findings.sections(found)
    works = [work for work in found.priced if work.alternatives][:MAX_WORKS]
    costs = page_costs.cost_sections(works[0]) if works else []
    sliders = page_costs.sliders(found) if works else []
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=found,
        question=findings.question(found),
        answer=findings.answers(found),
        sections=_ordered(sections, costs),
        works=works,
        sliders=sliders,
        baselines=list(found.others),
        assumptions=cost.assumption_table(found.assumptions) if found.priced else None,
        runs=report.run_table(found),
        links=_links(found, folder),
        method=METHOD,
        mark=MARK,
        names=NAMES,
        digest=digest,
        script=Markup(script),
        data=_embedded(_payload(found, sections, works, sliders)),
    )
    return page.encode()


def _ordered(sections: Sequence[Section], costs: Sequence[Section]) -> list[Section]:
    """Costs stand behind performance and capacity."""
    first = [each for each in sections if each.id in ("performance", "capacity")]
    return [*first, *costs, *(each for each in sections if each not in first)]


def _payload(
    found: Report,
    sections: Sequence[Section],
    works: Sequence[PricedWork],
    sliders: Sequence[Slider],
) -> dict[str, Any]:
    charts = {
        f"{section.id}-{i}": asdict(chart)
        for section in sections
        for i, chart in enumerate(section.charts)
    }
    leading = {id(work) for work in findings.leading(found)}
    charts["first"] = asdict(findings.first_chart(found))
    return {
        "sides": list(found.sides),
        "years": found.assumptions["years"].value,
        "leading": [i for i, work in enumerate(works) if id(work) in leading],
        "charts": charts,
        "baselines": {
            baseline: {
                "performance": asdict(findings.performance(found, comparisons)),
                "differences": asdict(findings.differences(found, comparisons)),
            }
            for baseline, comparisons in found.others.items()
        },
        "costs": page_model.payload(works),
        "sliders": [asdict(each) for each in sliders],
        "command": found.command,
    }


def _embedded(payload: dict[str, Any]) -> Markup:
    """JSON that ends no script element."""
    text = json.dumps(payload, default=as_json, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _links(found: Report, folder: Path | None) -> dict[tuple[str, str], str]:
    """By side and file name, the record's address from the page."""
    if folder is None:
        return {}
    return {
        (run.side, run.path.name): quote(Path(os.path.relpath(run.path, folder)).as_posix())
        for run in found.runs
        if run.path.is_file()
    }


def pdf(found: Report, folder: Path | None = None) -> bytes:
    """The page, printed by a headless browser; where there is none, a plain document that says
    so."""
    browser = find_browser()
    return (browser and printed(browser, html(found, folder))) or _plain(found)


def find_browser() -> str | None:
    """One that prints and draws without a window."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def printed(browser: str, page: bytes) -> bytes | None:
    """None where the browser does not print."""
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "report.html", Path(name) / "report.pdf"
        source.write_bytes(page)
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has none
        options = [*("--headless", "--disable-gpu", "--no-pdf-header-footer"), *sandbox]
        options += [f"--user-data-dir={name}/profile", "--virtual-time-budget=10000"]
        command = [browser, *options, f"--print-to-pdf={target}", source.as_uri()]
        try:
            subprocess.run(command, capture_output=True, timeout=PRINT_S, check=True)
            content = target.read_bytes()
        except (OSError, subprocess.SubprocessError):
            return None
        return content + f"\n% {MARK}\n".encode() if content.startswith(b"%PDF") else None


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


def _plain(found: Report) -> bytes:
    page = Document(found.title)
    page.say(found.title, 20, "B")
    page.say(f"{found.about}. {NO_BROWSER}", 8, gap=4)
    for line in report.summary(found):
        page.say(line, 10.5, gap=2)
    for table in report.tables(found):
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
    for title, lines in (("Notes", report.notes(found)), ("Method", METHOD)):
        if lines:
            page.heading(title)
            for line in lines:
                page.say(line, 8)
    return bytes(page.output())
