"""Build SUT.pdf from sut/*.toml, the systems under test: python3 -m analysis.sut

The first page compares all systems, then each has a page. The same TOMLs give the same PDF, byte
for byte. To add the machine you are on: python3 -m harness.capture
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import cli, files
from harness.sut_toml import FOLDER, read_all

if TYPE_CHECKING:
    from fpdf import FPDF  # takes half a second to import

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN_PRICE = "not published"
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
    amounts = []
    if "usd" in price:
        amounts.append(f"{price['usd']:,.2f} USD")
    if "usd_per_hour" in price:
        amounts.append(f"{price['usd_per_hour']:,} USD per hour")
    amounts = amounts or [f"{amount} {terms}" for terms, amount in _discounts(price)]
    if not amounts:
        return UNKNOWN_PRICE
    return _join(" or ".join(amounts), f"({price['basis']})" if "basis" in price else None)


def _discounts(price: dict) -> list[tuple[str, str]]:
    """Hourly prices with a commitment, or without a guarantee."""
    keys = {"reserved": "usd_per_hour_reserved", "spot": "usd_per_hour_spot"}
    return [(terms, f"{price[key]:,} USD per hour") for terms, key in keys.items() if key in price]


def summary(system: dict) -> str:
    """The system in one line."""
    cpu, price = system["cpu"], price_of(system)
    parts = (
        system["system"]["kind"],
        cpu["name"],
        f"{cpu['cores_per_socket'] * cpu['sockets']} cores",
        _capacity(system["memory"]["gb"]),
        f"price {price}" if price == UNKNOWN_PRICE else price,
    )
    return " · ".join(parts)


def facts(system: dict) -> dict[str, list[tuple[str, str]]]:
    """The rows of a system's page, as (label, value), by section; only what the TOML has."""
    names = "price power cpu memory gpu board bios storage os".split()
    price, power, cpu, memory, gpu, board, bios, storage, host = (
        system.get(name, {}) for name in names
    )
    cores = cpu["cores_per_socket"] * cpu["sockets"]
    bios_date = _quantity(bios.get("date"))
    sections: dict[str, list[tuple[str, str]]] = {
        "System": [
            ("Kind", system["system"]["kind"]),
            ("Vendor", system["system"].get("vendor", "")),
            ("Captured", _quantity(system["system"].get("captured"))),
            ("Comparable to", _comparable_to(system)),
        ],
        "Price": [
            ("Amount", price_of(system)),
            *((terms.capitalize(), amount) for terms, amount in _discounts(price)),
            ("Source", price.get("source")),
        ],
        "Power": [("Rated", _quantity(power.get("rated_w"), "W")), ("Source", power.get("source"))],
        "Processor": [
            ("Model", cpu["name"]),
            ("Generation", cpu.get("generation")),
            ("Clock", f"{cpu['base_ghz']:.2f} GHz" if "base_ghz" in cpu else ""),
            ("Maximum clock", _quantity(cpu.get("max_mhz"), "MHz")),
            ("Stepping", _quantity(cpu.get("stepping"))),
            ("Cores", f"{cpu['cores_per_socket']} per socket × {cpu['sockets']} = {cores}"),
            ("Threads", f"{cpu['threads_per_core']} per core, {cpu['vcpus']} vCPUs"),
            ("L1 cache, data", cpu.get("cache_l1d")),
            ("L1 cache, instructions", cpu.get("cache_l1i")),
            ("L2 cache", cpu.get("cache_l2")),
            ("L3 cache", cpu.get("cache_l3")),
        ],
        "Memory": [
            ("Size", _capacity(memory["gb"])),
            ("Type", memory.get("type")),
            ("Speed", _quantity(memory.get("mt_per_s"), "MT/s")),
            ("Modules", _quantity(memory.get("modules"))),
            ("Module", memory.get("module")),
        ],
        "GPU": [
            ("Model", _device(gpu)),
            ("Memory", _quantity(gpu.get("memory_gb"), "GB")),
            ("Used for", gpu.get("used_for")),
        ],
        "Board": [
            ("Motherboard", _join(board.get("vendor"), board.get("model"), board.get("version"))),
            ("BIOS", _join(_join(bios.get("vendor"), bios.get("version")), bios_date, by=", ")),
        ],
        "Devices": [
            ("Storage", _quantity(storage.get("gb"), "GB")),
            ("Disks", "\n".join(_device(disk, "gb", "GB") for disk in storage.get("disks", []))),
            ("Network", _network(system)),
        ],
        "Software": [
            ("Operating system", _join(host.get("name"), host.get("version"))),
            ("Kernel", host.get("kernel")),
            *(
                (PRODUCTS.get(product, product.capitalize()), version)
                for product, version in system.get("software", {}).items()
            ),
        ],
    }
    known = {name: [row for row in rows if row[1]] for name, rows in sections.items()}
    return {name: rows for name, rows in known.items() if rows}


def comparison(system: dict) -> dict[str, str]:
    """A system's column on the first page."""
    cpu, memory = system["cpu"], system["memory"]
    gpu, storage = system.get("gpu", {}), system.get("storage", {})
    column = {
        "Comparable to": _comparable_to(system),
        "Kind": system["system"]["kind"],
        "Price": price_of(system),
        "Processor": _join(cpu["name"], cpu.get("generation"), by="\n"),
        "Cores": f"{cpu['cores_per_socket']} × {cpu['sockets']}",
        "vCPUs": str(cpu["vcpus"]),
        "L2 cache": cpu.get("cache_l2"),
        "L3 cache": cpu.get("cache_l3"),
        "Memory": _join(_capacity(memory["gb"]), memory.get("type")),
        "Speed": _quantity(memory.get("mt_per_s"), "MT/s"),
        "GPU": _device(gpu, "memory_gb", "GB"),
        "Storage": _quantity(storage.get("gb"), "GB"),
        "Network": _network(system),
    }
    return {label: value or "-" for label, value in column.items()}


def _comparable_to(system: dict) -> str:
    pairs = system["system"].get("comparable_to", [])
    return "\n".join(f"{pair['name']} ({pair['on']})" for pair in pairs)


def _network(system: dict) -> str:
    adapters = system.get("network", {}).get("adapters", [])
    return "\n".join(_device(adapter, "gbit_per_s", "Gbit/s") for adapter in adapters)


def _device(device: dict, quantity: str = "", unit: str = "") -> str:
    count = f"{device['count']} ×" if "count" in device else None
    model = device.get("model") or device.get("name")
    return _join(_join(count, model), _quantity(device.get(quantity), unit), by=", ")


def _capacity(gb: float) -> str:
    return _quantity(f"{gb / 1024:g}", "TB") if gb >= 1024 else _quantity(f"{gb:g}", "GB")


def _quantity(value: Any, unit: str = "") -> str:
    return "" if value is None else f"{value}\N{NO-BREAK SPACE}{unit}".strip()


def _join(*parts: str | None, by: str = " ") -> str:
    return by.join(part for part in parts if part)


def build(systems: list[dict]) -> bytes:
    """The PDF. Raises cli.UserError where a page has too much text even for the smallest font."""
    count = f"{len(systems)} systems, one page each"
    pages = [(count, partial(_comparison_page, systems=group)) for group in _groups(systems)]
    for system in systems:
        pages.append((f"{system['system']['name']}.toml", partial(_system_page, system=system)))
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
        columns = [comparison(system) for system in systems]
        for label in columns[0]:
            row = table.row()
            _font(pdf, 8.5 * scale, "B")
            row.cell(label, border="TOP")
            _font(pdf, 8.5 * scale)
            for column in columns:
                row.cell(column[label], border="TOP")
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
        for section, rows in facts(system).items():
            for place, (label, value) in enumerate(rows):
                above, below = (gap if place == edge else 0 for edge in (0, len(rows) - 1))
                row = table.row()
                cell = partial(
                    row.cell,
                    border="NONE" if place or section == "System" else "TOP",
                    padding=(above, 3, below, 0),
                )
                _font(pdf, 10 * scale, "B")
                cell("" if place else section)
                _font(pdf, 10 * scale, grey=DARK)
                cell(label)
                _font(pdf, 10 * scale)
                cell(value)
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


def _notes(pdf: FPDF, notes: list[tuple[str, str]], scale: float) -> None:
    """Notes as (of what, text), below what is on the page."""
    pdf.ln(4 * scale)
    with _table(pdf, 4.4 * scale, (LABELS, WIDTH - LABELS)) as table:
        for name, text in notes:
            row = table.row()
            _font(pdf, 9 * scale, "B")
            row.cell(name)
            _font(pdf, 9 * scale)
            row.cell(text)


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
    folder = "folder with one TOML per system"
    parser.add_argument("--sut_dir", type=Path, default=FOLDER, help=folder)
    output = "the PDF to write"
    parser.add_argument("--output", type=Path, default=ROOT / "SUT.pdf", help=output)
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
