"""The systems under test, one TOML each, and the PDF that shows them: python3 -m harness.sut

Captures this machine into a TOML, then builds the PDF. Captured again, its facts are refreshed and what a person entered is kept.
The PDF's first page compares all systems, then each has a page. The same TOMLs give the same PDF, byte for byte.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from harness import capture, cli, files

if TYPE_CHECKING:
    from fpdf import FPDF  # half a second, which comparing does not need

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN_PRICE = "not published"

# What a system's TOML may hold. A misspelt key is an error: it would be missing from the PDF.
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 1}
AMOUNT = {"type": "number", "exclusiveMinimum": 0}
DATE = {"type": "date"}


def _table(required: tuple[str, ...] = (), **properties: dict) -> dict:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def _list(item: dict) -> dict:
    return {"type": "array", "items": item}


SCHEMA = _table(
    ("system", "cpu", "memory"),
    notes=_list(TEXT),
    system=_table(
        ("name", "kind"),
        name=TEXT, kind=TEXT, vendor=TEXT, captured=DATE,
        comparable_to=_list(_table(("name", "on"), name=TEXT, on=TEXT)),
    ),
    price=_table(
        usd=AMOUNT, usd_per_hour=AMOUNT, usd_per_hour_reserved=AMOUNT, usd_per_hour_spot=AMOUNT, basis=TEXT, source=TEXT,
    ),
    power=_table(rated_w=AMOUNT, source=TEXT),
    cpu=_table(
        ("name", "cores_per_socket", "sockets", "threads_per_core", "vcpus"),
        name=TEXT, generation=TEXT, base_ghz=AMOUNT, max_mhz=AMOUNT, stepping={"type": "integer", "minimum": 0},
        cores_per_socket=COUNT, sockets=COUNT, threads_per_core=COUNT, vcpus=COUNT,
        cache_l1d=TEXT, cache_l1i=TEXT, cache_l2=TEXT, cache_l3=TEXT,
    ),
    memory=_table(("gb",), gb=AMOUNT, type=TEXT, mt_per_s=AMOUNT, module=TEXT, modules=COUNT),
    gpu=_table(("name",), name=TEXT, count=COUNT, memory_gb=AMOUNT, used_for=TEXT),
    board=_table(vendor=TEXT, model=TEXT, version=TEXT),
    bios=_table(vendor=TEXT, version=TEXT, date=DATE),
    storage=_table(gb=AMOUNT, disks=_list(_table(("model",), count=COUNT, model=TEXT, gb=AMOUNT))),
    network=_table(adapters=_list(_table(("model",), count=COUNT, model=TEXT, gbit_per_s=AMOUNT))),
    os=_table(name=TEXT, version=TEXT, kernel=TEXT),
    software={"type": "object", "additionalProperties": TEXT},  # any product: its version
)  # fmt: skip
PRODUCTS = {  # the others are only capitalized
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "cuda": "CUDA",
    "optimum_intel": "Optimum Intel",
    "nvidia_driver": "NVIDIA driver",
}

# The page: A4, in millimetres.
LEFT, RIGHT, TOP, FOOT = 18, 192, 20, 280
LABEL, VALUE = LEFT + 36, LEFT + 74  # where the columns of a system's table begin
LINE = 5.3  # height of a line of the tables
GAP = 3.2  # between two sections
BLACK, DARK, RULE = 0, 70, 160  # greys that a black-and-white printer keeps apart
NAMES_WIDTH = 24  # of the first column of the comparison and of the footnotes
SYSTEMS_A_PAGE = 5  # of the comparison
SMALLEST = 0.7  # that a page is drawn at for all of it to fit
CREATED = datetime(2023, 11, 1, tzinfo=timezone.utc)  # any fixed date: today's would make every build another file


class TooLong(cli.UserError):
    """More than fits on a page."""

    def __init__(self, page: str):
        super().__init__(f"{page}: more than fits on a page: shorten its notes or longest values")
        self.page = page


def read(path: Path, text: str | None = None) -> dict:
    """A system's facts, checked: from its file, or the `text` that it is to hold.

    Raises cli.UserError, one line, where that is damaged or incomplete.
    """
    try:
        system = tomllib.loads(path.read_text(encoding="utf-8") if text is None else text, parse_float=_finite)
    except OSError as error:
        raise cli.UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise cli.UserError(f"{path}: not TOML: {cli.one_line(error)}") from None
    is_date = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("date", lambda _, value: type(value) is date)
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=is_date)
    fault = jsonschema.exceptions.best_match(validator(SCHEMA).iter_errors(system))
    if fault:
        where = ".".join(str(part) for part in fault.absolute_path)
        raise cli.UserError(f"{path}: {where + ': ' if where else ''}{fault.message[:200]}")
    if system["system"]["name"] != path.stem:
        raise cli.UserError(f"{path}: system.name is {system['system']['name']!r}: name the file after it")
    try:
        str(system).encode("latin-1")
    except UnicodeEncodeError as error:
        raise cli.UserError(f"{path}: the PDF's fonts have no {error.object[error.start]!r}") from None
    return system


def read_all(folder: Path, texts: dict[Path, str] | None = None) -> list[dict]:
    """All systems of a folder, each followed by those it is compared with; `texts` are files not written yet."""
    texts = texts or {}
    paths = sorted({*folder.glob("*.toml"), *texts}, key=lambda path: path.name)
    if not paths:
        raise cli.UserError(f"{folder}: no system here: it needs one TOML a system (--sut_dir)")
    systems = {path.stem: read(path, texts.get(path)) for path in paths}
    ordered: dict[str, dict] = {}

    def place(name: str) -> None:
        if name in ordered:
            return
        ordered[name] = systems[name]
        for pair in systems[name]["system"].get("comparable_to", []):
            if pair["name"] not in systems.keys() - {name}:
                raise cli.UserError(f"{folder / name}.toml: comparable_to {pair['name']!r}, which is no other system here")
            place(pair["name"])

    for name in systems:
        place(name)
    return list(ordered.values())


def price_of(system: dict) -> str:
    """The price in words; an unknown one is said to be unknown."""
    price = system.get("price", {})
    amounts = []
    if "usd" in price:
        amounts.append(f"{price['usd']:,.2f} USD")
    if "usd_per_hour" in price:
        amounts.append(f"{price['usd_per_hour']:,} USD per hour")
    if not amounts:
        amounts = [f"{amount} {how}" for how, amount in _discounts(price)]
    if not amounts:
        return UNKNOWN_PRICE
    return _joined(" or ".join(amounts), f"({price['basis']})" if "basis" in price else None)


def _discounts(price: dict) -> list[tuple[str, str]]:
    """Prices that are asked for something: a term, or being ended at any time."""
    kinds = (("reserved", "usd_per_hour_reserved"), ("spot", "usd_per_hour_spot"))
    return [(how, f"{price[key]:,} USD per hour") for how, key in kinds if key in price]


def headline(system: dict) -> str:
    """The system in a line."""
    cpu = system["cpu"]
    cores = cpu["cores_per_socket"] * cpu["sockets"]
    price = price_of(system)
    return _joined(
        system["system"]["kind"],
        cpu["name"],
        f"{cores} cores",
        _capacity(system["memory"]["gb"]),
        f"price {price}" if price == UNKNOWN_PRICE else price,
        by=" · ",
    )


def facts(system: dict) -> dict[str, list[tuple[str, str]]]:
    """The rows of a system's page, as (label, value), by section. What the TOML does not tell has no row."""
    cpu, memory, gpu = system["cpu"], system["memory"], system.get("gpu", {})
    board, bios, host = system.get("board", {}), system.get("bios", {}), system.get("os", {})
    price, power, storage = (system.get(name, {}) for name in ("price", "power", "storage"))
    pairs = system["system"].get("comparable_to", [])
    sections = {
        "System": [
            ("Kind", system["system"]["kind"]),
            ("Vendor", system["system"].get("vendor")),
            ("Captured", _quantity(system["system"].get("captured"))),
            *(("Comparable to", f"{pair['name']}, on {pair['on']}") for pair in pairs),
        ],
        "Price": [
            ("Amount", price_of(system)),
            *((how.capitalize(), amount) for how, amount in _discounts(price)),
            ("Source", price.get("source")),
        ],
        "Power": [("Rated", _quantity(power.get("rated_w"), "W")), ("Source", power.get("source"))],
        "Processor": [
            ("Model", cpu["name"]),
            ("Generation", cpu.get("generation")),
            ("Clock", f"{cpu['base_ghz']:.2f} GHz" if "base_ghz" in cpu else None),
            ("Maximum clock", _quantity(cpu.get("max_mhz"), "MHz")),
            ("Stepping", _quantity(cpu.get("stepping"))),
            ("Cores", f"{cpu['cores_per_socket']} per socket × {cpu['sockets']} = {cpu['cores_per_socket'] * cpu['sockets']}"),
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
            ("Model", _gpu(gpu)),
            ("Memory", _quantity(gpu.get("memory_gb"), "GB")),
            ("Used for", gpu.get("used_for")),
        ],
        "Board": [
            ("Motherboard", _joined(board.get("vendor"), board.get("model"), board.get("version"))),
            ("BIOS", _joined(_joined(bios.get("vendor"), bios.get("version")), _quantity(bios.get("date")), by=", ")),
        ],
        "Devices": [
            ("Storage", _quantity(storage.get("gb"), "GB")),
            ("Disks", "\n".join(_device(disk, "gb", "GB") for disk in storage.get("disks", []))),
            ("Network", _network(system)),
        ],
        "Software": [
            ("Operating system", _joined(host.get("name"), host.get("version"))),
            ("Kernel", host.get("kernel")),
            *((PRODUCTS.get(name, name.capitalize()), version) for name, version in system.get("software", {}).items()),
        ],
    }
    known = {name: [(label, value) for label, value in rows if value] for name, rows in sections.items()}
    return {name: rows for name, rows in known.items() if rows}


def comparison(system: dict) -> list[tuple[str, str]]:
    """A system's column on the first page."""
    cpu, memory, gpu = system["cpu"], system["memory"], system.get("gpu", {})
    return [
        ("Kind", system["system"]["kind"]),
        ("Price", price_of(system)),
        ("Processor", _joined(cpu["name"], cpu.get("generation"), by="\n")),
        ("Cores", f"{cpu['cores_per_socket']} × {cpu['sockets']}"),
        ("vCPUs", str(cpu["vcpus"])),
        ("L2 cache", cpu.get("cache_l2", "-")),
        ("L3 cache", cpu.get("cache_l3", "-")),
        ("Memory", _joined(_capacity(memory["gb"]), memory.get("type"))),
        ("Speed", _quantity(memory.get("mt_per_s"), "MT/s") or "-"),
        ("GPU", _joined(_gpu(gpu), _quantity(gpu.get("memory_gb"), "GB"), by=", ") or "-"),
        ("Storage", _quantity(system.get("storage", {}).get("gb"), "GB") or "-"),
        ("Network", _network(system) or "-"),
    ]


def build(systems: list[dict]) -> bytes:
    """The PDF. A page that holds too much is drawn smaller."""
    scales: dict[str, float] = {}
    while True:
        try:
            return _build(systems, scales)
        except TooLong as error:
            scales[error.page] = scales.get(error.page, 1) - 0.05
            if scales[error.page] < SMALLEST:
                raise


def _build(systems: list[dict], scales: dict[str, float]) -> bytes:
    from fpdf import FPDF

    pdf = FPDF(format="A4", unit="mm")
    pdf.set_compression(False)  # compressed, it would depend on the zlib at hand
    pdf.set_creation_date(CREATED)
    pdf.set_title("Systems under test")
    pdf.set_lang("en")
    pdf.set_auto_page_break(False)
    pdf.c_margin = 0
    groups = _groups(systems)
    pages = len(groups) + len(systems)
    links = {system["system"]["name"]: pdf.add_link(page=len(groups) + place) for place, system in enumerate(systems, 1)}
    for group in groups:
        _comparison_page(pdf, group, links, scales.get("the comparison", 1))
        _footer(pdf, f"{len(systems)} systems, a page each", pages)
    for system in systems:
        _system_page(pdf, system, scales.get(system["system"]["name"], 1))
        _footer(pdf, f"{system['system']['name']}.toml", pages)
    return bytes(pdf.output())


def _groups(systems: list[dict]) -> list[list[dict]]:
    """The systems of each page of the comparison: those that lines join are on the same one, where it has room for them."""
    pairs = _pairs(systems)
    families: list[list[dict]] = []
    for system in systems:
        name = system["system"]["name"]
        near = [family for family in families if any(frozenset((name, other["system"]["name"])) in pairs for other in family)]
        if near:
            near[0] += [member for family in near[1:] for member in family] + [system]
            families = [family for family in families if family not in near[1:]]
        else:
            families.append([system])
    groups: list[list[dict]] = []
    for family in families:
        for start in range(0, len(family), SYSTEMS_A_PAGE):
            part = family[start : start + SYSTEMS_A_PAGE]
            if groups and len(groups[-1]) + len(part) <= SYSTEMS_A_PAGE:
                groups[-1] += part
            else:
                groups.append(part)
    return groups


def _comparison_page(pdf: FPDF, systems: list[dict], links: dict[str, int], scale: float) -> None:
    pdf.add_page()
    pdf.start_section("Comparison")
    _title(pdf, "Systems under test", "Comparison", "A line joins two systems that can be compared, and says on what.")
    names = [system["system"]["name"] for system in systems]
    width = (RIGHT - LEFT - NAMES_WIDTH) / len(systems)
    lefts = [LEFT + NAMES_WIDTH + width * index for index in range(len(systems))]

    y = pdf.get_y() + 6
    for name, x in zip(names, lefts):
        _fitting_font(pdf, name, width - 3, 11, 4, bold=True)
        pdf.set_xy(x, y)
        pdf.cell(width - 3, 6, name, link=links[name])
    y += 8
    for ends, on in _pairs(systems).items():
        a, b = sorted(names.index(name) for name in ends)
        _joint(pdf, lefts[a] + 1, lefts[b] + 1, y + 2, on)
        y += LINE
    y += 2
    _rule(pdf, y, 0.5, BLACK)
    y += GAP

    for cells in zip(*(comparison(system) for system in systems)):
        _font(pdf, 8.5 * scale, bold=True)
        bottom = _text(pdf, LEFT, y, NAMES_WIDTH - 2, cells[0][0], 4.4 * scale)
        _font(pdf, 8.5 * scale)
        for (_, value), x in zip(cells, lefts):
            bottom = max(bottom, _text(pdf, x, y, width - 3, value, 4.4 * scale))
        y = bottom + 2.2 * scale
        _rule(pdf, y, 0.15, RULE)
        y += 2.2 * scale
    sources = dict.fromkeys(system["price"]["source"] for system in systems if "source" in system.get("price", {}))
    notes = [("Prices", source) for source in sources]
    notes += [(system["system"]["name"], note) for system in systems for note in system.get("notes", [])]
    _notes(pdf, notes, y, "the comparison", scale)


def _system_page(pdf: FPDF, system: dict, scale: float) -> None:
    name = system["system"]["name"]
    pdf.add_page()
    pdf.start_section(name)
    _title(pdf, name, "System under test", headline(system))
    y = pdf.get_y() + 6
    for section, rows in facts(system).items():
        _font(pdf, 10 * scale, bold=True)
        _text(pdf, LEFT, y, LABEL - LEFT, section, LINE * scale)
        for label, value in rows:
            _font(pdf, 10 * scale, grey=DARK)
            _text(pdf, LABEL, y, VALUE - LABEL, label, LINE * scale)
            _font(pdf, 10 * scale)
            y = _text(pdf, VALUE, y, RIGHT - VALUE, value, LINE * scale)
        _rule(pdf, y + GAP * scale / 2, 0.15, RULE)
        y += GAP * scale
    _notes(pdf, [("Note", note) for note in system.get("notes", [])], y, name, scale)


def _title(pdf: FPDF, title: str, kicker: str, line: str) -> None:
    """Title, what it is of, and one line under it; leaves y below them."""
    _font(pdf, 8.5, bold=True)
    pdf.set_xy(LEFT, TOP - 4)
    pdf.set_char_spacing(1.2)
    pdf.cell(0, 4, kicker.upper())
    pdf.set_char_spacing(0)
    _fitting_font(pdf, title, RIGHT - LEFT, 28, 7, bold=True)
    pdf.set_xy(LEFT, TOP + 2)
    pdf.cell(0, 11, title)
    _fitting_font(pdf, line, RIGHT - LEFT, 10.5, 7)
    pdf.set_xy(LEFT, TOP + 16)
    pdf.cell(0, 5, line)
    _rule(pdf, TOP + 24, 0.8, BLACK)
    pdf.set_y(TOP + 24)


def _joint(pdf: FPDF, a: float, b: float, y: float, label: str) -> None:
    """A line from a to b with a dot at either end and a label on it."""
    pdf.set_draw_color(BLACK)
    pdf.set_fill_color(BLACK)
    pdf.set_line_width(0.35)
    pdf.line(a, y, b, y)
    for x in (a, b):
        pdf.circle(x, y, 0.9, style="F")
    _font(pdf, 8, bold=True)
    width = pdf.get_string_width(label) + 3
    pdf.set_fill_color(255)
    pdf.set_xy((a + b - width) / 2, y - 2)
    pdf.cell(width, 4, label, align="C", fill=True)


def _notes(pdf: FPDF, notes: list[tuple[str, str]], above: float, page: str, scale: float) -> None:
    """Footnotes, as (of what, text), at the bottom. Raises TooLong where they run into what is above them."""
    x, height = LEFT + NAMES_WIDTH, 4.4 * scale
    _font(pdf, 9 * scale)
    lines = sum(len(pdf.multi_cell(RIGHT - x, height, text, align="L", dry_run=True, output="LINES")) for _, text in notes)
    y = FOOT - 4 - lines * height
    if above > y:
        raise TooLong(page)
    for name, text in notes:
        _font(pdf, 9 * scale, bold=True)
        _text(pdf, LEFT, y, NAMES_WIDTH - 2, name, height)
        _font(pdf, 9 * scale)
        y = _text(pdf, x, y, RIGHT - x, text, height)


def _footer(pdf: FPDF, text: str, pages: int) -> None:
    _rule(pdf, FOOT, 0.15, RULE)
    _font(pdf, 8.5, grey=DARK)
    pdf.set_xy(LEFT, FOOT + 2)
    pdf.cell(RIGHT - LEFT, 4, text)
    pdf.set_xy(LEFT, FOOT + 2)
    pdf.cell(RIGHT - LEFT, 4, f"{pdf.page} / {pages}", align="R")


def _text(pdf: FPDF, x: float, y: float, width: float, text: str, height: float = LINE) -> float:
    """Write text at (x, y), broken into lines of `width`; return y below it."""
    pdf.set_xy(x, y)
    pdf.multi_cell(width, height, text, align="L", new_x="LMARGIN", new_y="NEXT")
    return pdf.get_y()


def _rule(pdf: FPDF, y: float, weight: float, grey: int) -> None:
    pdf.set_draw_color(grey)
    pdf.set_line_width(weight)
    pdf.line(LEFT, y, RIGHT, y)


def _font(pdf: FPDF, size: float, bold: bool = False, grey: int = BLACK) -> None:
    pdf.set_font("Helvetica", "B" if bold else "", size)
    pdf.set_text_color(grey)


def _fitting_font(pdf: FPDF, text: str, width: float, size: float, least: float, bold: bool = False) -> None:
    """The largest font up to `size` in which the text is no wider than `width`, but none under `least`."""
    _font(pdf, size, bold)
    while pdf.get_string_width(text) > width and size > least:
        size -= 0.25
        _font(pdf, size, bold)


def _pairs(systems: list[dict]) -> dict[frozenset[str], str]:
    """What any two of these systems are compared on."""
    names = {system["system"]["name"] for system in systems}
    pairs: dict[frozenset[str], str] = {}
    for system in systems:
        for pair in system["system"].get("comparable_to", []):
            if pair["name"] in names:
                pairs[frozenset((system["system"]["name"], pair["name"]))] = pair["on"]
    return pairs


def _network(system: dict) -> str:
    adapters = system.get("network", {}).get("adapters", [])
    return "\n".join(_device(adapter, "gbit_per_s", "Gbit/s") for adapter in adapters)


def _gpu(gpu: dict) -> str:
    return _joined(_count(gpu), gpu.get("name"))


def _device(device: dict, quantity: str, unit: str) -> str:
    return _joined(_joined(_count(device), device["model"]), _quantity(device.get(quantity), unit), by=", ")


def _count(device: dict) -> str | None:
    return f"{device['count']} ×" if "count" in device else None


def _capacity(gb: float) -> str:
    return _quantity(f"{gb / 1024:g}", "TB") if gb >= 1024 else _quantity(f"{gb:g}", "GB")


def _quantity(value: Any, unit: str = "") -> str:
    return "" if value is None else f"{value}\N{NO-BREAK SPACE}{unit}".strip()


def _joined(*parts: str | None, by: str = " ") -> str:
    return by.join(part for part in parts if part)


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError(f"{text} is not a quantity")
    return value


def file_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} does not name a file: use letters, digits and . _ + -")
    return text


def _captured(folder: Path, name: str | None) -> tuple[Path, str]:
    """The file this machine is described in, and what it is to hold. Says what is missing from it, and what stays in it."""
    facts = capture.facts()
    name = name or capture.name(facts)
    path = folder / f"{name}.toml"
    old = None
    if path.exists():
        if "captured" not in read(path)["system"]:
            raise cli.UserError(
                f"{path} was made by hand (no system.captured) and is not overwritten: choose another name (--name)"
            )
        old = path.read_text(encoding="utf-8")
    text, kept = capture.toml(facts, name, date.today(), old)
    missing = [fact for fact in capture.unknown(facts) if fact not in kept]
    required = (f"{table}.{key}" for table in SCHEMA["required"] for key in SCHEMA["properties"][table]["required"])
    if untold := [fact for fact in required if fact in missing]:
        raise cli.UserError(f"this machine does not tell its {', '.join(untold)}: write {path} by hand, and use --no_capture")
    if kept:
        print(f"Kept: {', '.join(kept)}")
    if missing := [fact for fact in missing if not fact.startswith(("gpu", "software."))]:  # those it just does not have
        root = " (the memory's modules are told to root, by dmidecode or lshw)" if "memory.module" in missing else ""
        print(f"Not told by this machine: {', '.join(missing)}{root}")
    return path, text


def _write(path: Path, content: bytes, option: str) -> None:
    try:
        files.write_whole(path, content, overwrite=True)
    except OSError as error:
        raise cli.UserError(f"cannot write {path}: {error.strerror} ({option})") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--no_capture", action="store_true", help="build the PDF only")
    parser.add_argument("--name", type=file_name, help="what to call this machine, its file too (default: the EC2 instance type, "
                        "else the product's name, else the host name)")  # fmt: skip
    parser.add_argument("--sut_dir", type=Path, default=ROOT / "sut", help="folder with one TOML a system")
    parser.add_argument("--output", type=Path, default=ROOT / "SUT.pdf", help="the PDF to write")
    args = parser.parse_args()
    if args.no_capture and args.name:
        parser.error("--name is for capturing, which --no_capture leaves out")
    texts = {} if args.no_capture else dict([_captured(args.sut_dir, args.name)])
    systems = read_all(args.sut_dir, texts)
    content = build(systems)
    for path, text in texts.items():
        _write(path, text.encode(), "--sut_dir, --name")
        print(f"{path}: this machine")
    _write(args.output, content, "--output")
    print(f"{args.output}: {len(systems)} systems")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
