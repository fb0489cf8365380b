"""How many users the machine answers within limits, by openvino-genai's continuous batching.

  python3 capacity.py --model_name="llama-2-7b-chat-ov" --max_ttft 2 --max_tpot 0.2
  python3 capacity.py --model_name="llama-2-7b-chat-ov" --concurrency 1,2,4,8

In one iteration every user asks at the same moment, the hardest case for the time to first token
(TTFT), and all are answered; with --prompt_tokens each asks something else. A number of users is
sustained where 95 % of the answers have TTFT and time per output token (TPOT) within the limits. It
is doubled until it is not sustained, then found by bisection, then confirmed: measured until there
are enough answers for that claim.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import model  # before NumPy, whose threads it limits
import numpy as np
from runtimes import (
    ContinuousBatching,
    GenerationConfig,
    GenerationResult,
    check_length,
    length_warnings,
    truncate_at_eos,
)

from harness import capacity, plot, run, stats
from harness.metrics import METRICS
from harness.monitor import SystemMonitor, iterations

MAX_LATE_SHARE = 0.05  # of the answers
CONFIDENCE = 0.95
RATE, TTFT, TPOT = "tokens_per_second", "time_to_first_token_s", "time_per_output_token_s"


@dataclass(frozen=True)
class Setup:
    """What every number of users is measured with."""

    runtime: ContinuousBatching
    prompts: model.Prompts
    config: GenerationConfig
    warmup: int
    min_duration_s: float
    max_ttft_s: float
    max_tpot_s: float

    def is_late(self, result: GenerationResult) -> bool:
        tpot_s = result.time_per_output_token_s or 0.0  # None for a single token
        return result.time_to_first_token_s > self.max_ttft_s or tpot_s > self.max_tpot_s


@dataclass(frozen=True)
class Level:
    """What a number of users got."""

    samples: dict[str, list[list[float]]]  # by metric, one list per iteration
    summary: dict  # the figures that the record keeps of it
    is_sustained: bool
    monitor: SystemMonitor

    @property
    def is_over(self) -> bool:
        """Measured to its end, and not sustained."""
        return not self.is_sustained and self.monitor.status == "complete"


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
        GenerationResult(
            [truncate_at_eos(its_tokens, config.eos_ids)], its_s, max(its_s, default=0)
        )
        for its_tokens, its_s in zip(tokens, times_s)
    ]


def is_shown(answers: int, late: int) -> bool:
    """Whether `late` of `answers` show, at CONFIDENCE, that under MAX_LATE_SHARE are.

    One-sided exact binomial test (Clopper and Pearson, 1934).
    """
    log_late, log_in_time = math.log(MAX_LATE_SHARE), math.log1p(-MAX_LATE_SHARE)
    so_few = 0.0
    for k in range(late + 1):
        ways = math.lgamma(answers + 1) - math.lgamma(k + 1) - math.lgamma(answers - k + 1)
        so_few += math.exp(ways + k * log_late + (answers - k) * log_in_time)
    return so_few <= 1 - CONFIDENCE


def answers_needed() -> int:
    """How many answers, with none late, show that under MAX_LATE_SHARE are."""
    return next(answers for answers in range(1, 10**6) if is_shown(answers, 0))


def highest(levels: dict[int, Level]) -> int:
    """The most users sustained, below which no number was not; 0 if there is none."""
    over = min((users for users in levels if levels[users].is_over), default=math.inf)
    return max((u for u in levels if u < over and levels[u].is_sustained), default=0)


def confirm(
    sustained: Callable[[int, int], bool | None], levels: dict[int, Level], min_answers: int
) -> None:
    """Measure the most users until there are enough answers; where they fail, ever fewer users."""
    users = highest(levels)
    while users and not (users in levels and levels[users].summary["answers"] >= min_answers):
        if sustained(users, math.ceil(min_answers / users)) is not False:
            return
        users = max(highest(levels), users - max(1, users // 16))


def measure_level(setup: Setup, users: int, num_iters: int, is_first: bool) -> Level | None:
    """None where it was interrupted before the first iteration's end.

    Raises what interrupted the first level, as there is nothing to record then.
    """
    samples: dict[str, list[list[float]]] = {RATE: [], TTFT: [], TPOT: []}
    generated = late = 0
    with SystemMonitor(keep=lambda: not is_first or bool(samples[RATE])) as monitor:
        for _ in range(setup.warmup):
            generate(setup.runtime, setup.prompts.take(users), setup.config)
        for _ in iterations(num_iters, setup.min_duration_s, f"{users} user(s)"):
            ids = setup.prompts.take(users)
            started = time.perf_counter()
            results = generate(setup.runtime, ids, setup.config)
            time_s = time.perf_counter() - started
            check_length([result.tokens[0] for result in results], setup.config)
            count = sum(result.count for result in results)
            per_token_s = [result.time_per_output_token_s for result in results]
            samples[RATE].append([count / time_s])
            samples[TTFT].append([result.time_to_first_token_s for result in results])
            samples[TPOT].append([value for value in per_token_s if value is not None])
            generated += count
            late += sum(map(setup.is_late, results))
    samples = {name: each for name, each in samples.items() if any(each)}
    if not samples:
        return None
    answers = sum(map(len, samples[TTFT]))
    is_sustained = monitor.status == "complete" and late <= MAX_LATE_SHARE * answers
    summary = {name: stats.summarize(METRICS[name], each) for name, each in samples.items()}
    summary |= {"generated_tokens": generated, "answers": answers, "late": late}
    summary |= {"sustained": is_sustained}
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


def make_record(args, described: dict, levels: dict[int, Level], config: GenerationConfig) -> dict:
    """The run's metrics are those of the most users sustained; if none, of the fewest tried."""
    last = levels[max(levels, key=list(levels).index)]
    levels = dict(sorted(levels.items()))
    most = highest(levels)
    over = min((users for users in levels if users > most and levels[users].is_over), default=None)
    shown = levels[most or min(levels)]
    monitor = shown.monitor
    monitor.status, monitor.error = last.monitor.status, last.monitor.error
    found = {users: level.summary for users, level in levels.items()}
    all_sustained = over is None and monitor.status == "complete"
    more = "; as many as were tried (--max_users, --concurrency)" if all_sustained else ""
    answers, late = shown.summary["answers"], shown.summary["late"]
    warnings = length_warnings(shown.summary["generated_tokens"], answers, config)
    if most and not is_shown(answers, late):
        warnings.append(
            f"{late} of {answers} answers late do not show at {CONFIDENCE:.0%} confidence that "
            f"under {MAX_LATE_SHARE:.0%} are (--min_observations, --num_iters)"
        )
    seen = f"{answers - late} of {answers} answers" if most else "not one with 95 % of the answers"
    limits = f"TTFT within {args.max_ttft:g} s and TPOT within {args.max_tpot:g} s"
    if len(levels) > 1:
        draw(found, args)
    return run.build(
        args,
        **described,
        warnings=warnings,
        samples={"users": [[most]], **shown.samples},
        monitor=monitor,
        output={
            "users": most,
            "first_over": over,
            "levels": {str(n): level for n, level in found.items()},
        },
        details=["", *table(found), "", f"Capacity: {most} user(s), {seen} with {limits}{more}"],
    )


def user_counts(text: str) -> list[int]:
    """For argparse: '1,2,4' as numbers."""
    return sorted({cli.positive_int(part) for part in text.split(",")})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_model_arguments(parser)
    model.add_generation_arguments(parser)
    model.add_prompt_arguments(parser)
    group = parser.add_argument_group("users")
    add = group.add_argument
    add("--min_users", type=cli.positive_int, default=1, help="first number")
    add("--max_users", type=cli.positive_int, default=256, help="last number")
    exactly = "measure exactly these numbers instead, e.g. 1,2,4,8"
    add("--concurrency", type=user_counts, metavar="N,N,...", help=exactly)
    limit = {"type": cli.positive_float, "metavar": "S"}
    add("--max_ttft", **limit, default=2.0, help="95 %% of the answers begin by then")
    add("--max_tpot", **limit, default=0.2, help="95 %% of the answers have a token that often")
    observations = f"answers that the result is confirmed on; {answers_needed()}, with none late, "
    observations += "show at 95 %% confidence that 95 %% are within the limits"
    number = {"type": cli.positive_int, "metavar": "N", "default": answers_needed()}
    add("--min_observations", **number, help=observations)
    capacity.add_plot_argument(group)
    cli.add_common_arguments(parser, iteration="one answer to every user", num_iters=8)
    args = parser.parse_args()
    model.check_prompt_arguments(parser, args)
    capacity.check_arguments(parser, args, "user")
    return args


def main() -> int:
    args = parse_args()
    model.check_inputs(args)
    capacity.check_plot(args)
    loaded = model.load(args.model_name, ContinuousBatching, args)
    system = model.print_header(args, loaded)
    prompts = model.prompts_from_arguments(args, loaded.text)
    model.check_context(loaded.text, prompts.tokens, args.max_new_tokens)
    config = model.generation_config(args, loaded.text, args.max_new_tokens)

    repeat, limits_s = (args.warmup, args.min_duration), (args.max_ttft, args.max_tpot)
    setup = Setup(loaded.runtime, prompts, config, *repeat, *limits_s)
    levels: dict[int, Level] = {}
    described = describe(args, loaded, system, setup)
    journal = run.start(args, **described)

    def sustained(users: int, num_iters: int = args.num_iters) -> bool | None:
        level = measure_level(setup, users, num_iters, is_first=not levels)
        if level:
            before = levels.pop(users, None)  # the last measured is the last in order
            levels[users] = level
            if before and level.monitor.status != "complete":  # it had been measured to its end
                levels[users] = before
                before.monitor.status, before.monitor.error = (
                    level.monitor.status,
                    level.monitor.error,
                )
            found = {str(n): each.summary for n, each in levels.items()}
            journal.replace({"users": [[highest(levels)]], **level.samples}, {"levels": found})
        return level.is_sustained if level and level.monitor.status == "complete" else None

    if args.concurrency:
        for users in args.concurrency:
            if sustained(users) is None:
                break
    else:
        capacity.search(sustained, capacity.doubling(args.min_users, args.max_users))
        if all(level.monitor.status == "complete" for level in levels.values()):
            confirm(sustained, levels, args.min_observations)
    return run.finish(make_record(args, described, levels, config), args)


if __name__ == "__main__":
    cli.run(main)
