"""Records as runs: read, typed, and named by what sets their work apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeGuard

from analysis import gates, sides
from analysis.text import plain
from harness import record
from harness.cli import UserError

Scalar = str | float | bool
Key = frozenset[tuple[str, Scalar]]
MAX_WORKS = 300  # of a side, of which the two most alike are looked for
MAX_LINE = 1000  # characters, about a file that is left out
SMALLEST = 1e-30  # nearer to 0 than that is 0, so that no ratio overflows


@dataclass(frozen=True)
class Unit:
    """What work is priced in: a rate of `metric` x 3600 / `amount` is in units per hour."""

    name: str  # in a sentence: "USD per ..."
    metric: str
    amount: float

    def per_hour(self, rate: float) -> float:
        return rate * 3600 / self.amount


@dataclass(frozen=True)
class Metric:
    """A metric of one run, as its record has it."""

    label: str
    unit: str
    better: str | None  # "higher", "lower", or None where neither is
    n: int
    median: float
    p95: float  # the maximum where there are too few samples for it
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Beside:
    """Another workload's streams, of a fixed number, that a capacity run was measured beside."""

    unit: str  # what they are: "users"
    count: float
    workload: str
    task: dict[str, Scalar]  # without its input, which the record has not
    comparable_by: dict[str, Scalar]


@dataclass(frozen=True)
class Search:
    """What a capacity record says besides the number of streams, its primary metric."""

    first_over: float | None  # the lowest number not sustained; None: as many as were tried were
    beside: Beside | None


@dataclass
class Run:
    """What a comparison needs of a record."""

    path: Path
    id: str
    finished_at: str
    machine: str
    host: str
    share_of_machine: float  # CPUs that the run was allowed, over all
    is_remote: bool  # the work was done by a server elsewhere, not by `machine`
    workload: str
    title: str
    task: dict[str, Scalar]  # runs of different tasks have nothing to compare
    comparable_by: dict[str, Scalar]  # what must be equal for a ratio to be fair
    configuration: dict[str, Scalar]  # how the machine was used
    context: dict[str, Scalar]  # what else differs, for the reader to judge
    primary: str
    work: list[Unit]
    metrics: dict[str, Metric]
    usage: dict[str, float]  # shares of what the machine has that the run took: CPU time, memory
    details: list[str]  # what it printed besides its metrics
    warnings: list[str]
    reasons: list[str]  # why it is not valid as evidence
    gate: gates.Gate | None  # of a record that measured quality
    level: str | None  # the entry of the task that is a level of load, not another work
    is_tuning: bool = False  # a record of trials (--tune): it names a layout, and is no measurement
    search: Search | None = None  # of a capacity record
    quality: gates.Gate | None = None  # what a record of quality says about this run's setting
    side: str = ""
    label: str = ""  # the title, and what sets this task apart from the others here

    @property
    def result(self) -> Metric:
        return self.metrics[self.primary]

    @property
    def score(self) -> float:
        """The primary metric's median, turned so that higher is better."""
        return -self.result.median if self.result.better == "lower" else self.result.median

    @property
    def work_key(self) -> tuple[str, Key]:
        """The same for runs of the same work."""
        return self.workload, frozenset(self.task.items())


def listed(entries: dict[str, Scalar]) -> str:
    return ", ".join(
        name if value is True else f"{name} {value}" for name, value in entries.items()
    )


def expand(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders as the *.json in them. Raises UserError for a folder without."""
    files: list[Path] = []
    for path in paths:
        try:
            found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        found = [each for each in found if each.name != "study.json"]  # a plan, no record
        if not found:
            raise UserError(f"{path}: no record (*.json) in this folder")
        files += found
    return files


def read_runs(
    paths: Iterable[Path], pool: bool = False, names: Mapping[str, str] | None = None
) -> tuple[list[Run], list[str]]:
    """The complete runs of files and folders, and one line for each file left out.

    `pool` and `names` are for sides.name_sides(). Records without a primary metric only list
    others, and are left out silently.
    """
    runs: list[Run] = []
    skipped: list[str] = []
    files = expand(paths)
    seen = set()
    for path in files:
        try:
            found = record.read(path)
        except record.RecordError as error:
            skipped.append(_one_line(str(error)))
            continue
        if found["primary"] is None:
            continue
        if found["status"] != "complete":
            skipped.append(_one_line(f"{path}: {found['status']}: {found['error']}"))
        elif found["id"] in seen:
            skipped.append(_one_line(f"{path}: the same run as another file"))
        else:
            seen.add(found["id"])
            runs.append(_run(found, path))
    sides.name_sides(runs, pool, names)
    _label(runs)
    _apply_gates(runs)
    return runs, skipped


def _one_line(text: str) -> str:
    return plain(text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…")


def _run(found: dict, path: Path) -> Run:
    machine, hostname = found["system"]["machine"], found["system"]["hostname"]
    cpus, placement = found["system"]["cpu"]["logical_cpus"], found["placement"]
    share = min(1.0, len(placement["cpus"]) / cpus) if cpus else 1.0
    metrics = {
        plain(key): Metric(
            label=plain(m["label"]),
            unit=plain(m["unit"]),
            better=m["better"],
            n=m["n"],
            median=_zeroed(m["median"]),
            p95=m.get("p95", m["max"]),
            ci95=m["ci95"],
        )
        for key, m in found["metrics"].items()
    }
    level = plain(found["output"].get("level", "concurrency"))
    same = ("id", "finished_at", "workload", "title", "primary", "warnings", "details")
    entries: tuple[str, ...] = ("task", "comparable_by", "configuration", "context")
    known = {key: plain(found[key]) for key in (*same, "work", "validity")}
    given = {key: _given(plain(found[key])) for key in entries}
    return Run(
        path=Path(plain(str(path))),
        machine=plain(machine["instance_type"] or machine["product"] or hostname) or "unnamed",
        host=plain(hostname),
        share_of_machine=placement.get("share_of_machine", share),
        is_remote=_is_elsewhere(found.get("server", {})),
        work=[Unit(each["unit"], each["metric"], each["amount"]) for each in known.pop("work")],
        metrics=metrics,
        usage=_usage(found),
        is_tuning="trials" in found["output"],
        reasons=known.pop("validity")["reasons"],
        gate=gates.of_record({**found, "output": {"gate": plain(found["output"].get("gate"))}}),
        level=level if is_number(given["task"].get(level)) else None,
        search=_search(found["primary"], plain(found["output"])),
        **known,
        **given,  # type: ignore[arg-type]
    )


def _search(primary: str, output: dict) -> Search | None:
    """None for what is no capacity record, or for one that says not in full what was beside it."""
    first_over, beside = output.get("first_over"), output.get("beside")
    if not is_number(output.get(primary)) or "first_over" not in output:
        return None
    over = first_over if is_number(first_over) else None
    if beside is None:
        return Search(over, None)
    try:
        task, comparable_by = _given(beside["task"]), _given(beside.get("comparable_by") or {})
        if model := beside.get("model"):  # as harness.run has it of a record of its own
            name = model["sha256"][:12] if model["sha256"] else model["name"]
            comparable_by |= {"model": name, "weight format": model["weight_format"]}
        if precision := (beside.get("placement") or {}).get("precision_effective"):
            comparable_by["precision"] = precision
        unit, count = f"{beside['called']}s", float(beside["streams"])
        return Search(over, Beside(unit, count, beside["workload"], task, comparable_by))
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _is_elsewhere(server: dict) -> bool:
    """Whether a server's requests came from the record's machine, and it is another one itself."""
    return not server.get("is_local", True) and "client" not in server


def _usage(found: dict) -> dict[str, float]:
    """Of the CPUs that the run was allowed, and of the machine's memory; what is known of it."""
    usage, total = found["usage"] or {}, found["system"]["memory"]["bytes"]
    busy = [share for share in usage.get("busy_share_per_cpu") or () if is_number(share)]
    shares = {"CPU time": sum(busy) / len(busy)} if busy else {}
    peak = usage.get("peak_rss_bytes")
    return {**shares, "memory": peak / total} if is_number(peak) and total else shares


def _zeroed(value: float) -> float:
    return value if abs(value) >= SMALLEST else 0.0


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _given(entries: dict) -> dict[str, Scalar]:
    """Without None and False, which are the same as an entry that is not there."""
    return {k: v for k, v in entries.items() if v is not None and v is not False}


def _apply_gates(runs: list[Run]) -> None:
    """Runs of a setting that missed its accuracy gate are not valid as evidence."""
    found = [run.gate for run in runs if run.gate]
    for run in runs:
        if not run.gate:
            run.quality = gates.deciding(run.comparable_by, found)
            if run.quality and not run.quality.passed:
                run.reasons.append(str(run.quality))


def _label(runs: list[Run]) -> None:
    """Name every run by its title, and by the entries in which the tasks of its workload differ."""
    tasks: dict[str, dict[Key, dict[str, Scalar]]] = defaultdict(dict)
    for run in runs:
        tasks[run.workload][frozenset(run.task.items())] = run.task
    apart = {workload: differing(list(each.values())) for workload, each in tasks.items()}
    for run in runs:
        shown = {
            name: value[:8] if isinstance(value, str) and len(value) == 64 else value
            for name, value in run.task.items()
            if name in apart[run.workload]
        }
        run.label = ", ".join(filter(None, [run.title, listed(shown)]))


def differing(entries: Sequence[dict[str, Scalar]]) -> list[str]:
    """The names whose values are not the same in all of them, in order."""
    names = dict.fromkeys(name for each in entries for name in each)
    return [name for name in names if len({each.get(name) for each in entries}) > 1]


def nearest(runs: Sequence[Run], baseline: str) -> list[str]:
    """Which works of the baseline and of another side are most alike, and what keeps them apart;
    a sentence, or none where there is no other side."""
    works = {(run.side == baseline, *run.work_key): run for run in runs if not run.gate}
    ours = [run for run in works.values() if run.side == baseline][:MAX_WORKS]
    others = [run for run in works.values() if run.side != baseline][:MAX_WORKS]
    if not (ours and others):
        return []

    def apart(pair: tuple[Run, Run]) -> tuple[bool, int]:
        return pair[0].workload != pair[1].workload, len(differing([each.task for each in pair]))

    base, side = min(product(ours, others), key=apart)
    if base.workload != side.workload:
        both = f"{base.title} on {baseline}, {side.title} on {side.side}"
        return [f"No workload is on both sides: {both}."]
    names = differing([base.task, side.task])
    why = (
        f"{n} {base.task.get(n, 'not given')} against {side.task.get(n, 'not given')}"
        for n in names
    )
    return [
        f"Nearest: {base.title} on {baseline} and on {side.side}, which differ in {'; '.join(why)}."
    ]


def series(runs: Sequence[Run]) -> Iterator[tuple[str, list[tuple[float, Run]]]]:
    """Runs over a number that differs between them, be it in their task or their configuration.

    Yields (the number's name, [(its value, run)]) for runs of one workload that are fair to compare
    and whose tasks are equal in all else.
    """
    for name in differing([{**run.task, **run.configuration} for run in runs]):
        groups: dict[object, list[tuple[float, Run]]] = defaultdict(list)
        for run in runs:
            value = run.task.get(name, run.configuration.get(name))
            if is_number(value):
                rest = frozenset(item for item in run.task.items() if item[0] != name)
                key = run.workload, run.primary, rest, frozenset(run.comparable_by.items())
                groups[key].append((float(value), run))
        for group in groups.values():
            if len({value for value, _ in group}) > 1:
                yield name, group
