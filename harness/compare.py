"""Compare records of several machines, with costs: python3 -m harness.compare results/edge/*.json results/cloud/*.json

A side is a folder of records where they come from several folders, else a machine. Runs are compared only where they did the same
work with the same model at the same precision; where they did not, it says what differs instead of giving a ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from harness import cli, cost, energy, files, ratio, record, sut, system
from harness.cli import UserError

# Parameters that shape the work a run does, whatever the workload; those a workload has no option for are None. (A batch is work
# to an LLM, whose prompts it multiplies, and else a way to do the same work.)
WORK = (
    "max_new_tokens", "stop_at_eos", "max_frames", "no_output", "encoder", "conf", "iou", "language", "task",
    "beam_size", "temperature", "word_timestamps", "concurrency", "target_fps", "max_latency", "max_images",
    "window", "max_delay", "prompt_tokens", "chat", "stream", "top_p", "max_ttft", "max_tpot",
    "context", "stride", "max_tokens", "num_prompts", "reference_sha256",
)  # fmt: skip
PACKAGES = ("openvino", "optimum-intel", "transformers", "torch", "openai-whisper", "av", "ultralytics-opencv-headless")
MAX_SAMPLES = 2000  # of a run and metric that are looked at, evenly spread; the median moves by far less than its interval


@dataclass
class Run:
    """What a comparison needs of a record."""

    path: str
    id: str
    finished_at: str
    side: str
    machine: str
    workload: str
    work: dict  # what was asked: runs with different work have nothing to compare
    fair: dict  # what must be equal for a ratio to be fair
    shown: dict  # what else differs, for the reader to judge
    headline: str
    metrics: dict
    samples: dict[str, np.ndarray]
    label: str = ""  # the workload, and what sets this work apart from the others in the comparison
    trouble: list[str] = field(default_factory=list)

    @property
    def work_key(self) -> str:
        """The same for runs of the same work."""
        return json.dumps([self.workload, self.work], sort_keys=True)

    @property
    def placement(self) -> str:
        """How the machine was used, e.g. '16 threads, 32 CPUs allowed, hint throughput'."""
        told = {
            "threads": "{} threads",
            "CPUs allowed": "{} CPUs allowed",
            "hint": "hint {}",
            "requests at a time": "{} requests at a time",
            "batch size": "batches of {}",
            "streams": "{} streams",
            "memory tuned": "{}",
        }
        usual = {"batch size": "1", "streams": "1", "memory tuned": "none"}
        return ", ".join(
            form.format(value) for name, form in told.items() if (value := self.shown[name]) and value != usual.get(name)
        )


@dataclass
class Comparison:
    """One side against the baseline, at the same work."""

    workload: str
    label: str
    baseline: str
    side: str
    unfair: list[str]  # why there are no ratios; empty where there are
    differences: dict[str, tuple[str, str]]  # what differs: (baseline, side)
    ratios: dict[str, ratio.Ratio] = field(default_factory=dict)  # by metric, the headline first
    units: dict[str, str] = field(default_factory=dict)
    runs: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)


@dataclass
class Setting:
    """A side's runs that may be compared with others', and how they were chosen."""

    runs: list[Run]
    chosen: str | None = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m harness.compare", description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("records", type=Path, nargs="+", help="records (JSON); others are named and skipped")
    parser.add_argument(
        "--baseline", metavar="SIDE", help="folder or machine that the others are compared with (default: the first)"
    )
    output = parser.add_argument_group("output", "without any of these a text for the terminal")
    for name, what in (("html", "a page"), ("pdf", "a PDF")):
        output.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")
    for name in ("markdown", "csv", "json"):
        output.add_argument(
            f"--{name}", type=Path, nargs="?", const=Path("-"), metavar="FILE", help="write it to FILE, or print it"
        )
    group = cost.add_arguments(parser)
    group.add_argument("--sut", type=cost.assignment, action="append", default=[], metavar="SIDE=NAME",
                       help="sut/NAME.toml that a side is (default: the one named like its machine or folder)")  # fmt: skip
    return parser.parse_args()


def read_runs(paths: list[Path]) -> tuple[list[Run], list[str]]:
    """The runs, and one line for each file that is none. Interrupted and failed runs are left out too, and named."""
    found, skipped = [], []
    folders = {path.absolute().parent for path in paths}
    by_folder = len(folders) > 1
    seen = set()
    for path in paths:
        try:
            run = record.read(path)
        except record.RecordError as error:
            skipped.append(str(error))
            continue
        if run["workload"] == "gpu-tgi-sweep":  # its levels have records of their own
            continue
        if run["status"] != "complete":
            skipped.append(f"{path}: {run['status']}: {run['error']}")
        elif run["id"] in seen:
            skipped.append(f"{path}: the same run as another file")
        else:
            seen.add(run["id"])
            found.append(_run(run, path, path.absolute().parent.name if by_folder else None))
    return found, skipped


def _run(run: dict, path: Path, folder: str | None) -> Run:
    told, cpu, placed, model, asked = run["system"], run["system"]["cpu"], run["placement"], run["model"], run["parameters"]
    name = told["machine"]["instance_type"] or told["machine"]["product"] or told["hostname"]
    packages = told["software"]["packages"]
    of_llm = placed.get("openvino_properties", {}).get("model", {}) if run["workload"].startswith("llm") else {}
    fair = {
        "model": model["sha256"][:12] if model["sha256"] else model["name"],
        "weight format": model["weight_format"],
        "precision": placed["precision_used"],
        "runtime": asked.get("runtime") or (run.get("server") or {}).get("name"),
        "device": asked.get("device"),
        "KV cache": of_llm.get("KV_CACHE_PRECISION"),
        "dynamic quantization group": of_llm.get("DYNAMIC_QUANTIZATION_GROUP_SIZE"),
    }
    shown = {
        "machine": system.one_line(told),
        "GPUs": ", ".join(card["name"] for card in told["gpus"]) or None,
        "threads": placed["threads_given"],
        "hint": asked.get("hint"),
        "batch size": asked.get("batch_size") if run["workload"] != "llm" else None,
        "streams": asked.get("num_streams"),
        "memory tuned": told["memory"].get("glibc_tunables"),
        "requests at a time": asked.get("requests") if run["workload"] == "video" else None,
        "CPUs allowed": len(placed["cpus"]),
        "energy counted": _energy_counted(run),
        "governor": cpu.get("governor"),
        "turbo": cpu.get("turbo"),
        "kernel": told["os"]["kernel"],
        "system": told["os"]["name"],
        "Python": told["software"]["python"],
        "server version": (run.get("server") or {}).get("version"),
        **{package: packages.get(package) for package in PACKAGES},
    }
    metrics = {name: metric for name, metric in run["metrics"].items() if metric["better"]}
    samples = {}
    for metric in metrics:
        values = run["samples"].get(metric) or [run["metrics"][metric]["median"]]
        step = max(1, -(-len(values) // MAX_SAMPLES))
        samples[metric] = np.asarray(values[::step], dtype=float)
    return Run(
        path=str(path),
        id=run["id"],
        finished_at=run["finished_at"],
        side=folder or name,
        machine=name,
        workload=run["workload"],
        work={
            "input": run["input"]["sha256"] or run["input"]["name"],
            **{name: asked[name] for name in WORK if asked.get(name) not in (None, False)},
            **({"batch_size": asked["batch_size"]} if run["workload"] == "llm" else {}),
        },
        fair=fair,
        shown={name: None if value is None else str(value) for name, value in shown.items()},
        headline=run["headline"],
        metrics=metrics,
        samples=samples,
        trouble=run["trouble"],
    )


def _energy_counted(run: dict) -> str | None:
    """The parts in energy per unit of work. Not every CPU tells its memory's, so that these may differ from side to side."""
    if not any(name.startswith("energy_per_") for name in run["metrics"]):
        return None
    return " + ".join(part for part in energy.COUNTED if part in (run["usage"].get("energy_j") or {}))


NAMES = {"llm": "LLM", "llm-concurrency": "LLM, many users", "llm-accuracy": "LLM, accuracy", "video": "Video AI",
         "video-density": "Video AI, live streams", "video-accuracy": "Video AI, accuracy", "audio": "Audio AI",
         "audio-density": "Audio AI, live calls", "gpu-tgi": "LLM server"}  # fmt: skip


def label_works(runs: list[Run]) -> None:
    """Name every run's work: the workload, and those parameters in which it differs from others of that workload here."""
    values = defaultdict(set)
    for run in runs:
        for name in ("input", "batch_size", *WORK):
            values[run.workload, name].add(run.work.get(name))
    for run in runs:
        told = {name: value[:8] if name == "input" else value for name, value in run.work.items()
                if len(values[run.workload, name]) > 1 or name == "concurrency"}  # fmt: skip
        run.label = ", ".join([NAMES.get(run.workload, run.workload), *(f"{k.replace('_', ' ')} {v}" for k, v in told.items())])


def pick_baseline(runs: list[Run], asked: str | None) -> str:
    """The side that was asked for, by its name or its machine's; else that of the first record."""
    if asked is None:
        return runs[0].side
    for run in runs:
        if asked in (run.side, run.machine):
            return run.side
    raise UserError(f"--baseline {asked}: no record is of that side; there are {', '.join(sorted({run.side for run in runs}))}")


def compare(runs: list[Run], baseline: str) -> list[Comparison]:
    """Every other side against the baseline, for each work that both did."""
    works: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        works[run.work_key][run.side].append(run)
    comparisons = []
    for _, sides in sorted(works.items()):
        if baseline not in sides:
            continue
        for side in sorted(sides):
            if side != baseline:
                comparisons += _compare_sides(sides[baseline], sides[side])
    return comparisons


def _compare_sides(base: list[Run], side: list[Run]) -> list[Comparison]:
    """One comparison for each setting of `side`: with the same setting of the baseline, where there is one."""
    theirs, ours = _by_setting(base), _by_setting(side)
    comparisons = []
    for fair, setting in ours.items():
        runs = setting.runs
        same = theirs.get(fair)
        nearest = same or max(theirs.values(), key=lambda other: sum(other.runs[0].fair[k] == v for k, v in runs[0].fair.items()))
        against = nearest.runs
        comparison = Comparison(
            workload=runs[0].workload,
            label=runs[0].label,
            baseline=against[0].side,
            side=runs[0].side,
            unfair=[f"{name} {against[0].fair[name]} against {value}" for name, value in runs[0].fair.items()
                    if value != against[0].fair[name]],
            differences=_differences(against, runs),
            runs=(len(against), len(runs)),
            notes=[note for note in (nearest.chosen, setting.chosen) if note],
        )  # fmt: skip
        if same:
            headline = runs[0].headline
            names = [name for name in runs[0].metrics if all(name in run.metrics for run in against + runs)]
            for name in sorted(names, key=lambda name: (name != headline, names.index(name))):
                metric = runs[0].metrics[name]
                comparison.units[name] = metric["unit"]
                samples = [[run.samples[name] for run in each] for each in (against, runs)]
                comparison.ratios[name] = ratio.compare(*samples, metric["better"])
            if min(comparison.runs) < 4:
                comparison.notes.append(
                    f"{comparison.runs[0]} run(s) of {comparison.baseline} and {comparison.runs[1]} of {comparison.side}: the "
                    "interval covers well what differs from run to run only from 4 on each side on"
                )
        for each in (against, runs):
            if len(kinds := {run.shown["machine"] for run in each}) > 1:
                comparison.notes.append(
                    f"{each[0].side}: runs of {len(kinds)} machines are taken together: {' / '.join(sorted(kinds))}"
                )
        comparison.notes += _trouble(against + runs)
        comparisons.append(comparison)
    return comparisons


def _by_setting(runs: list[Run]) -> dict[str, Setting]:
    """A side's runs by what must be equal for a ratio to be fair. Runs with other threads, CPUs or requests are no repetitions
    of each other: of these, the ones with the best headline stand for the side."""
    settings = defaultdict(lambda: defaultdict(list))
    for run in runs:
        settings[json.dumps(run.fair, sort_keys=True)][run.placement].append(run)
    return {setting: _best(placements) for setting, placements in settings.items()}


def _best(placements: dict[str, list[Run]]) -> Setting:
    def goodness(runs: list[Run]) -> float:
        told = [run.metrics[run.headline] for run in runs if run.headline in run.metrics]
        middle = float(np.median([metric["median"] for metric in told])) if told else 0.0
        return middle if not told or told[0]["better"] == "higher" else -middle

    chosen = max(placements, key=lambda placement: goodness(placements[placement]))
    runs = placements[chosen]
    if len(placements) == 1:
        return Setting(runs)
    others = "; ".join(sorted(set(placements) - {chosen}))
    return Setting(runs, f"{runs[0].side}: taken at its best, {chosen} (also measured: {others})")


def _differences(base: list[Run], side: list[Run]) -> dict[str, tuple[str, str]]:
    """What is shown and not the same on both sides; several values of a side are all named."""

    def values(runs: list[Run], name: str) -> str:
        return " or ".join(sorted({run.shown[name] or "unknown" for run in runs}))

    pairs = {name: (values(base, name), values(side, name)) for name in base[0].shown}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _trouble(runs: list[Run]) -> list[str]:
    """Warnings of the runs, similar ones (which differ in their numbers) told once, with how many runs have them."""
    kinds, first = Counter(), {}
    for run in runs:
        for sign in run.trouble:
            kind = (run.side, "".join(c for c in sign if not c.isdigit()))
            kinds[kind] += 1
            first.setdefault(kind, sign)
    return [f"{side}: {first[side, kind]}" + (f" (and the like in {count - 1} more runs)" if count > 1 else "")
            for (side, kind), count in kinds.items()]  # fmt: skip


def machines(runs: list[Run], args: argparse.Namespace, a: cost.Assumptions) -> dict[str, cost.Machine | None]:
    """Each side's price and power, from the system in sut/ that it is; None where there is no such system."""
    systems = {told["system"]["name"]: told for told in sut.read_all(args.sut_dir)}
    chosen, drawn = dict(args.sut), dict(args.power_w)
    sides = {run.side: run.machine for run in runs}
    for name in [*chosen, *drawn]:
        if name not in sides:
            raise UserError(f"{name} is no side: there are {', '.join(sorted(sides))}")
    found = {}
    for side, machine in sides.items():
        names = [chosen[side]] if side in chosen else [n for n in systems if n.lower() in (machine.lower(), side.lower())]
        names = names or [name for name in systems if name.lower() in machine.lower().split()]
        if side in chosen and chosen[side] not in systems:
            raise UserError(f"--sut {side}={chosen[side]}: {args.sut_dir} has no {chosen[side]}.toml")
        measured = cost.measured_w(drawn, side)
        found[side] = cost.machine(systems[names[0]], measured, a, args.rate) if names else None
    return found


def costs(comparisons: list[Comparison], priced: dict[str, cost.Machine | None], a: cost.Assumptions) -> list[dict]:
    """For each fair comparison and unit of work: USD per unit of both sides, break-even, sensitivity. Unknown ones are None."""
    rows = []
    for comparison in comparisons:
        for unit in cost.unit_of(comparison.workload, a):
            found = comparison.ratios.get(unit.metric)
            if found is None:
                continue
            row = {"label": comparison.label, "unit": unit.name, "sides": {}, "break_even": None,
                   "missing": [], "sensitivity": [], "over_time": []}  # fmt: skip
            units = {comparison.baseline: found.baseline * unit.per_hour, comparison.side: found.side * unit.per_hour}
            for side, per_hour in units.items():
                m = priced[side]
                row["sides"][side] = {
                    "units_per_hour": per_hour,
                    "usd_per_hour": cost.per_hour(m, a) if m else None,
                    "usd_per_unit": cost.per_unit(m, per_hour, a) if m else None,
                }
                missing = m.missing() if m else ["price, power: no system of sut/ is this side (--sut)"]
                row["missing"] += [f"{side}: {what}" for what in missing]
            pairs = [(b, c) for b, c in ((comparison.baseline, comparison.side), (comparison.side, comparison.baseline))
                     if priced[b] and priced[c] and priced[b].usd is not None and priced[c].is_rented]  # fmt: skip
            if pairs and not row["missing"]:
                own, rent = pairs[0]
                even = cost.break_even(priced[own], priced[rent], units[own], units[rent], a)
                row["break_even"] = {"owned": own, "rented": rent, **asdict(even)}
                row["sensitivity"] = cost.sensitivity(priced[own], priced[rent], units[own], units[rent], a)
                row["over_time"] = [list(point) for point in cost.over_time(priced[own], priced[rent], even.instances, a)]
            rows.append(row)
    return rows


def leading(runs: list[Run], baseline: str) -> list[str]:
    """Labels of the works a summary speaks of: all, but of the levels of a sweep only the baseline's best."""
    sweeps: dict[str, tuple[float, str]] = {}
    for run in runs:
        if run.side == baseline and "concurrency" in run.work and run.headline in run.metrics:
            reached = (run.metrics[run.headline]["median"], run.label)
            sweeps[run.workload] = max(sweeps.get(run.workload, reached), reached)
    best = {label for _, label in sweeps.values()}
    return sorted({run.label for run in runs if run.label in best or run.workload not in sweeps})


def build(args: argparse.Namespace) -> dict:
    """The whole comparison as plain data: what every form of the report is made from."""
    runs, skipped = read_runs(args.records)
    if not runs:
        for line in skipped:
            print(f"skipped: {line}", file=sys.stderr)
        raise UserError("no record to compare: name files that infer.py or run_ab.sh wrote")
    label_works(runs)
    baseline, a = pick_baseline(runs, args.baseline), cost.assumptions(args)
    priced = machines(runs, args, a)
    comparisons = compare(runs, baseline)
    by_work: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_work[run.work_key].append(run)
    return {
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "baseline": baseline,
        "sides": {side: {"machine": next(r.shown["machine"] for r in runs if r.side == side), "runs": count,
                         "price": asdict(priced[side]) if priced[side] else None}
                  for side, count in sorted(Counter(run.side for run in runs).items(), key=lambda item: item[0] != baseline)},
        "comparisons": [{**asdict(c), "ratios": {n: {**asdict(r), "verdict": r.verdict} for n, r in c.ratios.items()}}
                        for c in comparisons],
        "leading": leading(runs, baseline),
        "costs": costs(comparisons, priced, a),
        "assumptions": {name: {"value": value, "source": "assumed by the kit" if value == getattr(cost.Assumptions(), name) else "given"}
                        for name, value in asdict(a).items()},
        "runs": [{"record": r.path, "side": r.side, "workload": r.workload, "label": r.label, "finished_at": r.finished_at,
                  "concurrency": r.work.get("concurrency"), "setting": r.fair, "threads": r.shown["threads"] and int(r.shown["threads"]), "headline": r.headline, "unit": r.metrics[r.headline]["unit"],
                  "value": r.metrics[r.headline]["median"], "ci95": r.metrics[r.headline]["ci95"], "warnings": len(r.trouble)}
                 for r in runs if r.headline in r.metrics],
        "distributions": {key: _distribution(group) for key, group in by_work.items()},
        "skipped": skipped,
    }  # fmt: skip


LATENCIES = ("request_latency_s", "time_per_output_token_s", "inference_time_per_frame_s", "inference_time_s")


def _distribution(runs: list[Run]) -> dict:
    """Each side's latency samples of this work, thinned out for a chart."""

    def drawn(metric: str) -> dict[str, list[float]]:
        sides = defaultdict(list)
        for run in runs:
            sides[run.side].append(run.samples.get(metric, np.empty(0)))
        joined = {side: np.sort(np.concatenate(parts)) for side, parts in sides.items()}
        return {side: values[np.linspace(0, len(values) - 1, min(len(values), 200)).astype(int)].tolist()
                for side, values in joined.items() if len(values)}  # fmt: skip

    latency = next((name for name in LATENCIES if all(name in run.metrics for run in runs)), None)
    return {"label": runs[0].label, "latency": latency, "latency_samples": drawn(latency) if latency else {}}


def main() -> int:
    args = parse_args()
    from harness import report

    told = build(args)
    for line in told["skipped"]:
        print(f"skipped: {line}", file=sys.stderr)
    written = False
    for form in ("markdown", "csv", "json"):
        path = getattr(args, form)
        if path is None:
            continue
        written = True
        text = getattr(report, form)(told)
        if path == Path("-"):
            print(text, end="")
        else:
            save(path, text.encode())
    for form in ("html", "pdf"):
        path = getattr(args, form)
        if path is not None:
            written = True
            save(path, getattr(report, form)(told))
    if not written:
        print(report.text(told), end="")
    return cli.EXIT_OK


def save(path: Path, content: bytes) -> None:
    """All of it, or nothing, and one line where it can't be written."""
    try:
        files.write_whole(path, content, overwrite=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    print(f"Written: {path}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
