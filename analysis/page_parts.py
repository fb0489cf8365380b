"""What a page is made of: sections with charts, which page.js draws, and tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.text import Table


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
    rows: list[Row] = field(default_factory=list)
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
