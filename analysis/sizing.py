"""How many whole machines a demand takes, from what one machine sustained.

A capacity record says how many live streams (users, cameras, calls) one machine sustained within
its limits, and, measured with --beside, how many beside another workload. docs/sizing.md has the
rules. A plan is an assignment of every stream to a machine that was measured to carry as many, so
it can't be too small for these capacities.

Numbers may be floats or NumPy arrays (n samples each), which are then planned one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from analysis.records import Run

Number = float | np.ndarray
BILLING = ("always_on", "active_hours", "scale_to_zero")
PROFILES = Path(__file__).resolve().parent / "profiles.toml"


class Values(Protocol):
    """The assumptions that sizing takes: analysis.assumptions.values() or .sample()."""

    peak_factor: Number  # demand at its highest, over the demand given; 1 or more
    planning_share: Number  # of the measured capacity that is planned to be used, above 0 to 1
    interference_share: Number  # of a machine that is lost where workloads share it, unmeasured


@dataclass(frozen=True)
class Capacity:
    """The streams of one kind that one machine of a side sustained, with no other work."""

    unit: str  # "users"
    system: str  # the machine
    count: float  # streams, whole: the runs' median, rounded down
    low: float  # of its 95 % interval, whole
    high: float
    runs: int  # that it is the median of
    conditions: str  # work and limits: "prompt tokens 128, ..., max TTFT s 1, max TPOT s 0.1"
    marks: tuple[str, ...] = ()  # what every sentence about it has to say
    share: float = 1.0  # of its machine's CPUs that the runs were allowed: the price is of a part
    log_mean: float = 0.0  # of ln(streams + 1/2), over runs
    log_error: float = 0.0  # standard error of log_mean
    degrees: float = 1.0  # of freedom, of Student's t


@dataclass(frozen=True)
class Mix:
    """Streams of several kinds that one machine sustained at the same time."""

    counts: Mapping[str, float]  # whole, by unit
    runs: int
    is_limit: bool = True  # one more was not sustained; False: as many as were tried


@dataclass(frozen=True)
class Plan:
    """Machines for a demand."""

    machines: Number  # whole, `spare` among them
    spare: int
    alone: Mapping[str, Number]  # by unit: machines if it shared none; without spare
    shares: Mapping[str, Number]  # by unit: machines' worth of streams at the peak, a fraction
    at_peak: Number  # mean load at the peak of the machines that are not spare, 0 to 1
    method: str  # "one workload", "machines of their own", "measured mix of ...", "shares added ..."
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Day:
    """What of the machines a day's load keeps on and busy."""

    on_share: Number  # of machines x hours that are on, and billed where billing is by the hour
    busy_share: Number  # mean load of those that are on, 0 to 1


@dataclass(frozen=True)
class Profile:
    name: str
    label: str
    shares: tuple[float, ...]  # of the busiest hour's demand, for each of 24 hours


def from_runs(
    runs: Sequence[Run],
    allow_invalid: bool = False,
    share: bool = False,
    where: Mapping[tuple[str, str], str] | None = None,
) -> tuple[dict[str, dict[str, Capacity]], dict[str, list[Mix]], list[str]]:
    """Capacities by side and unit, mixes by side, and a line for each thing left out.

    Records of other kinds are passed over. All sides are taken at the same work, limits and
    setting (comparable_by), each at its best configuration as analysis.comparison takes it.

    Parameters
    ----------
    allow_invalid : take runs that are not valid as evidence, too; they are marked.
    share : take runs that were allowed only a part of their machine's CPUs, too.
    where : (unit, entry of the task or of what is comparable) -> value, to choose one work where
        several were measured: {("users", "max TTFT s"): "1"}.
    """
    raise NotImplementedError


def sample(capacity: Capacity, n: int, rng: np.random.Generator) -> np.ndarray:
    """[n] counts that the machine may sustain, whole, by how far the runs differ."""
    raise NotImplementedError


def machines_needed(
    demand: Mapping[str, Number],
    capacities: Mapping[str, Capacity],
    mixes: Sequence[Mix],
    v: Values,
    spare: int = 0,
    headroom: float = 0.0,
    counts: Mapping[str, Number] | None = None,
) -> Plan:
    """The machines of one side that carry a demand, workloads together or apart, whichever is less.

    Parameters
    ----------
    demand : streams by unit; those of 0 are passed over.
    capacities, mixes : of one side, as from_runs() has them.
    spare : machines more, to replace ones that fail (1: N+1).
    headroom : growth to plan for, as a share of the demand.
    counts : in place of the capacities' own, e.g. arrays by sample().

    Raises UserError where a unit was not measured on this side, or not one stream was sustained.
    """
    raise NotImplementedError


def day(
    profile: Profile,
    billing: str,
    demand: Mapping[str, Number],
    capacities: Mapping[str, Capacity],
    mixes: Sequence[Mix],
    v: Values,
    spare: int = 0,
    headroom: float = 0.0,
    counts: Mapping[str, Number] | None = None,
) -> Day:
    """How many of machines_needed()'s machines a day keeps on, and how busy these are.

    `billing` "always_on": all of them, all hours. "active_hours": all of them in the hours with
    any demand. "scale_to_zero": in each hour as many as its own demand takes, with the spare.
    """
    raise NotImplementedError


def read_profiles(path: Path | None = None) -> dict[str, Profile]:
    """By name, those of a TOML file, else the kit's. Raises UserError for a file that is wrong."""
    raise NotImplementedError
