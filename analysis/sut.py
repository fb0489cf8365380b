"""Build SUT.pdf from sut/*.toml, the systems under test: python3 -m analysis.sut

The first page compares all systems, then each has a page. The same TOMLs give the same PDF, byte
for byte. To add the machine you are on: python3 -m harness.capture
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli, files
from harness.sut_toml import FOLDER, read_all, tomllib

if TYPE_CHECKING:
    from fpdf import FPDF  # takes half a second to import

LAYOUT = tomllib.loads(Path(__file__).with_name("sut_pages.toml").read_text(encoding="utf-8"))
UNKNOWN_PRICE, NO_BREAK_SPACE = "not published", "\N{NO-BREAK SPACE}"
PRODUCTS = {  # names that are not just capitalized
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "cuda": "CUDA",
    "optimum_intel": "Optimum Intel",
    "nvidia_driver": "NVIDIA driver",
}

# The page: A4, in millimetres.
MARGIN, TOP, BOTTOM = 18, 15, 21
WIDTH = 210 - 2 * MARGIN
LABELS = 24  # width of the first column of the comparison and of the notes
BLACK, DARK, RULE = 0, 70, 160  # greys that a black-and-white printer keeps apart
MAX_SYSTEMS = 5  # per page of the comparison
SCALES = (1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # tried in turn until a page's text fits on it
CREATED = datetime(2023, 11, 1, tzinfo=timezone.utc)  # fixed: today's would change every build


def price_of(system: dict) -> str:
    """The price in words; an unknown one is said to be unknown."""
    price = system.get("price", {})
    amounts = [f"{price['usd']:,.2f} USD"] if "usd" in price else []
    amounts += [f"{price['usd_per_hour']:,} USD per hour"] if "usd_per_hour" in price else []
    if not amounts:
        kinds = [kind for kind in ("reserved", "spot") if f"usd_per_hour_{kind}" in price]
        amounts = [f"{price[f'usd_per_hour_{kind}']:,} USD per hour {kind}" for kind in kinds]
    amounts = amounts or commitments(system)
    if not amounts:
        return UNKNOWN_PRICE
    return _join(" or ".join(amounts), f"({price['basis']})" if "basis" in price else None)


def commitments(system: dict) -> list[str]:
    """Each term for which a machine can be reserved, in words."""
    found = []
    for term in system.get("price", {}).get("reserved", []):
        paid = [f"{term['upfront_usd']:,.2f} USD at its start"] if "upfront_usd" in term else []
        paid += [f"{term['usd_per_hour']:,} USD per hour"] if "usd_per_hour" in term else []
        evidence = _join(term.get("source"), str(term.get("date", "")), by=", ")
        years = f"{term['term_years']:g} year{'s' * (term['term_years'] != 1)}"
        words = f"{years}: {' and '.join(paid)}"
        found.append(_join(words, f"({evidence})" if evidence else None))
    return found


def summary(system: dict) -> str:
    """The system in one line."""
    found, price = derived(system), price_of(system)
    cost = f"price {price}" if price == UNKNOWN_PRICE else price
    parts = (system["system"]["kind"], system["cpu"]["name"], f"{found['cores']} cores")
    return " · ".join((*parts, found["memory_size"], cost))


def derived(system: dict) -> dict[str, Any]:
    """What is shown of a system in the form of no single fact; "" where it is not known."""
    names = "cpu memory gpu board bios storage os".split()
    cpu, memory, gpu, board, bios, storage, host = (system.get(name, {}) for name in names)
    size = f"{memory['gb']:g}~GB" if memory["gb"] < 1024 else f"{memory['gb'] / 1024:g}~TB"
    size = size.replace("~", NO_BREAK_SPACE)
    adapters = system.get("network", {}).get("adapters", [])
    pairs = system["system"].get("comparable_to", [])
    bios_version = _join(bios.get("vendor"), bios.get("version"))
    return {
        "adapters": "\n".join(_device(adapter, "gbit_per_s", "Gbit/s") for adapter in adapters),
        "amount": price_of(system),
        "bios_version_date": _join(bios_version, str(bios.get("date", "")), by=", "),
        "commitments": "\n".join(commitments(system)),
        "comparable_to": "\n".join(f"{pair['name']} ({pair['on']})" for pair in pairs),
        "cores": cpu["cores_per_socket"] * cpu["sockets"],
        "disks": "\n".join(_device(disk, "gb", "GB") for disk in storage.get("disks", [])),
        "gpu_model": _device(gpu),
        "gpu_with_memory": _device(gpu, "memory_gb", "GB"),
        "memory_size": size,
        "memory_size_type": _join(size, memory.get("type")),
        "motherboard": _join(board.get("vendor"), board.get("model"), board.get("version")),
        "os_version": _join(host.get("name"), host.get("version")),
        "processor": _join(cpu["name"], cpu.get("generation"), by="\n"),
    }


def rows(system: dict, templates: dict[str, str]) -> dict[str, str]:
    """The values by label, as sut_pages.toml has them; "" where a fact is missing."""
    known, found = {**system, **derived(system)}, {}
    for label, template in templates.items():
        try:
            found[label] = template.replace("~", NO_BREAK_SPACE).format_map(known)
        except KeyError:
            found[label] = ""
    return found


def facts(system: dict) -> dict[str, dict[str, str]]:
    """The rows of a system's page by section; only what the TOML has."""
    sections = {name: rows(system, templates) for name, templates in LAYOUT["page"].items()}
    for product, version in system.get("software", {}).items():
        sections["Software"][PRODUCTS.get(product, product.capitalize())] = version
    known = {name: {k: v for k, v in found.items() if v} for name, found in sections.items()}
    return {name: found for name, found in known.items() if found}


def _device(device: dict, quantity: str = "", unit: str = "") -> str:
    count = f"{device['count']} ×" if "count" in device else None
    amount = f"{device[quantity]}{NO_BREAK_SPACE}{unit}" if quantity in device else None
    return _join(_join(count, device.get("model") or device.get("name")), amount, by=", ")


def _join(*parts: str | None, by: str = " ") -> str:
    return by.join(part for part in parts if part)


def build(systems: list[dict]) -> bytes:
    """The PDF. Raises cli.UserError where a page has too much text even for the smallest font."""
    count = f"{len(systems)} systems, one page each"
    pages = [(count, partial(_comparison_page, systems=group)) for group in _groups(systems)]
    names = [f"{system['system']['name']}.toml" for system in systems]
    pages += [(name, partial(_system_page, system=each)) for name, each in zip(names, systems)]
    pdf = _document()
    for number, (footer, draw) in enumerate(pages, 1):
        draw(pdf, _scale(footer, draw))
        _footer(pdf, footer, f"{number} / {len(pages)}")
    return bytes(pdf.output())


def _document() -> FPDF:
    from fpdf import FPDF

    pdf = FPDF(format="A4", unit="mm")
    pdf.set_compression(False)  # compressed, it would depend on the zlib at hand
    pdf.set_creation_date(CREATED)
    pdf.set_title("Systems under test")
    pdf.set_lang("en")
    pdf.set_margins(MARGIN, TOP)
    pdf.set_auto_page_break(True, BOTTOM)
    pdf.c_margin = 0
    return pdf


def _scale(page: str, draw: Callable[[FPDF, float], None]) -> float:
    """The largest scale at which `draw` needs one page only."""
    for scale in SCALES:
        trial = _document()
        try:
            draw(trial, scale)
        except ValueError:  # from fpdf2: one row alone is higher than a page
            continue
        if trial.page == 1:
            return scale
    problem = "more than fits on a page: shorten the notes or the longest values"
    raise cli.UserError(f"{page}: {problem}")


def _groups(systems: list[dict]) -> list[list[dict]]:
    """The systems of each comparison page: comparable ones together, if there is room."""
    families: list[list[dict]] = []
    for system in systems:
        near = [family for family in families if any(_are_comparable(system, s) for s in family)]
        joined = [member for family in near for member in family]
        families = [family for family in families if family not in near] + [[*joined, system]]
    groups: list[list[dict]] = []
    for family in families:
        for start in range(0, len(family), MAX_SYSTEMS):
            part = family[start : start + MAX_SYSTEMS]
            if groups and len(groups[-1]) + len(part) <= MAX_SYSTEMS:
                groups[-1] += part
            else:
                groups.append(part)
    return groups


def _are_comparable(a: dict, b: dict) -> bool:
    names = {a["system"]["name"], b["system"]["name"]}
    pairs = (system["system"].get("comparable_to", []) for system in (a, b))
    return any(pair["name"] in names for some in pairs for pair in some)


def _comparison_page(pdf: FPDF, scale: float, systems: list[dict]) -> None:
    legend = "What each system has and costs, and which others it can be compared to."
    _heading(pdf, "Comparison", "Systems under test", legend)
    width = (WIDTH - LABELS) / len(systems)
    with _table(pdf, 4.4 * scale, (LABELS, *[width] * len(systems)), padding=2.2 * scale) as table:
        row = table.row()
        _font(pdf, 11 * scale, "B")
        row.cell("")
        for system in systems:
            name = system["system"]["name"]
            row.cell(name, link=f"#{name}")
        columns = [rows(system, LAYOUT["comparison"]) for system in systems]
        for label in LAYOUT["comparison"]:
            values = ((column[label] or "-",) for column in columns)
            _row(pdf, table, 8.5 * scale, [(label, "B"), *values], border="TOP")
    sources = [system.get("price", {}).get("source") for system in systems]
    notes = [("Prices", source) for source in dict.fromkeys(sources) if source]
    for system in systems:
        notes += [(system["system"]["name"], note) for note in system.get("notes", [])]
    _notes(pdf, notes, scale)


def _system_page(pdf: FPDF, scale: float, system: dict) -> None:
    name = system["system"]["name"]
    _heading(pdf, "System under test", name, summary(system))
    pdf.set_link(name=name)
    gap = 1.6 * scale  # between a section and the line next to it
    with _table(pdf, 5.3 * scale, (36, 38, WIDTH - 74)) as table:
        for section, known in facts(system).items():
            for place, (label, value) in enumerate(known.items()):
                above, below = (gap if place == edge else 0 for edge in (0, len(known) - 1))
                border = "NONE" if place or section == "System" else "TOP"
                cells = [("" if place else section, "B"), (label, "", DARK), (value,)]
                _row(pdf, table, 10 * scale, cells, border=border, padding=(above, 3, below, 0))
    _notes(pdf, [("Note", note) for note in system.get("notes", [])], scale)


def _heading(pdf: FPDF, kind: str, title: str, line: str) -> None:
    """A new page: what it is of, its title, one line, and a rule; the cursor is below them."""
    pdf.add_page()
    pdf.start_section("Comparison" if kind == "Comparison" else title)
    _font(pdf, 8.5, "B")
    pdf.set_char_spacing(1.2)
    pdf.cell(0, 7, kind.upper(), new_x="LMARGIN", new_y="NEXT")
    pdf.set_char_spacing(0)
    _font(pdf, 28, "B")
    pdf.multi_cell(0, 11, title, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(3)
    _font(pdf, 9.5)
    pdf.multi_cell(0, 5, line, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(3)
    _rule(pdf, 0.8, BLACK)
    pdf.ln(4)


def _table(pdf: FPDF, line_height: float, widths: Sequence[float], padding: float = 0):
    """An fpdf.table.Table without borders but those of its cells, in thin grey lines."""
    pdf.set_draw_color(RULE)
    pdf.set_line_width(0.15)
    return pdf.table(
        borders_layout="NONE",
        col_widths=widths,
        first_row_as_headings=False,
        line_height=line_height,
        padding=(padding, 3, padding, 0),
        text_align="LEFT",
        v_align="TOP",
    )


def _row(pdf: FPDF, table, size: float, cells: Sequence[tuple], **options: Any) -> None:
    """A row of cells, each (text, style, grey) as _font() has them; `options` as of Row.cell()."""
    row = table.row()
    for text, *font in cells:
        _font(pdf, size, *font)
        row.cell(text, **options)


def _notes(pdf: FPDF, notes: list[tuple[str, str]], scale: float) -> None:
    """Notes as (of what, text), below what is on the page."""
    pdf.ln(4 * scale)
    with _table(pdf, 4.4 * scale, (LABELS, WIDTH - LABELS)) as table:
        for name, text in notes:
            _row(pdf, table, 9 * scale, [(name, "B"), (text,)])


def _footer(pdf: FPDF, left: str, right: str) -> None:
    pdf.set_auto_page_break(False)
    pdf.set_y(-17)
    _rule(pdf, 0.15, RULE)
    _font(pdf, 8.5, grey=DARK)
    pdf.cell(0, 8, left, new_x="LMARGIN")
    pdf.cell(0, 8, right, align="R")
    pdf.set_auto_page_break(True, BOTTOM)


def _rule(pdf: FPDF, weight: float, grey: int) -> None:
    pdf.set_draw_color(grey)
    pdf.set_line_width(weight)
    pdf.line(MARGIN, pdf.y, MARGIN + WIDTH, pdf.y)


def _font(pdf: FPDF, size: float, style: str = "", grey: int = BLACK) -> None:
    pdf.set_font("Helvetica", style, size)
    pdf.set_text_color(grey)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.sut", description=__doc__, formatter_class=cli.HelpFormatter
    )
    add = parser.add_argument
    add("--sut_dir", type=Path, default=FOLDER, help="folder with one TOML per system")
    add("--output", type=Path, default=FOLDER.parent / "SUT.pdf", help="the PDF to write")
    args = parser.parse_args()
    systems = read_all(args.sut_dir)
    content = build(systems)
    try:
        files.write_whole(args.output, content, overwrite=True)
    except OSError as error:
        raise cli.UserError(f"cannot write {args.output}: {error.strerror} (--output)") from None
    print(f"{args.output}: {len(systems)} systems")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
