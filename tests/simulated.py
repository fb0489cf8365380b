"""Records with simulated samples: to judge the judging, never as results."""

import copy
import json
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

from harness import measure

HEADLINES = {"llm": ("tokens_per_second", "tokens/s"), "video": ("frames_per_second", "frames/s"), "audio": ("rtfx", "× real time"),
             "gpu-tgi": ("requests_per_second", "requests/s")}  # fmt: skip


def record(samples, *, workload="llm", machine="m6i.8xlarge", precision="f32", threads=16, day=0, status="complete", trouble=(),
           latency_s=None, **parameters) -> dict:  # fmt: skip
    """A record whose headline has these samples; a parameter of None is left out."""
    headline, unit = HEADLINES[workload]
    metrics, raw = {headline: measure.summarize(samples, unit, "higher")}, {headline: list(samples)}
    if latency_s is not None:
        metrics["inference_time_s"] = measure.summarize(latency_s, "s", "lower")
        raw["inference_time_s"] = list(latency_s)
    return {
        "schema_version": 1,
        "id": str(uuid.uuid4()),
        "workload": workload,
        "finished_at": (datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=day)).isoformat(),
        "status": status,
        "error": None,
        "command": ["simulated"],
        "parameters": {"batch_size": 1, "max_new_tokens": 100, "runtime": "optimum-intel", "device": "CPU", **parameters},
        "model": {"name": "m", "source": None, "weight_format": "int8", "bytes": 1, "sha256": "a" * 64, "files": [], "export": {}},
        "input": {"name": "prompt", "sha256": "b" * 64},
        "system": {
            "hostname": "h",
            "machine": {"vendor": None, "product": machine, "instance_type": machine, "virtualization": None},
            "cpu": {"model": "CPU", "sockets": 1, "cores_per_socket": 16, "threads_per_core": 2, "logical_cpus": 32},
            "memory": {"bytes": 2**37},
            "gpus": [],
            "os": {"name": "Linux", "kernel": "6.1"},
            "software": {"python": "3.11.7", "packages": {"openvino": "2026.4.1"}},
        },
        "placement": {"cpus": list(range(16)), "threads_asked": None, "threads_asked_by": None, "threads_given": threads,
                      "precision_asked": "auto", "precision_used": precision},
        "usage": {"wall_s": 1.0, "busy_share_per_cpu": [1.0], "process_cores_busy": 1.0, "other_cores_busy": 0.0, "steal_share": 0.0,
                  "throttle_events": 0, "peak_rss_bytes": 1},
        "headline": headline,
        "metrics": metrics,
        "samples": raw,
        "output": {},
        "trouble": list(trouble),
    }  # fmt: skip


def changed(made: dict, where: str, value) -> dict:
    """A copy with one value put in place, e.g. 'model.sha256'."""
    made = copy.deepcopy(made)
    *parents, last = where.split(".")
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
