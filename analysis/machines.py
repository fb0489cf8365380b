"""Several machines of one kind on one side, e.g. fresh instances of a cloud type.

What differs between machines can't be seen within one, however many runs it has: a machine with
all its runs is then one observation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import ratio
from analysis.records import Run
from analysis.text import amount

REACHED = 0.95  # of such machines


@dataclass(frozen=True)
class Spread:
    """How several machines of one kind differ in a metric."""

    machines: int
    between: float  # standard deviation between machines, without that of their runs, as a share
    within: float  # between runs of one machine, as a share
    reached: float  # by another machine of the kind, with a probability of REACHED


def by_host(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each machine. Where each has one run only, all are taken for one machine's: a
    container may have another host name each time."""
    hosts: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        hosts[run.host].append(run)
    return dict(hosts) if len(hosts) < len(runs) else {"": list(runs)}


def observations(runs: Sequence[Run], metric: str) -> list[float]:
    """One per machine where there are several, the geometric mean of its runs; else one per run."""
    hosts = by_host(runs)
    if len(hosts) == 1:
        return [run.metrics[metric].median for run in runs]
    return [ratio.mean([run.metrics[metric].median for run in each]) for each in hosts.values()]


def counted(runs: Sequence[Run]) -> tuple[int, str]:
    """(number of observations, what one is: "run" or "machine")."""
    hosts = by_host(runs)
    return (len(runs), "run") if len(hosts) == 1 else (len(hosts), "machine")


def spread(runs: Sequence[Run]) -> Spread | None:
    """Of the primary metric; None with one machine, or a run of 0.

    The variance between machines is that of their means less what their runs bring into it (one-way
    analysis of variance). `reached` is a one-sided prediction bound for one machine more: Student's
    t on the logarithms of the machines' means (Hahn and Meeker, Statistical Intervals, 1991).
    """
    hosts = [[run.result.median for run in each] for each in by_host(runs).values()]
    if len(hosts) < 2 or min(map(min, hosts)) <= 0:
        return None
    logs = [np.log(each) for each in hosts]
    means = np.array([each.mean() for each in logs])
    degrees = sum(map(len, logs)) - len(logs)
    within = sum(float(((each - each.mean()) ** 2).sum()) for each in logs) / degrees
    share = sum(1 / len(each) for each in logs) / len(logs)  # of it in the variance of the means
    between = max(0.0, float(means.var(ddof=1)) - within * share)
    bound = ratio.t_quantile(REACHED, len(means) - 1) * float(means.std(ddof=1))
    bound *= math.sqrt(1 + 1 / len(means))
    sign = -1 if runs[0].result.better == "higher" else 1
    reached = math.exp(float(means.mean()) + sign * bound)
    return Spread(len(means), math.sqrt(between), math.sqrt(within), reached)


def sentence(runs: Sequence[Run]) -> str | None:
    """How the machines of a side differ, for a note; None with one machine."""
    found = spread(runs)
    if found is None:
        return None
    result = runs[0].result
    most = "at least" if result.better == "higher" else "at most"
    return (
        f"{found.machines} machines, each one observation: they differ by {found.between:.1%}, "
        f"runs of one by {found.within:.1%}; {REACHED:.0%} of such machines reach {most} "
        f"{amount(found.reached, result.unit)}"
    )
