"""From a run's samples to its record: printed, and written."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness import (
    checks,
    cli,
    energy,
    instance,
    journal,
    model_files,
    openvino_setup,
    record,
    stats,
    system,
)
from harness.cli import UserError
from harness.journal import Journal
from harness.metrics import METRICS, Metric
from harness.monitor import SystemMonitor
from harness.redaction import redact, redact_command

_open: Journal | None = None  # of the run under way

Scalars = Mapping[str, Any]  # labels to text, numbers, booleans or None


def check_destination(args: Namespace) -> None:
    """Raise UserError, before anything is measured, where the record could not be written.

    Makes the records of earlier runs in that folder that were ended from outside.
    """
    folder = (args.json.parent if args.json else args.results_dir).absolute()
    if args.json and args.json.exists():
        raise UserError(f"{args.json} exists and is never overwritten: choose another --json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write the record to {folder}: {error.strerror} (--results_dir, --json)"
        ) from None
    for recovered in journal.recover(folder):
        if not any(folder.glob(f"*_{recovered['id'][:8]}.json")):
            path = _write(recovered, folder / file_name(recovered))
            print(f"recovered: {path}: samples of a run that was ended from outside")


def start(args: Namespace, *, own_metrics: Sequence[Metric] = (), **known) -> Journal:
    """The journal of the run that begins now, to which its samples are added as they are taken.

    `known` : what build() is given, but for what is only known afterwards. build() and finish()
    then make the record; where a run ends before, cli.run() has the journal make it.
    """
    global _open
    discard()
    idle = SystemMonitor()
    draft = build(args, samples={}, monitor=idle, output={}, own_metrics=own_metrics, **known)
    draft["work"] = _work(known["work"])
    folder = (args.json.parent if args.json else args.results_dir).absolute()
    name = file_name(draft).removesuffix(".json") + journal.SUFFIX
    _open = Journal(folder / name, draft, own_metrics)
    cli.rescue = functools.partial(_rescue, args)
    return _open


def _rescue(args: Namespace, error: BaseException) -> Path | None:
    """Save what has been measured before `error`; where it is, or None where that is nothing."""
    if not _open:
        return None
    if not _open.has_samples():
        discard()
        return None
    if isinstance(error, KeyboardInterrupt):
        return save(_open.record("interrupted", cli.why_interrupted(error)), args)
    return save(_open.record("failed", cli.one_line(error)), args)


def discard() -> None:
    """Drop the journal of a run that goes without a record."""
    global _open
    if _open:
        _open.close()
    _open = cli.rescue = None


def print_header(
    model: dict, placement: dict, device: str, load_time_s: float, extra: str = ""
) -> dict:
    """Print what is about to be measured and on which machine, which is returned.

    `model` and `placement` are the record's; `extra` ends the line on placement.
    """
    machine = system.describe()
    print(f"Model: {model_files.one_line(model)}; loaded in {load_time_s:.1f} s")
    print(f"System: {system.one_line(machine)}")
    print(f"Placement: {openvino_setup.one_line(placement, device)}{extra}\n", flush=True)
    return machine


def build(
    args: Namespace,
    *,
    workload: str,
    title: str,
    primary: str | None,
    samples: Mapping[str, Sequence[Sequence[float]]],
    task: Scalars,
    work: Sequence[tuple[str, str, float]],
    model: dict | None,
    input: dict,
    system: dict,
    placement: dict,
    monitor: SystemMonitor,
    output: dict,
    details: Sequence[str] = (),
    comparable_by: Scalars | None = None,
    configuration: Scalars | None = None,
    packages: Sequence[str] = (),
    resolved: Mapping[str, Any] | None = None,
    server: dict | None = None,
    warnings: Sequence[str] = (),
    reasons: Sequence[str] = (),
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
    own_metrics: Sequence[Metric] = (),
    check_samples: bool = True,
) -> dict:
    """A run's record, as record.schema.json describes it.

    Parameters
    ----------
    primary : the metric that decides; None for a record that only lists others.
    samples : by metric, one list per iteration, in the order in which they are printed.
    task, comparable_by, configuration : what the workload adds to the entries made here.
    work : (unit, metric, amount): units per hour are the metric's median x 3600 / amount.
    input : what the run was fed: name, sha256 and what else tells inputs apart.
    output : what was produced, and the check on it.
    details : lines to print besides the metrics.
    packages : whose versions matter to this workload.
    resolved : parameters that were found out rather than given.
    warnings : the workload's own, which only inform.
    reasons : the workload's own, which make the run invalid as evidence.
    intervals : 95 % confidence intervals that are known better than from iterations.
    own_metrics : metrics that harness.metrics does not have.
    check_samples : whether samples of the primary metric repeat one another, so that few or
        different ones are warned of, and drift and a short run make the run invalid.
    """
    known = {**METRICS, **{metric.name: metric for metric in own_metrics}}
    intervals = intervals or {}
    metrics = {
        name: stats.summarize(known[name], each, intervals.get(name))
        for name, each in samples.items()
        if stats.usable(each)
    }
    is_whole = instance.current() is None  # else all instances are checked together
    usage = monitor.usage if is_whole else {}
    against, informing = [*reasons, *checks.output_reasons(output), *monitor.warnings], [*warnings]
    if usage and not server:  # a server's load is the work itself
        against = checks.computing_reasons(usage, placement, system) + against
        informing = checks.idle_warnings(usage, placement) + informing
    if usage:
        against = checks.machine_reasons(usage, system) + against
    sampled = primary if is_whole and check_samples and primary in metrics else None
    unsteady = checks.plateau_reasons(samples[sampled]) if sampled else []
    if usage and (check_samples or server):
        least_s = getattr(args, "min_duration", None) or 0.0
        is_study = bool(getattr(args, "study", False))
        decisive = None if unsteady else sampled  # more of an unsteady run is no more precise
        against = checks.duration_reasons(usage, metrics, least_s, is_study, decisive) + against
    if sampled:
        against = unsteady + against
        informing = checks.sample_warnings(metrics[sampled]) + informing
    return {
        "schema_version": record.SCHEMA_VERSION,
        "id": str(uuid.uuid4()),
        "workload": workload,
        "title": title,
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "status": monitor.status,
        "error": monitor.error,
        "command": redact_command([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "parameters": {k: _plain(v) for k, v in {**vars(args), **(resolved or {})}.items()},
        "task": _known({"input": input["sha256"] or input["name"], **task}),
        "comparable_by": _known({**_of_model(model, placement), **(comparable_by or {})}),
        "configuration": _known({**_of_placement(placement, system), **(configuration or {})}),
        "context": _known(_context(system, packages, monitor.usage, metrics, server)),
        "primary": primary,
        "work": [each for each in _work(work) if each["metric"] in metrics],
        "model": model,
        "input": input,
        "system": system,
        "placement": placement,
        **({"server": server} if server else {}),
        "usage": monitor.usage or None,
        "metrics": metrics,
        "samples": {name: [list(i) for i in each] for name, each in samples.items() if any(each)},
        "output": output,
        "details": list(details),
        "warnings": against + informing,
        "validity": checks.validity(monitor.error, against),
    }


def finish(run: dict, args: Namespace) -> int:
    """Write the record, print its summary, and return the process's exit status."""
    path = save(run, args)
    print("\n".join([*record.text_lines(run), f"Record: {path}"]), flush=True)
    if run["status"] == "interrupted":
        print(f"{run['error']}: the record holds what was measured until then", file=sys.stderr)
        return cli.interrupt_status(run["error"])
    if run["status"] == "failed":
        print(f"error: {run['error']}", file=sys.stderr)
        return cli.EXIT_FAILED
    return cli.EXIT_OK


def save(run: dict, args: Namespace) -> Path:
    """Write to --json or into --results_dir; failing that, to the temporary folder.

    One of several instances hands it to the process that coordinates them instead.
    """
    one = instance.current()
    if one and _open and one.deliver(run, _open.monitor.began_s, _open.ends_s):
        discard()
        return args.results_dir
    if one:
        run["validity"] = checks.validity(f"one of {one.count} instances", [])
    if _open:
        run["id"] = _open.draft["id"]
    run = record.sanitized(run)
    path = args.json or args.results_dir / file_name(run)
    with cli.uninterrupted():
        written = _write(run, path)
        discard()
    return written


def file_name(run: dict) -> str:
    stamp = datetime.fromisoformat(run["finished_at"]).strftime("%Y%m%dT%H%M%SZ")
    return f"{run['workload']}_{stamp}_{run['id'][:8]}.json"


def _write(run: dict, path: Path) -> Path:
    try:
        return record.write(run, path)
    except OSError as error:
        try:
            elsewhere = record.write(run, Path(tempfile.gettempdir()) / file_name(run))
        except OSError:
            print(json.dumps(run))
            raise UserError(
                f"no record could be written ({error.strerror}): it is printed above instead"
            ) from None
        print(f"warning: {path}: {error.strerror}: the record went elsewhere", file=sys.stderr)
        return elsewhere


def _work(work: Sequence[tuple[str, str, float]]) -> list[dict]:
    return [{"unit": unit, "metric": metric, "amount": amount} for unit, metric, amount in work]


def _of_model(model: dict | None, placement: dict) -> dict:
    precision = placement.get("precision_effective")
    if model is None:
        return {"precision": precision}
    name = model["sha256"][:12] if model["sha256"] else model["name"]
    return {"model": name, "weight format": model["weight_format"], "precision": precision}


def _of_placement(placement: dict, system: dict) -> dict:
    tuned = system["memory"].get("glibc_tunables")
    return {
        "threads": placement.get("threads_effective"),
        "CPUs allowed": len(placement["cpus"]),
        "memory tuned": None if tuned == "none" else tuned,
    }


def _context(
    machine: dict, packages: Sequence[str], usage: dict, metrics: dict, server: dict | None
) -> dict:
    """Besides the machine: which energy counters there were, as not every CPU has its memory's."""
    counted = None
    if any(name.startswith("energy_per_") for name in metrics):
        counted = " + ".join(part for part in energy.COUNTED if part in (usage["energy_j"] or {}))
    more = {"energy counted": counted, "server version": server and server.get("version")}
    return {**system.context(machine, packages), **more}


def _known(entries: Scalars) -> dict:
    """Without what is None or False, so that an option unused is the same as one not there."""
    return {
        name: _plain(value)
        for name, value in entries.items()
        if value is not None and value is not False  # 0 is a value
    }


def _plain(value: Any) -> Any:
    return redact(str(value)) if isinstance(value, (Path, str)) else value
