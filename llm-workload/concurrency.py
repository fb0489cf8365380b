"""Many users at a time on one model, by openvino-genai's continuous batching: infer.py --concurrency 1,2,4,8

In one iteration every user asks at the same moment, and all are answered; with --prompt_tokens each asks something else. That all
prompts arrive at once is the hardest case for the time to first token. The pipeline's scheduler decides what goes into a step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import runtimes
from harness import cli, measure, record, trouble


class ContinuousBatching:
    """openvino-genai's ContinuousBatchingPipeline, without a prefix cache."""

    name, package = "openvino-genai continuous batching", "openvino_genai"

    def __init__(self, folder: Path, device: str, config: dict, inspect: Callable):
        import openvino_genai as genai

        runtimes.compile_to_inspect(folder, device, config, inspect)
        self._genai = genai
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        started = time.perf_counter()
        self._pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, device, config)
        self.read_time_s, self.compile_time_s = 0.0, time.perf_counter() - started  # both in one
        self._asked = 0

    def generate(self, prompts: np.ndarray, how: runtimes.How) -> list[runtimes.Answer]:
        """Answer prompts, int64 [users, T], that all come now: an Answer each."""
        import openvino as ov

        config = runtimes.genai_config(self._genai, how)
        started = time.perf_counter()
        handles = []
        for row in prompts:
            handles.append(self._pipeline.add_request(self._asked, ov.Tensor(row[None].copy()), config))
            self._asked += 1
        tokens, times_s = [[] for _ in handles], [[] for _ in handles]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now_s = time.perf_counter() - started
            for handle, its_tokens, its_times_s in zip(handles, tokens, times_s):
                while handle.can_read():
                    new = next(iter(handle.read().values())).generated_ids
                    its_tokens += new
                    its_times_s += [now_s] * len(new)
        return [
            runtimes.Answer([runtimes.up_to_end(its_tokens, how)], its_times_s, its_times_s[-1])
            for its_tokens, its_times_s in zip(tokens, times_s)
        ]


def levels(text: str) -> list[int]:
    """For argparse: '1,2,4' as numbers."""
    return sorted({cli.positive_int(part) for part in text.split(",")})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many users at a time")
    group.add_argument("--concurrency", metavar="N,N,...", help="numbers of users to be tried, e.g. 1,2,4,8; uses genai")
    group.add_argument("--max_ttft", type=cli.positive_float, default=2.0, metavar="S",
                       help="95 %% of the users must have their first token by then")  # fmt: skip
    group.add_argument("--max_tpot", type=cli.positive_float, default=0.2, metavar="S",
                       help="95 %% of the users must get a token that often")  # fmt: skip
    group.add_argument("--plot", type=Path, default=Path("concurrency.png"), help="picture of rate and latencies against users")


def run(args: argparse.Namespace, loaded, prompts, how: runtimes.How) -> dict:
    """Measure each number of users, print what came of it, and return the record."""
    told, watches, samples = {}, {}, {}
    prompt_tokens = prompts.take()[0].shape[1]
    for users in levels(args.concurrency):
        prompts.count = users
        for _ in range(args.warmup):
            loaded.runtime.generate(prompts.take()[0], how)
        rates, answers = [], []
        with measure.Watch() as watches[users]:
            for _ in measure.iterations(args.num_iters, args.min_duration):
                ids = prompts.take()[0]
                started = time.perf_counter()
                its_answers = loaded.runtime.generate(ids, how)
                rates.append(sum(len(answer.tokens[0]) for answer in its_answers) / (time.perf_counter() - started))
                answers += its_answers
        if not rates:
            break
        samples[users] = {"tokens_per_second": rates, **of_users(answers)}
        told[users] = level = {name: measure.summarize(values, *UNITS[name]) for name, values in samples[users].items()}
        within = p95(samples[users]["time_to_first_token_s"]) <= args.max_ttft
        within &= p95(samples[users].get("time_per_output_token_s", [0.0])) <= args.max_tpot
        level["within_limits"] = within
        level["generated_tokens"] = sum(len(answer.tokens[0]) for answer in answers)
        if watches[users].status != "complete":
            break
    if not told:
        raise KeyboardInterrupt
    print_table(told)
    ended = list(watches.values())[-1]
    largest = max((users for users in told if told[users]["within_limits"]), default=0)
    shown = largest or min(told)
    watch = watches[shown]
    watch.status, watch.error = ended.status, ended.error
    limits = f"95 % of the users with their first token within {args.max_ttft:g} s and a token every {args.max_tpot:g} s"
    print(f"\nUsers at a time: {largest}, {limits}"
          + (", the most that were tried" if largest == max(told) and ended.status == "complete" else ""))  # fmt: skip
    plot(told, args.plot)
    metrics = {name: metric for name, metric in told[shown].items() if name in UNITS}
    metrics["users"] = measure.summarize([largest], "users", "higher")
    return record.build(
        "llm-concurrency",
        args,
        headline="users",
        metrics=metrics,
        samples={"users": [largest], **samples[shown]},
        model=loaded.model,
        source=prompts.source(prompt_tokens),
        machine=loaded.machine,
        placement=loaded.placement,
        watch=watch,
        output={"users": largest, "levels": {str(users): level for users, level in told.items()}},
        resolved={"runtime": loaded.runtime.name},
        signs=trouble.of_machine(watch.usage, loaded.machine),
    )


UNITS = {
    "tokens_per_second": ("tokens/s", "higher"),
    "time_to_first_token_s": ("s", "lower"),
    "time_per_output_token_s": ("s", "lower"),
}


def of_users(answers: list[runtimes.Answer]) -> dict[str, list[float]]:
    """Time to first token, and mean time per output token after it, of each user's answer."""
    per_token = [
        (answer.times_s[-1] - answer.times_s[0]) / (len(answer.times_s) - 1) for answer in answers if len(answer.times_s) > 1
    ]
    first = {"time_to_first_token_s": [answer.times_s[0] for answer in answers]}
    return {**first, "time_per_output_token_s": per_token} if per_token else first


def p95(values: list[float]) -> float:
    return measure.percentile(sorted(values), 0.95)


def print_table(told: dict[int, dict]) -> None:
    """A line a number of users. Of few users a percentile is left out, and the largest value told instead."""
    head = ["users", "tokens/s", "TTFT p50 s", "TTFT p95 s", "TPOT p50 s", "TPOT p95 s"]
    rows = [head]
    for users, level in told.items():
        first, each = level["time_to_first_token_s"], level.get("time_per_output_token_s")
        rows.append([str(users), f"{level['tokens_per_second']['median']:.4g}", f"{first['median']:.4g}", upper(first)]
                    + ([f"{each['median']:.4g}", upper(each)] if each else ["-", "-"]))  # fmt: skip
    print("\n" + "\n".join(cli.columns(rows, str.rjust)))


def upper(metric: dict) -> str:
    return f"{metric['p95']:.4g}" if "p95" in metric else f"max {metric['max']:.4g}"


def plot(told: dict[int, dict], path: Path) -> None:
    """Tokens per second, and both latencies, against users. A file that can't be written is told and does not cost the record."""
    if len(told) < 2:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, figsize=(7, 6), layout="constrained", sharex=True)
    users = list(told)
    above.plot(users, [told[u]["tokens_per_second"]["median"] for u in users], "o-")
    above.set(ylabel="tokens per second, all users", ylim=(0, None), title="Continuous batching")
    for name, label in (("time_to_first_token_s", "to first token"), ("time_per_output_token_s", "per token after it")):
        if all(name in told[u] for u in users):
            below.plot(users, [told[u][name]["median"] for u in users], "o-", label=label)
    below.set(xlabel="users at a time", ylabel="seconds, median", yscale="log", xticks=users)
    below.legend()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        print(f"warning: cannot write {path}: {cli.one_line(error)} (--plot)", file=sys.stderr)
    else:
        print(f"Plot: {path}")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not args.concurrency:
        return
    try:
        levels(args.concurrency)
    except (argparse.ArgumentTypeError, ValueError):
        parser.error(f"--concurrency {args.concurrency}: give numbers of users, such as 1,2,4,8")
    if args.batch_size > 1 or args.stream:
        parser.error("--concurrency says how many answer at a time: leave --batch_size and --stream out")
