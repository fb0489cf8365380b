"""Numbers and names as reports print them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from harness import record

# What begins a formula in a spreadsheet, full-width forms too (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# What Markdown reads as more than text: anywhere, around words, and at a line's beginning.
MARKUP = re.compile(r"[\\`*<>&|\[\]~$]|(?<!\w)_|_(?!\w)|^(?=[#+=-])|(?<=^\d)(?=[.)])")


@dataclass(frozen=True)
class Table:
    title: str
    headings: list[str]
    rows: list[list[str]]


def plain(value: Any) -> Any:
    """Text without what could steer a terminal or hide in a page: control characters, line
    breaks, changes of direction and halves of characters are written as escapes. In containers
    too; what is no text stays as it is."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(_visible, value))
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return MARKUP.sub(lambda found: f"\\{found[0]}", text)


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def as_json(value: Any) -> Any:
    """What JSON has no form for: a dataclass is an object of the fields that its repr has."""
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value) if each.repr}
    return value.tolist() if hasattr(value, "tolist") else str(value)


def number(value: float | None) -> str:
    """A sum or a rate: '1,234.50', '0.0123', or 'unknown'."""
    if value is None:
        return "unknown"
    return f"{value:,.2f}" if 10 <= abs(value) < 1e9 else f"{value:.3g}"


def amount(value: float, unit: str) -> str:
    """A metric's value with its unit; shares in percent, bytes in GiB."""
    if unit == "bytes" or record.is_share(unit):
        return record.amount(value, unit)
    is_count = unit.isalpha() and len(unit) > 1 and float(value).is_integer()  # users, cameras
    return f"{value:,.0f} {unit}" if is_count else f"{number(value)} {unit}"


def interval(ci95: tuple[float, float] | None) -> str:
    return "–" if ci95 is None else "{:.4g}–{:.4g}".format(*ci95)


def times(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.3f}"


def times_interval(ci95: tuple[float, float] | None) -> str:
    return "–" if ci95 is None else f"{times(ci95[0])}–{times(ci95[1])}"


def inline(label: str) -> str:
    """A label inside a sentence: 'throughput', but 'RTFx'."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


def in_words(names: Sequence[str]) -> str:
    """'a, b and c', of one or more."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
