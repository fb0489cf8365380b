"""Pictures of a run: lines over one axis, as PNG."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import cli, files

Point = tuple[float, float]
STYLES = ("o-", "s--", "^:", "D-.", "v-")


@dataclass(frozen=True)
class Panel:
    ylabel: str
    series: Mapping[str, Sequence[Point]]  # by label
    limit: tuple[str, float] | None = None  # a horizontal line: label, value
    log: bool = False  # the y axis


def lines(path: Path, panels: Sequence[Panel], xlabel: str, title: str = "") -> None:
    """Draw panels side by side, and say where. A file that can't be written is only a warning.

    Replaces what is there: whether that may be is to be checked before measuring.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (5.5 * len(panels) + 1.5, 4)
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=size, layout="constrained", squeeze=False
    )
    for panel, axis in zip(panels, axes[0]):
        for (label, points), style in zip(panel.series.items(), STYLES * len(panel.series)):
            axis.plot(*zip(*sorted(points)), style, label=label)
        if panel.limit:
            axis.axhline(panel.limit[1], color="black", linestyle=":", label=panel.limit[0])
        axis.set(xlabel=xlabel, ylabel=panel.ylabel)
        axis.set(yscale="log") if panel.log else axis.set(ylim=(0, None))
        ticks = sorted({x for points in panel.series.values() for x, _ in points})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.legend()
    figure.suptitle(title)
    picture = io.BytesIO()
    try:
        kind = path.suffix[1:] or "png"
        mark = {"Software": files.MARK} if kind == "png" else None
        figure.savefig(picture, dpi=120, format=kind, metadata=mark)
        files.write_whole(path, picture.getvalue(), overwrite=True)
    except (OSError, ValueError) as error:
        print(f"warning: cannot write {path}: {cli.one_line(error)} (--plot)", file=sys.stderr)
    else:
        print(f"Plot: {path}")
    pyplot.close(figure)
