"""How many users the machine answers within limits, by openvino-genai's continuous batching.

  python3 capacity.py --model_name="llama-2-7b-chat-ov" --max_ttft 2 --max_tpot 0.2
  python3 capacity.py --model_name="llama-2-7b-chat-ov" --concurrency 1,2,4,8

In one iteration every user asks at the same moment, the hardest case for the time to first token
(TTFT), and all are answered; with --prompt_tokens each asks something else. A number of users is
sustained where 95 % of the answers have TTFT and time per output token (TPOT) within the limits. It
is doubled until it is not sustained, then found by bisection.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import model  # before NumPy, whose threads it limits
import numpy as np
from runtimes import ContinuousBatching, GenerationConfig, GenerationResult, truncate_at_eos

from harness import capacity, plot, run, stats
from harness.metrics import METRICS
from harness.monitor import SystemMonitor, iterations

RATE, TTFT, TPOT = "tokens_per_second", "time_to_first_token_s", "time_per_output_token_s"


@dataclass(frozen=True)
class Setup:
    """What every number of users is measured with."""

    runtime: ContinuousBatching
    prompts: model.Prompts
    config: GenerationConfig
    warmup: int
    num_iters: int
    min_duration_s: float
    max_ttft_s: float
    max_tpot_s: float


@dataclass(frozen=True)
class Level:
    """What a number of users got."""

    samples: dict[str, list[list[float]]]  # by metric, one list per iteration
    summary: dict  # the figures that the record keeps of it
    is_sustained: bool
    monitor: SystemMonitor


def generate(
    runtime: ContinuousBatching, prompts: np.ndarray, config: GenerationConfig
) -> list[GenerationResult]:
    """Answer prompts, int64 [users, T], that all arrive now: a result per user."""
    started = time.perf_counter()
    handles = [runtime.add(prompt, config) for prompt in prompts]
    tokens: list[list[int]] = [[] for _ in handles]
    times_s: list[list[float]] = [[] for _ in handles]
    while runtime.is_busy():
        runtime.step()
        now_s = time.perf_counter() - started
        for user, handle in enumerate(handles):
            new = runtime.read(handle)
            tokens[user] += new
            times_s[user] += [now_s] * len(new)
    return [
        GenerationResult([truncate_at_eos(its_tokens, config.eos_ids)], its_s, its_s[-1])
        for its_tokens, its_s in zip(tokens, times_s)
    ]


def measure_level(setup: Setup, users: int, is_first: bool) -> Level | None:
    """None where it was interrupted before the first iteration's end.

    Raises what interrupted the first level, as there is nothing to record then.
    """
    samples: dict[str, list[list[float]]] = {RATE: [], TTFT: [], TPOT: []}
    generated = 0
    with SystemMonitor(keep=lambda: not is_first or bool(samples[RATE])) as monitor:
        for _ in range(setup.warmup):
            generate(setup.runtime, setup.prompts.take(users), setup.config)
        for _ in iterations(setup.num_iters, setup.min_duration_s, f"{users} user(s)"):
            ids = setup.prompts.take(users)
            started = time.perf_counter()
            results = generate(setup.runtime, ids, setup.config)
            time_s = time.perf_counter() - started
            count = sum(result.count for result in results)
            per_token_s = [result.time_per_output_token_s for result in results]
            samples[RATE].append([count / time_s])
            samples[TTFT].append([result.time_to_first_token_s for result in results])
            samples[TPOT].append([value for value in per_token_s if value is not None])
            generated += count
    samples = {name: each for name, each in samples.items() if any(each)}
    if not samples:
        return None
    limits_s = {TTFT: setup.max_ttft_s, TPOT: setup.max_tpot_s}
    p95_s = {name: stats.percentile(sum(samples.get(name, [[0.0]]), []), 0.95) for name in limits_s}
    is_sustained = monitor.status == "complete" and all(p95_s[n] <= limits_s[n] for n in limits_s)
    summary = {name: stats.summarize(METRICS[name], each) for name, each in samples.items()}
    summary |= {"generated_tokens": generated, "sustained": is_sustained}
    return Level(samples, summary, is_sustained, monitor)


def table(levels: dict[int, dict]) -> list[str]:
    """A line per number of users; with too few samples for a percentile, the largest."""
    rows = [["users", "tokens/s", "TTFT p50 s", "TTFT p95 s", "TPOT p50 s", "TPOT p95 s", ""]]
    for users, level in levels.items():
        row = [str(users), f"{level[RATE]['median']:.4g}"]
        for name in (TTFT, TPOT):
            metric = level.get(name)
            high = metric and metric.get("p95")
            row.append(f"{metric['median']:.4g}" if metric else "-")
            row.append(f"{high:.4g}" if high else f"max {metric['max']:.4g}" if metric else "-")
        rows.append([*row, "sustained" if level["sustained"] else "not sustained"])
    return cli.columns(rows, str.rjust)


def draw(levels: dict[int, dict], args: argparse.Namespace) -> None:
    def medians(name: str) -> list[tuple[float, float]]:
        return [(users, level[name]["median"]) for users, level in levels.items() if name in level]

    latencies = {"TTFT": medians(TTFT), "TPOT": medians(TPOT)}
    panels = [
        plot.Panel("tokens/s, all users", {"throughput": medians(RATE)}),
        plot.Panel("s, median", {k: points for k, points in latencies.items() if points}, log=True),
    ]
    plot.lines(args.plot, panels, "users", "Continuous batching")


def describe(args, loaded, system: dict, setup: Setup) -> dict:
    """What the record says of the run before it has begun."""
    exact = ",".join(map(str, args.concurrency)) if args.concurrency else None
    return {
        "workload": "llm-capacity",
        "title": "LLM capacity",
        "primary": "users",
        "task": {
            **model.task(setup.config, setup.prompts, 1, False),
            "max TTFT s": args.max_ttft,
            "max TPOT s": args.max_tpot,
            "numbers of users": exact,
        },
        "work": [("1,000 user-hours", "users", 3600e3)],
        **model.record_parts(args, loaded),
        "input": setup.prompts.source(),
        "system": system,
        "check_samples": False,
    }


def make_record(args, described: dict, levels: dict[int, Level]) -> dict:
    """The run's metrics are those of the most users sustained; if none, of the fewest tried."""
    last = levels[max(levels, key=list(levels).index)]
    levels = dict(sorted(levels.items()))
    over = min((users for users in levels if not levels[users].is_sustained), default=None)
    most = max((users for users in levels if over is None or users < over), default=0)
    shown = levels[most or min(levels)]
    monitor = shown.monitor
    monitor.status, monitor.error = last.monitor.status, last.monitor.error
    found = {users: level.summary for users, level in levels.items()}
    more = "" if over else ": as many as were tried (--max_users, --concurrency)"
    limits = f"TTFT within {args.max_ttft:g} s and TPOT within {args.max_tpot:g} s"
    if len(levels) > 1:
        draw(found, args)
    return run.build(
        args,
        **described,
        samples={"users": [[most]], **shown.samples},
        monitor=monitor,
        output={
            "users": most,
            "first_over": over,
            "levels": {str(n): level for n, level in found.items()},
        },
        details=["", *table(found), "", f"Capacity: {most} user(s), 95 % with {limits}{more}"],
    )


def user_counts(text: str) -> list[int]:
    """For argparse: '1,2,4' as numbers."""
    return sorted({cli.positive_int(part) for part in text.split(",")})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_model_arguments(parser)
    model.add_generation_arguments(parser)
    model.add_prompt_arguments(parser)
    add = parser.add_argument_group("users").add_argument
    add("--min_users", type=cli.positive_int, default=1, help="first number")
    add("--max_users", type=cli.positive_int, default=256, help="last number")
    exactly = "measure exactly these numbers instead, e.g. 1,2,4,8"
    add("--concurrency", type=user_counts, metavar="N,N,...", help=exactly)
    limit = {"type": cli.positive_float, "metavar": "S"}
    add("--max_ttft", **limit, default=2.0, help="95 %% of the answers begin by then")
    add("--max_tpot", **limit, default=0.2, help="95 %% of the answers have a token that often")
    add("--plot", type=Path, default=Path("capacity.png"), help="picture to write")
    cli.add_common_arguments(parser, iteration="one answer to every user", num_iters=8)
    args = parser.parse_args()
    model.check_prompt_arguments(parser, args)
    capacity.check_arguments(parser, args, "user")
    return args


def main() -> int:
    args = parse_args()
    model.check_inputs(args)
    loaded = model.load(args.model_name, ContinuousBatching, args)
    system = model.print_header(args, loaded)
    prompts = model.prompts_from_arguments(args, loaded.text)
    model.check_context(loaded.text, prompts.tokens, args.max_new_tokens)
    config = model.generation_config(args, loaded.text, args.max_new_tokens)

    repeat, limits_s = (
        (args.warmup, args.num_iters, args.min_duration),
        (args.max_ttft, args.max_tpot),
    )
    setup = Setup(loaded.runtime, prompts, config, *repeat, *limits_s)
    levels: dict[int, Level] = {}
    described = describe(args, loaded, system, setup)
    journal = run.start(args, **described)

    def sustained(users: int) -> bool | None:
        level = measure_level(setup, users, is_first=not levels)
        if level:
            levels[users] = level
            found = {str(n): each.summary for n, each in levels.items()}
            best = max((n for n, each in levels.items() if each.is_sustained), default=0)
            journal.replace({"users": [[best]], **level.samples}, {"levels": found})
        return level.is_sustained if level and level.monitor.status == "complete" else None

    if args.concurrency:
        for users in args.concurrency:
            if sustained(users) is None:
                break
    else:
        capacity.search(sustained, capacity.doubling(args.min_users, args.max_users))
    return run.finish(make_record(args, described, levels), args)


if __name__ == "__main__":
    cli.run(main)
