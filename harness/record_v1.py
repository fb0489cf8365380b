"""Records of version 1, read as version 2: what their readers once knew of the workloads."""

from __future__ import annotations

import re

from harness import checks, stats
from harness.metrics import METRICS, Metric

# workload of version 1: (workload, title, new names of metrics, unit of work priced)
_TOKENS = [("million tokens", "tokens_per_second", 1e6)]
_REQUESTS = [("1,000 requests", "requests_per_second", 1e3)]
_LLM_METRICS = {
    "inference_time_s": "generation_time_s",
    "prefill_compute_share": "mfu",
    "decode_bandwidth_share": "mbu",
}
_SERVER_METRICS = {
    "inference_time_s": "server_inference_time_s",
    "time_per_output_token_s": "server_time_per_token_s",
}
WORKLOADS = {
    "llm": ("llm", "LLM", _LLM_METRICS, _TOKENS),
    "llm-concurrency": ("llm-capacity", "LLM capacity", {}, []),
    "llm-accuracy": ("llm-accuracy", "LLM accuracy", {}, []),
    "video": (
        "video",
        "Video AI",
        {"inference_time_s": "pass_time_s", "pipeline_efficiency": "cpu_utilization"},
        [("million frames", "frames_per_second", 1e6)],
    ),
    "video-density": ("video-capacity", "Video AI capacity", {"streams": "cameras"}, []),
    "video-accuracy": ("video-accuracy", "Video AI accuracy", {}, []),
    "audio": (
        "audio",
        "Audio AI",
        {"inference_time_s": "transcription_time_s"},
        [("hour of audio", "rtfx", 3600.0)],
    ),
    "audio-density": ("audio-capacity", "Audio AI capacity", {}, []),
    "gpu-tgi": ("gpu-tgi", "LLM server", _SERVER_METRICS, _TOKENS + _REQUESTS),
    "gpu-tgi-sweep": ("gpu-tgi-sweep", "LLM server, sweep", {}, []),
}
TASK = (
    "max_new_tokens stop_at_eos max_frames no_output encoder save_detections conf iou language task"
    " beam_size temperature word_timestamps concurrency target_fps max_latency max_images window"
    " max_delay prompt_tokens chat stream top_p max_ttft max_tpot context stride max_tokens"
    " num_prompts reference_sha256"
).split()
PACKAGES = (
    "openvino optimum-intel transformers torch openai-whisper av ultralytics-opencv-headless"
).split()
PLACEMENT = {
    "threads_asked": "threads_requested",
    "threads_asked_by": "threads_requested_by",
    "threads_given": "threads_effective",
    "precision_asked": "precision_requested",
    "precision_used": "precision_effective",
}
# What version 1 warned of, and what does not make a run invalid.
INFORMING = r"^the samples vary|too few for a 95 % interval|cores were busy on average"


def convert(old: dict) -> dict:
    """A record of version 1 as version 2. Raises KeyError or TypeError where it is none."""
    from harness import system  # reading newer records needs nothing that measures

    workload, title, renamed, work = WORKLOADS[old["workload"]]
    is_server = "server" in old
    is_llm = workload == "llm"
    asked, model, machine, placed = (
        old[key] for key in ("parameters", "model", "system", "placement")
    )
    iterations = old["metrics"][old["headline"]]["n"]
    samples, metrics = {}, {}
    for name, metric in old["metrics"].items():
        new, values = renamed.get(name, name), old["samples"].get(name) or [metric["median"]]
        known = METRICS.get(new) or Metric(new, metric["unit"], metric["better"], new, "")
        samples[new] = _by_iteration(values, iterations)
        # An interval over samples of the same iteration said too much: they are not independent.
        interval = metric["ci95"] if len(samples[new]) == len(values) else None
        metrics[new] = stats.summarize(known, samples[new], interval)
    properties = placed.get("openvino_properties", {}).get("model", {}) if "llm" in workload else {}
    tuned = machine["memory"].get("glibc_tunables")
    reasons = [trouble for trouble in old["trouble"] if not re.search(INFORMING, trouble)]
    sweep = workload == "gpu-tgi-sweep"
    return {
        **{
            k: old[k] for k in ("id", "finished_at", "status", "error", "command", "input", "usage")
        },
        "schema_version": 2,
        "workload": workload,
        "title": title,
        "parameters": asked,
        "task": _known(
            {
                "input": old["input"]["sha256"] or old["input"]["name"],
                **{
                    name.replace("_", " "): _scalar(asked[name]) for name in TASK if asked.get(name)
                },
                **({"batch size": asked["batch_size"]} if is_llm else {}),
            }
        ),
        "comparable_by": _known(
            {
                "model": model["sha256"][:12] if model["sha256"] else model["name"],
                "weight format": model["weight_format"],
                "precision": None if is_server else placed["precision_used"],
                "runtime": asked.get("runtime") or (old["server"]["name"] if is_server else None),
                "device": asked.get("device"),
                "KV cache": properties.get("KV_CACHE_PRECISION"),
                "dynamic quantization group": properties.get("DYNAMIC_QUANTIZATION_GROUP_SIZE"),
            }
        ),
        "configuration": _known(
            {
                "threads": placed["threads_given"],
                "CPUs allowed": len(placed["cpus"]),
                "hint": asked.get("hint"),
                "requests": asked.get("requests") if workload == "video" else None,
                "batch size": None if is_llm else asked.get("batch_size"),
                "streams": asked.get("num_streams"),
                "memory tuned": None if tuned == "none" else tuned,
            }
        ),
        "context": system.context(machine, PACKAGES),
        "primary": None if sweep else renamed.get(old["headline"], old["headline"]),
        "work": [
            {"unit": unit, "metric": metric, "amount": amount}
            for unit, metric, amount in work
            if metric in metrics
        ],
        "model": model,
        "system": machine,
        "placement": {"cpus": placed["cpus"]}
        if is_server or sweep
        else {PLACEMENT.get(name, name): value for name, value in placed.items()},
        **({"server": old["server"]} if is_server else {}),
        "metrics": metrics,
        "samples": samples,
        "output": old["output"],
        "details": [],
        "warnings": old["trouble"],
        "validity": checks.validity(old["error"], reasons),
    }


def _by_iteration(values: list[float], iterations: int) -> list[list[float]]:
    """Samples in order, in as many equal parts as there were iterations."""
    size = len(values) // iterations if len(values) % iterations == 0 else 1
    return [values[start : start + max(size, 1)] for start in range(0, len(values), max(size, 1))]


def _known(entries: dict) -> dict:
    return {k: v for k, v in entries.items() if v is not None and v is not False}


def _scalar(value):
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
