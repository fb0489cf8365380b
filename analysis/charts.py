"""The report's charts, drawn by matplotlib for a light or a dark page.

Sides differ in marker and order as well as in colour.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from analysis.pricing import BreakEven
from analysis.records import Run, series
from analysis.report import Report

COLOURS = {
    "light": ("#0b5cad", "#b3450a", "#1b7837", "#762a83", "#5a5a5a"),
    "dark": ("#7ab8ff", "#ffb27a", "#8fd19e", "#d3a4e8", "#c0c0c0"),
}
INK = {"light": "#1a1a1a", "dark": "#ececec"}
MARKERS = "osD^v"
MAX_LABEL = 60  # characters
Options = dict[str, Any]  # of matplotlib
Colours = tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """A drawing and what it says in words."""

    title: str
    alt: str
    draw: Callable[[Axes, Colours], None]
    height: float = 3.4  # inches, as the width
    width: float = 7.2

    def render(self, theme: str, form: str) -> bytes:
        """As "svg" or "png", on a transparent ground."""
        ink = "text.color axes.labelcolor axes.edgecolor xtick.color ytick.color".split()
        ink += [f"boxplot.{part}props.color" for part in ("box", "whisker", "cap", "median")]
        settings = dict.fromkeys(ink, INK[theme]) | {
            **{"svg.fonttype": "none", "svg.hashsalt": "chart", "legend.facecolor": "none"},
            **{"legend.edgecolor": "none", "font.family": "sans-serif", "font.size": 10},
            **{"axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False},
        }
        with matplotlib.rc_context(settings):
            figure, axes = pyplot.subplots(figsize=(self.width, self.height), layout="constrained")
            try:
                self.draw(axes, COLOURS[theme])
                buffer = io.BytesIO()
                options = {"metadata": {"Date": None}} if form == "svg" else {"dpi": 200}
                figure.savefig(buffer, format=form, transparent=True, **options)
                return buffer.getvalue()
            finally:
                pyplot.close(figure)


def drawn(report: Report) -> list[Chart]:
    """The charts of all there is something to draw for."""
    found = [*_ratios(report), *_per_dollar(report), *_durations(report), *_curves(report)]
    for work in report.leading_costs:
        label = f"Cost over time: {work.label}, {work.unit}"
        found += [_cost_over_time(label, even) for even in work.break_evens]
    return found


def _ratios(report: Report) -> Iterator[Chart]:
    """Performance over the baseline's, turned so that more is better, with its interval."""
    rows = []
    for c in report.comparisons:
        r = c.ratios.get(c.primary)
        if r and r.ratio:
            values = [r.ratio, *(r.ci95 or ())]
            turned = [1 / value for value in values] if r.better == "lower" else values
            rows.append((f"{c.side}: {c.label}", turned[0], sorted(turned[1:])))
    rows = rows[:25]

    def draw(axes: Axes, colours: Colours) -> None:
        for y, (_, value, ci95) in enumerate(reversed(rows)):
            bar: Options = {"linewidth": 3, "alpha": 0.5, "solid_capstyle": "butt"}
            axes.plot(ci95, [y] * len(ci95), color=colours[0], **bar)
            axes.plot(value, y, "o", color=colours[0], markersize=8)
            above: Options = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{value:.2f}", (value, y), fontsize=9, **above)
        axes.axvline(1, color=matplotlib.rcParams["text.color"], linewidth=1)
        axes.set_yticks(range(len(rows)), [_short(label) for label, _, _ in reversed(rows)])
        edges = [1.0, *(edge for _, value, ci95 in rows for edge in (value, *ci95))]
        margin = 0.1 * (max(edges) - min(edges) + 0.1)
        axes.set(ylim=(-0.6, len(rows) - 0.2), xlim=(min(edges) - margin, max(edges) + margin))
        axes.set_xlabel(f"times {_short(report.baseline)} (1 = the same; further right is better)")

    if rows:
        words = "; ".join(
            f"{label}: {value:.2f}" + (", 95 % CI {:.2f} to {:.2f}".format(*ci95) if ci95 else "")
            for label, value, ci95 in rows
        )
        alt = f"Performance as a multiple of {report.baseline}. {words}"
        yield Chart("Performance", alt, draw, 1.3 + 0.5 * len(rows))


def _per_dollar(report: Report) -> Iterator[Chart]:
    rows = [
        (work.unit, each.side, each.usd.value)
        for work in report.leading_costs
        for each in work.alternatives
        if each.usd.value
    ]
    rows = list(dict.fromkeys(rows))[:20]

    def draw(axes: Axes, colours: Colours) -> None:
        for y, (unit, side, usd) in enumerate(reversed(rows)):
            share = min(other for name, _, other in rows if name == unit) / usd
            axes.barh(y, share, color=_colour(report, side, colours), height=0.6)
            label = f" {usd:,.3g} USD" if usd < 1000 else f" {usd:,.0f} USD"
            axes.annotate(label, (share, y), va="center", fontsize=9)
        labels = [_short(f"{side}: {unit}") for unit, side, _ in reversed(rows)]
        axes.set_yticks(range(len(rows)), labels)
        axes.set(
            xlim=(0, 1.25), xlabel="work for a dollar (1 = the most); at the bars: USD per unit"
        )

    if rows:
        words = "; ".join(f"{side}: {usd:.4g} USD for {unit}" for unit, side, usd in rows)
        alt = f"Work for a dollar. {words}"
        yield Chart("Performance per dollar", alt, draw, 1.2 + 0.45 * len(rows))


def _durations(report: Report) -> Iterator[Chart]:
    """Of each work that several sides did, the time with the most samples."""
    works: dict[str, list[Run]] = defaultdict(list)
    for run in report.runs:
        works[run.label].append(run)
    for label in report.leading:
        runs = works[label]
        if not runs:  # each side at its best of several works
            continue
        common = set.intersection(*(set(run.durations) for run in runs))
        names = [n for n in runs[0].metrics if n in common and runs[0].metrics[n].better == "lower"]
        if names and len({run.side for run in runs}) > 1:
            name = max(names, key=lambda name: sum(run.metrics[name].n for run in runs))
            yield _distribution(report, f"{label}: time", name, runs)


def _distribution(report: Report, title: str, name: str, runs: list[Run]) -> Chart:
    """One box per side: median, quartiles, whiskers from the 5th to the 95th percentile."""
    samples = {
        side: np.concatenate(parts)
        for side in report.sides
        if (parts := [run.durations[name] for run in runs if run.side == side])
    }
    axis = f"{runs[0].metrics[name].label}, seconds"

    def draw(axes: Axes, colours: Colours) -> None:
        axes.set_xlabel(_short(axis))
        for y, (side, values) in enumerate(reversed(samples.items())):
            form: Options = {"positions": [y], "orientation": "horizontal"}
            form |= {"tick_labels": [_short(side)]}
            shown: Options = {
                "widths": 0.5,
                "whis": (5, 95),
                "showfliers": False,
                "patch_artist": True,
            }
            box = {"facecolor": (_colour(report, side, colours), 0.55)}
            axes.boxplot([values], boxprops=box, medianprops={"linewidth": 2}, **form, **shown)
        axes.set_xlim(0, None)

    words = "; ".join(f"{side}: median {np.median(each):.4g}" for side, each in samples.items())
    return Chart(title, f"{title}: {axis}. {words}", draw, 1.1 + 0.5 * len(samples))


def _curves(report: Report) -> Iterator[Chart]:
    """The primary metric over every number that was varied; the same points are drawn once."""
    seen = []
    for across, group in series(report.runs):
        values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for x, run in group:
            values[run.side][x].append(run.result.median)
        lines = {
            side: [(x, median(values[side][x])) for x in sorted(values[side])]
            for side in report.sides
            if side in values
        }
        if max(map(len, lines.values())) > 1 and (group[0][1].workload, lines) not in seen:
            seen.append((group[0][1].workload, lines))
            yield _curve(report, across, group[0][1], lines)


def _curve(
    report: Report, across: str, run: Run, lines: dict[str, list[tuple[float, float]]]
) -> Chart:
    axis = f"{run.result.label}, {run.result.unit}"

    def draw(axes: Axes, colours: Colours) -> None:
        for side, points in lines.items():
            marker = MARKERS[list(report.sides).index(side) % len(MARKERS)]
            colour = _colour(report, side, colours)
            axes.plot(*zip(*points), marker=marker, color=colour, label=_short(side))
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xscale("log" if ticks[0] > 0 else "linear")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set(xlabel=_short(across), ylabel=_short(axis), ylim=(0, None))
        axes.legend()

    words = "; ".join(
        f"{side}: " + ", ".join(f"{y:.4g} at {x:g}" for x, y in points)
        for side, points in lines.items()
    )
    return Chart(f"{run.title} over {across}", f"{axis} over {across}. {words}", draw)


def _cost_over_time(title: str, even: BreakEven) -> Chart:
    """What owning and renting have cost by each month, with 90 % ranges, and where they meet."""

    def draw(axes: Axes, colours: Colours) -> None:
        for curve, colour, style in zip(even.curves, colours, ("-", "--")):
            months = range(len(curve.usd))
            axes.plot(months, curve.usd, style, color=colour, label=_short(curve.name))
            axes.fill_between(months, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        if even.month:
            at = even.month.value, even.curves[0].usd[int(even.month.value)]
            axes.plot(*at, "o", color=matplotlib.rcParams["text.color"])
            beside: Options = {"xytext": (-6, 8), "textcoords": "offset points", "ha": "right"}
            axes.annotate(f"month {at[0]:.0f}", at, **beside)
        last = len(even.curves[0].usd) - 1
        axes.set(xlabel="months", ylabel="USD, present value", ylim=(0, None), xlim=(0, last))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.legend()

    meets = f"owning has cost less from month {even.month.value:.0f} on" if even.month else ""
    words = meets or f"within {len(even.curves[0].usd) - 1} months owning does not cost less"
    both = " and of ".join(curve.name for curve in even.curves)
    return Chart(title, f"Cost of {both}: {words}", draw)


def _short(label: str) -> str:
    """A label that fits; one that begins with an underscore would be left out of a legend."""
    label = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"
    return f" {label}" if label.startswith("_") else label


def _colour(report: Report, side: str, colours: Colours) -> str:
    return colours[list(report.sides).index(side) % len(colours)]
