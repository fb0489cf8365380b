"""Records with simulated samples: to test the analysis, never as results."""

import copy
import json
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from analysis import pricing, uncertainty
from harness import stats
from harness.metrics import METRICS

# workload: title, primary metric, [(unit of work, its metric, amount)]
WORKLOADS = {
    "llm": ("LLM", "tokens_per_second", [("million tokens", "tokens_per_second", 1e6)]),
    "video": ("Video AI", "frames_per_second", [("million frames", "frames_per_second", 1e6)]),
    "audio": ("Audio AI", "rtfx", [("hour of audio", "rtfx", 3600)]),
    "gpu-tgi": (
        "LLM server",
        "requests_per_second",
        [("1,000 requests", "requests_per_second", 1000)],
    ),
}
MACHINE = "{}, CPU, 1 × 16 cores, 32 CPUs, 128 GiB"


def record(
    samples,
    *,
    workload="llm",
    machine="m6i.8xlarge",
    precision="f32",
    threads=16,
    day=0,
    status="complete",
    warnings=(),
    latency_s=None,
    configuration=None,
    **task,
) -> dict:
    """A record whose primary metric has one of these samples per iteration.

    `latency_s` are samples of a second metric, all of them of one iteration where it is a list of
    lists, and `task` more entries of the task.
    """
    title, primary, work = WORKLOADS[workload]
    raw = {primary: [[value] for value in samples]}
    if latency_s is not None:
        raw["request_latency_s"] = [v if isinstance(v, list) else [v] for v in latency_s]
    finished_at = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=day)
    return {
        "schema_version": 2,
        "id": str(uuid.uuid4()),
        "workload": workload,
        "title": title,
        "finished_at": finished_at.isoformat(),
        "status": status,
        "error": None,
        "command": ["simulated"],
        "parameters": {},
        "task": {"input": "b" * 64, **task},
        "comparable_by": {
            "model": "a" * 12,
            "weight format": "int8",
            "precision": precision,
            "device": "CPU",
        },
        "configuration": {"threads": threads, **(configuration or {})},
        "context": {"machine": MACHINE.format(machine), "kernel": "6.1", "openvino": "2026.4.1"},
        "primary": primary,
        "work": [{"unit": unit, "metric": metric, "amount": n} for unit, metric, n in work],
        "model": None,
        "input": {"name": "prompt", "sha256": "b" * 64},
        "system": {
            "hostname": "h",
            "machine": {"product": machine, "instance_type": machine, "virtualization": None},
            "cpu": {
                "model": "CPU",
                "sockets": 1,
                "cores_per_socket": 16,
                "threads_per_core": 2,
                "logical_cpus": 32,
            },
            "memory": {"bytes": 2**37},
            "gpus": [],
            "os": {"name": "Linux", "kernel": "6.1"},
            "software": {"python": "3.11.7", "packages": {}},
        },
        "placement": {"cpus": list(range(32))},
        "usage": None,
        "metrics": {name: stats.summarize(METRICS[name], each) for name, each in raw.items()},
        "samples": raw,
        "output": {},
        "details": [],
        "warnings": list(warnings),
        "validity": {"valid": not warnings, "reasons": list(warnings)},
    }


def capacity_record(count, unit="users", first_over=None, beside=None, cpus=32, **more) -> dict:
    """As capacity.py writes it; `beside` is (unit, count, task) of another workload."""
    made = record([1.0], workload="llm", **more)
    found = stats.summarize(METRICS[unit], [[count]])
    output = {unit: count, "first_over": first_over or count + 1, "levels": {}}
    made |= {"workload": f"{unit}-capacity", "title": f"{unit} capacity", "primary": unit}
    made |= {"metrics": {unit: found}, "samples": {unit: [[count]]}, "output": output, "work": []}
    made["placement"] = {"cpus": list(range(cpus))}
    if beside:
        other, n, task = beside
        made["task"] |= {"beside": f"{n} of {other}-capacity", "beside: late": 1}
        named = {"called": other.rstrip("s"), "streams": n, "workload": f"{other}-capacity"}
        output["beside"] = {**named, "task": task, "comparable_by": {"device": "CPU"}}
    return made


def changed(made: dict, where: str, value) -> dict:
    """A copy with one value put in place, e.g. 'comparable_by/model'."""
    made = copy.deepcopy(made)
    *parents, last = where.split("/")
    inner = made
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return made


def write(folder: Path, *records: dict) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for made in records:
        paths.append(folder / f"{made['id']}.json")
        paths[-1].write_text(json.dumps(made))
    return paths


def sample(found, n):
    """`n` draws of assumptions, as a Monte Carlo takes them."""
    drawn = uncertainty.draw(pricing.inputs_of(found), n)
    return pricing.values_of({name: np.broadcast_to(each, n) for name, each in drawn.items()})
