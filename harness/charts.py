"""The report's charts, drawn by matplotlib for a light or a dark page. Sides differ in marker and order as well as in colour."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {
    "light": ("#0b5cad", "#b3450a", "#1b7837", "#762a83", "#5a5a5a"),
    "dark": ("#7ab8ff", "#ffb27a", "#8fd19e", "#d3a4e8", "#c0c0c0"),
}
INK = {"light": "#1a1a1a", "dark": "#ececec"}
MARKERS = "osD^v"


@dataclass(frozen=True)
class Chart:
    """A drawing and what it says in words."""

    title: str
    alt: str
    draw: object  # axes, colours -> None
    size: tuple[float, float] = (7.2, 3.4)  # inches

    def render(self, theme: str, form: str) -> bytes:
        """As "svg" or "png", on a transparent ground."""
        settings = {
            "svg.fonttype": "none", "svg.hashsalt": "chart", "font.family": "sans-serif", "font.size": 10, "text.color": INK[theme],
            "axes.labelcolor": INK[theme], "axes.edgecolor": INK[theme], "xtick.color": INK[theme], "ytick.color": INK[theme],
            "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        }  # fmt: skip
        with matplotlib.rc_context(settings), _figure(self.size) as (figure, axes):
            self.draw(axes, COLOURS[theme])
            buffer = io.BytesIO()
            how = {"metadata": {"Date": None}} if form == "svg" else {"dpi": 200}
            figure.savefig(buffer, format=form, transparent=True, **how)
            return buffer.getvalue()


@contextmanager
def _figure(size):
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    try:
        yield figure, axes
    finally:
        pyplot.close(figure)


def colour(sides: list[str], side: str, colours: tuple[str, ...]) -> str:
    return colours[sides.index(side) % len(colours)]


def ratios(rows: list[tuple[str, float, float | None, float | None]], baseline: str) -> Chart:
    """Performance against the baseline; rows of (label, ratio turned so that above 1 is better, low, high)."""

    def draw(axes, colours):
        for y, (label, value, low, high) in enumerate(reversed(rows)):
            if low is not None:
                axes.plot([low, high], [y, y], color=colours[0], linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.plot(value, y, "o", color=colours[0], markersize=8)
            axes.annotate(f"{value:.2f}", (value, y), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9)
        axes.axvline(1, color=axes.xaxis.label.get_color(), linewidth=1)
        axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.2)
        edges = [1.0, *(edge for row in rows for edge in row[1:] if edge is not None)]
        axes.set_xlim(min(edges) - 0.1 * (max(edges) - min(edges) + 0.1), max(edges) + 0.1 * (max(edges) - min(edges) + 0.1))
        axes.set_xlabel(f"times {baseline} (1 = the same; further right is better)")

    words = "; ".join(
        f"{label}: {value:.2f}" + (f", 95 % CI {low:.2f} to {high:.2f}" if low is not None else "")
        for label, value, low, high in rows
    )
    return Chart("Performance", f"Performance as a multiple of {baseline}. {words}", draw, (7.2, 1.3 + 0.5 * len(rows)))


def per_dollar(rows: list[tuple[str, str, float]], sides: list[str]) -> Chart:
    """Work for a dollar; rows of (unit of work, side, USD per unit)."""

    def draw(axes, colours):
        best = {unit: min(usd for u, _, usd in rows if u == unit) for unit, _, _ in rows}
        for y, (unit, side, usd) in enumerate(reversed(rows)):
            axes.barh(y, best[unit] / usd, color=colour(sides, side, colours), height=0.6)
            axes.annotate(
                f" {usd:,.3g} USD" if usd < 1000 else f" {usd:,.0f} USD", (best[unit] / usd, y), va="center", fontsize=9
            )
        axes.set_yticks(range(len(rows)), [f"{side}: {unit}" for unit, side, _ in reversed(rows)])
        axes.set_xlim(0, 1.25)
        axes.set_xlabel("work for a dollar (1 = the most); at the bars: USD per unit")

    words = "; ".join(f"{side}: {usd:.4g} USD for {unit}" for unit, side, usd in rows)
    return Chart("Performance per dollar", f"Work for a dollar. {words}", draw, (7.2, 1.2 + 0.45 * len(rows)))


def latencies(title: str, axis: str, samples: dict[str, list[float]], sides: list[str]) -> Chart:
    """Distributions, a box a side: median, quartiles, whiskers from the 5th to the 95th percentile."""

    def draw(axes, colours):
        shown = [side for side in reversed(sides) if side in samples]
        boxes = axes.boxplot([samples[side] for side in shown], orientation="horizontal", whis=(5, 95), patch_artist=True, widths=0.5,
                             showfliers=False, medianprops={"color": axes.xaxis.label.get_color(), "linewidth": 2})  # fmt: skip
        for side, box in zip(shown, boxes["boxes"]):
            box.set(facecolor=colour(sides, side, colours), alpha=0.55, edgecolor=axes.xaxis.label.get_color())
        for line in boxes["whiskers"] + boxes["caps"]:
            line.set_color(axes.xaxis.label.get_color())
        axes.set_yticks(range(1, len(shown) + 1), shown)
        axes.set_xlim(0, None)
        axes.set_xlabel(axis)

    middle = {side: sorted(values)[len(values) // 2] for side, values in samples.items()}
    words = "; ".join(f"{side}: median {value:.4g}" for side, value in middle.items())
    return Chart(title, f"{title}: {axis}. {words}", draw, (7.2, 1.1 + 0.5 * len(samples)))


def curves(title: str, across: str, axis: str, lines: dict[str, list[tuple[float, float]]], sides: list[str]) -> Chart:
    """A line a side, over threads or concurrency."""

    def draw(axes, colours):
        for side, points in lines.items():
            axes.plot(
                *zip(*sorted(points)),
                marker=MARKERS[sides.index(side) % len(MARKERS)],
                color=colour(sides, side, colours),
                label=side,
            )
        axes.set_xscale("log")
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set(xlabel=across, ylabel=axis, ylim=(0, None))
        axes.legend()

    words = "; ".join(f"{side}: " + ", ".join(f"{y:.4g} at {x:g}" for x, y in sorted(points)) for side, points in lines.items())
    return Chart(title, f"{axis} over {across}. {words}", draw)


def cost_over_time(label: str, owned: str, rented: str, points: list[list[float]], month: int | None) -> Chart:
    """What owning and renting have cost by each month, and where the lines meet."""

    def draw(axes, colours):
        months, owning, renting = zip(*points)
        axes.plot(months, owning, color=colours[0], label=f"owning {owned}")
        axes.plot(months, renting, color=colours[1], linestyle="--", label=f"renting {rented} for the same work")
        if month is not None:
            at = renting[month]
            axes.plot(month, at, "o", color=axes.xaxis.label.get_color())
            axes.annotate(f"month {month}", (month, at), xytext=(-6, 8), textcoords="offset points", ha="right")
        axes.set(xlabel="months", ylabel="USD spent", ylim=(0, None), xlim=(0, months[-1]))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.legend()

    meets = (
        f"owning has cost less from month {month} on"
        if month is not None
        else f"within {points[-1][0]:g} months owning does not cost less"
    )
    return Chart(f"Cost over time: {label}", f"Cost of owning {owned} and of renting {rented}: {meets}", draw)
