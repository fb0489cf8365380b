"""The report's charts, drawn by matplotlib for a light or a dark page.

Sides differ in marker and order as well as in colour.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

COLOURS = {
    "light": ("#0b5cad", "#b3450a", "#1b7837", "#762a83", "#5a5a5a"),
    "dark": ("#7ab8ff", "#ffb27a", "#8fd19e", "#d3a4e8", "#c0c0c0"),
}
INK = {"light": "#1a1a1a", "dark": "#ececec"}
MARKERS = "osD^v"

Colours = tuple[str, ...]
Interval = tuple[float, float] | None
Line = list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A drawing and what it says in words."""

    title: str
    alt: str
    draw: Callable[[Axes, Colours], None]
    size: tuple[float, float] = (7.2, 3.4)  # inches

    def render(self, theme: str, form: str) -> bytes:
        """As "svg" or "png", on a transparent ground."""
        ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        settings = dict.fromkeys(ink, INK[theme]) | {
            **{"svg.fonttype": "none", "svg.hashsalt": "chart"},
            **{"font.family": "sans-serif", "font.size": 10, "legend.frameon": False},
            **{"axes.spines.top": False, "axes.spines.right": False},
        }
        with matplotlib.rc_context(settings):
            figure, axes = pyplot.subplots(figsize=self.size, layout="constrained")
            try:
                self.draw(axes, COLOURS[theme])
                buffer = io.BytesIO()
                options = {"metadata": {"Date": None}} if form == "svg" else {"dpi": 200}
                figure.savefig(buffer, format=form, transparent=True, **options)
                return buffer.getvalue()
            finally:
                pyplot.close(figure)


def _colour(sides: Sequence[str], side: str, colours: Colours) -> str:
    return colours[sides.index(side) % len(colours)]


def _ink(axes: Axes) -> str:
    return axes.xaxis.label.get_color()


def ratios(rows: list[tuple[str, float, Interval]], baseline: str) -> Chart:
    """Performance over the baseline's; rows of (label, ratio with more being better, its CI)."""

    def draw(axes: Axes, colours: Colours) -> None:
        for y, (_, value, ci95) in enumerate(reversed(rows)):
            if ci95:
                style = {"linewidth": 3, "alpha": 0.5, "solid_capstyle": "butt"}
                axes.plot(ci95, [y, y], color=colours[0], **style)
            axes.plot(value, y, "o", color=colours[0], markersize=8)
            above = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{value:.2f}", (value, y), fontsize=9, **above)
        axes.axvline(1, color=_ink(axes), linewidth=1)
        axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
        edges = [1.0, *(edge for _, value, ci95 in rows for edge in (value, *(ci95 or ())))]
        margin = 0.1 * (max(edges) - min(edges) + 0.1)
        axes.set_ylim(-0.6, len(rows) - 0.2)
        axes.set_xlim(min(edges) - margin, max(edges) + margin)
        axes.set_xlabel(f"times {baseline} (1 = the same; further right is better)")

    words = "; ".join(
        f"{label}: {value:.2f}" + (", 95 % CI {:.2f} to {:.2f}".format(*ci95) if ci95 else "")
        for label, value, ci95 in rows
    )
    alt = f"Performance as a multiple of {baseline}. {words}"
    return Chart("Performance", alt, draw, (7.2, 1.3 + 0.5 * len(rows)))


def per_dollar(rows: list[tuple[str, str, float]], sides: Sequence[str]) -> Chart:
    """Work for a dollar; rows of (unit of work, side, USD per unit)."""

    def draw(axes: Axes, colours: Colours) -> None:
        for y, (unit, side, usd) in enumerate(reversed(rows)):
            best = min(other for name, _, other in rows if name == unit)
            axes.barh(y, best / usd, color=_colour(sides, side, colours), height=0.6)
            label = f" {usd:,.3g} USD" if usd < 1000 else f" {usd:,.0f} USD"
            axes.annotate(label, (best / usd, y), va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [f"{side}: {unit}" for unit, side, _ in reversed(rows)])
        axes.set_xlim(0, 1.25)
        axes.set_xlabel("work for a dollar (1 = the most); at the bars: USD per unit")

    words = "; ".join(f"{side}: {usd:.4g} USD for {unit}" for unit, side, usd in rows)
    size = 7.2, 1.2 + 0.45 * len(rows)
    return Chart("Performance per dollar", f"Work for a dollar. {words}", draw, size)


def distributions(
    title: str, axis: str, samples: Mapping[str, np.ndarray], sides: Sequence[str]
) -> Chart:
    """One box per side: median, quartiles, whiskers from the 5th to the 95th percentile."""
    shown = [side for side in reversed(sides) if side in samples]

    def draw(axes: Axes, colours: Colours) -> None:
        boxes = axes.boxplot(
            [samples[side] for side in shown],
            **{"orientation": "horizontal", "widths": 0.5, "patch_artist": True},
            **{"whis": (5, 95), "showfliers": False},
            medianprops={"color": _ink(axes), "linewidth": 2},
        )
        for side, box in zip(shown, boxes["boxes"]):
            box.set(facecolor=_colour(sides, side, colours), alpha=0.55, edgecolor=_ink(axes))
        for line in boxes["whiskers"] + boxes["caps"]:
            line.set_color(_ink(axes))
        axes.set_yticks(range(1, len(shown) + 1), shown)
        axes.set_xlim(0, None)
        axes.set_xlabel(axis)

    words = "; ".join(f"{side}: median {np.median(samples[side]):.4g}" for side in reversed(shown))
    return Chart(title, f"{title}: {axis}. {words}", draw, (7.2, 1.1 + 0.5 * len(shown)))


def curves(
    title: str, across: str, axis: str, lines: Mapping[str, Line], sides: Sequence[str]
) -> Chart:
    """One line per side; the points of a line in order."""

    def draw(axes: Axes, colours: Colours) -> None:
        for side, points in lines.items():
            marker = MARKERS[sides.index(side) % len(MARKERS)]
            colour = _colour(sides, side, colours)
            axes.plot(*zip(*points), marker=marker, color=colour, label=side)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xscale("log" if ticks[0] > 0 else "linear")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set(xlabel=across, ylabel=axis, ylim=(0, None))
        axes.legend()

    words = "; ".join(
        f"{side}: " + ", ".join(f"{y:.4g} at {x:g}" for x, y in points)
        for side, points in lines.items()
    )
    return Chart(title, f"{axis} over {across}. {words}", draw)


def cost_over_time(
    label: str, owned: str, rented: str, points: list[tuple[int, float, float]], month: int | None
) -> Chart:
    """What owning and renting have cost by each month, and where the lines meet."""

    def draw(axes: Axes, colours: Colours) -> None:
        months, owning, renting = zip(*points)
        axes.plot(months, owning, color=colours[0], label=f"owning {owned}")
        label = f"renting {rented} for the same work"
        axes.plot(months, renting, color=colours[1], linestyle="--", label=label)
        if month is not None:
            at = month, renting[month]
            axes.plot(*at, "o", color=_ink(axes))
            beside = {"xytext": (-6, 8), "textcoords": "offset points", "ha": "right"}
            axes.annotate(f"month {month}", at, **beside)
        axes.set(xlabel="months", ylabel="USD spent", ylim=(0, None), xlim=(0, months[-1]))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.legend()

    never = f"within {points[-1][0]} months owning does not cost less"
    meets = never if month is None else f"owning has cost less from month {month} on"
    alt = f"Cost of owning {owned} and of renting {rented}: {meets}"
    return Chart(f"Cost over time: {label}", alt, draw)
