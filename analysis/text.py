"""Numbers and names as reports print them."""

from __future__ import annotations

from harness import record


def number(value: float | None) -> str:
    """A sum or a rate: '1,234.50', '0.0123', or 'unknown'."""
    if value is None:
        return "unknown"
    return f"{value:,.2f}" if 10 <= abs(value) < 1e9 else f"{value:.3g}"


def amount(value: float, unit: str) -> str:
    """A metric's value with its unit; shares in percent, bytes in GiB."""
    if unit == "bytes" or record.is_share(unit):
        return record.amount(value, unit)
    return f"{number(value)} {unit}"


def interval(ci95: tuple[float, float] | None) -> str:
    return "–" if ci95 is None else "{:.4g}–{:.4g}".format(*ci95)


def times(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.3f}"


def times_interval(ci95: tuple[float, float] | None) -> str:
    return "–" if ci95 is None else f"{times(ci95[0])}–{times(ci95[1])}"


def inline(label: str) -> str:
    """A label inside a sentence: 'throughput', but 'RTFx'."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label
