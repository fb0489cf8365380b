"""How many users the machine answers within limits, by openvino-genai's continuous batching.

  python3 capacity.py --model_name="llama-2-7b-chat-ov" --max_ttft 2 --max_tpot 0.2
  python3 capacity.py --model_name="llama-2-7b-chat-ov" --concurrency 1,2,4,8

A user thinks for a random, exponentially distributed time (--think_time on average), asks, reads
the answer as it is generated, and thinks again. An answer is late where its time to first token
(TTFT, from asking, so that queueing counts) or time per output token (TPOT) is above the limit, or
where it isn't finished that long after the end. A number of users is sustained if under 5 % of the
answers are late in both halves of --duration. It is doubled until it is not, then found by
bisection, then confirmed on --min_observations answers.
"""

import argparse
import heapq
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
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

from harness import capacity, players, run
from harness.capacity import Stream

LIMIT = capacity.Limit(late_share=0.05, of_each=False)
RATE, TTFT, TPOT = "tokens_per_second", "time_to_first_token_s", "time_per_output_token_s"


@dataclass(frozen=True)
class Settings:
    """How users ask, and when an answer is late."""

    prompts: model.Prompts
    config: GenerationConfig
    think_time_s: float
    max_ttft_s: float
    max_tpot_s: float
    settle_s: float

    @property
    def longest_s(self) -> float:
        """From asking to the last token, within the limits."""
        return self.max_ttft_s + self.max_tpot_s * self.config.max_new_tokens

    def is_late(self, result: GenerationResult) -> bool:
        tpot_s = result.time_per_output_token_s or 0.0  # None for a single token
        return result.time_to_first_token_s > self.max_ttft_s or tpot_s > self.max_tpot_s


class User:
    """Thinks and asks, at random by the seed and the user's number; one question at a time."""

    def __init__(self, number: int, settings: Settings):
        self._random = np.random.default_rng([settings.config.seed, number])
        self._settings, prompts = settings, settings.prompts
        self._prompts = replace(prompts, random=self._random) if prompts.random else prompts
        counts = {"answers": 0, "generated_tokens": 0}
        self.stream = Stream(samples={TTFT: [], TPOT: []}, rates={RATE: 0.0}, counts=counts)
        self.is_counted = False  # of the question asked last

    def first_s(self) -> float:
        """From the beginning to the first question; who does not think asks while settling."""
        return self.think_s() or float(self._random.uniform(0, self._settings.settle_s))

    def think_s(self) -> float:
        return float(self._random.exponential(self._settings.think_time_s))

    def ask(self, runtime: ContinuousBatching, asked_s: float, due_s: float | None) -> None:
        """`due_s` is from when questions are counted; None: this one isn't."""
        self._asked_s, self.is_counted = asked_s, due_s is not None
        self._tokens: list[int] = []
        self._times_s: list[float] = []  # of each token, from asking on
        if due_s is not None:
            self.stream.due_s.append(due_s)
            self.stream.late.append(True)  # until the answer is there
        self.handle = runtime.add(self._prompts.take(1)[0], self._settings.config)

    def read(self, new: list[int], now_s: float) -> None:
        self._tokens += new
        self._times_s += [now_s - self._asked_s] * len(new)

    def finish(self) -> None:
        """The answer is whole. Raises UserError for a wrong length."""
        tokens = truncate_at_eos(self._tokens, self._settings.config.eos_ids)
        check_length([tokens], self._settings.config)
        if not self.is_counted:
            return
        self.is_counted = False
        result = GenerationResult([tokens], self._times_s, self._times_s[-1])
        self.stream.late[-1] = self._settings.is_late(result)
        self.stream.counts["answers"] += 1
        self.stream.counts["generated_tokens"] += result.count
        self.stream.samples[TTFT].append(result.time_to_first_token_s)
        if result.time_per_output_token_s is not None:
            self.stream.samples[TPOT].append(result.time_per_output_token_s)


def play(
    runtime: ContinuousBatching,
    settings: Settings,
    numbers: Sequence[int],
    begins_s: float,
    duration_s: float,
) -> list[Stream]:
    """Let users ask: see harness.capacity.Play. Raises UserError for an answer of a wrong length.

    They go on asking after the end, until what was asked before is answered, or is late anyway.
    """
    users = [User(number, settings) for number in numbers]
    counted_s = begins_s + settings.settle_s
    ends_s = counted_s + duration_s
    asking = [(begins_s + user.first_s(), index) for index, user in enumerate(users)]
    heapq.heapify(asking)
    answered: dict[int, User] = {}  # by index, those who are being answered
    try:
        while (now_s := time.perf_counter()) < ends_s or (
            now_s < ends_s + settings.longest_s
            and any(user.is_counted for user in answered.values())
        ):
            while asking and asking[0][0] <= now_s:
                asked_s, index = heapq.heappop(asking)
                due_s = asked_s - counted_s
                users[index].ask(runtime, asked_s, due_s if 0 <= due_s < duration_s else None)
                answered[index] = users[index]
            if not answered:
                time.sleep(max(0.0, min(asking[0][0], ends_s) - now_s))
                continue
            runtime.step()
            now_s = time.perf_counter()
            for index, user in list(answered.items()):
                user.read(new := runtime.read(user.handle), now_s)
                if counted_s <= now_s < ends_s:
                    user.stream.rates[RATE] += len(new) / duration_s
                if runtime.is_finished(user.handle):
                    user.finish()
                    heapq.heappush(asking, (now_s + user.think_s(), index))
                    del answered[index]
    finally:
        for user in answered.values():
            user.handle.cancel()
        while runtime.is_busy():
            runtime.step()
    return [user.stream for user in users]


def prepare(args: argparse.Namespace) -> capacity.Job:
    """Load the model and print the header. Raises UserError."""
    loaded = model.load(args.model_name, ContinuousBatching, args)
    system = model.print_header(args, loaded)
    prompts = model.prompts_from_arguments(args, loaded.text)
    model.check_context(loaded.text, prompts.tokens, args.max_new_tokens)
    config = model.generation_config(args, loaded.text, args.max_new_tokens)
    settings = Settings(prompts, config, args.think_time, args.max_ttft, args.max_tpot, 0.0)
    settle_s = min(args.think_time + settings.longest_s, args.duration / 2)
    settings = replace(settings, settle_s=settle_s)
    exact = ",".join(map(str, args.concurrency)) if args.concurrency else None
    described = {
        "workload": "llm-capacity",
        "title": "LLM capacity",
        "primary": "users",
        "task": {
            **model.task(config, prompts, 1, False),
            "think time s": args.think_time,
            "max TTFT s": args.max_ttft,
            "max TPOT s": args.max_tpot,
            "numbers of users": exact,
        },
        "work": [("1,000 user-hours", "users", 3600e3)],
        **model.record_parts(args, loaded, settle_s=settle_s),
        "input": prompts.source(),
        "system": system,
        "check_samples": False,
    }
    return capacity.Job(described, partial(play, loaded.runtime, settings))


def user_counts(text: str) -> list[int]:
    """For argparse: '1,2,4' as numbers."""
    return sorted({cli.positive_int(part) for part in text.split(",")})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_model_arguments(parser)
    model.add_generation_arguments(parser)
    model.add_prompt_arguments(parser)
    add = parser.add_argument_group("users").add_argument
    exactly = "measure exactly these numbers instead of searching, e.g. 1,2,4,8"
    add("--concurrency", type=user_counts, default=(), metavar="N,N,...", help=exactly)
    thinks = "mean time from an answer to the next question; 0: asks again at once"
    add("--think_time", type=cli.non_negative_float, default=10.0, metavar="S", help=thinks)
    limit = {"type": cli.positive_float, "metavar": "S"}
    add("--max_ttft", **limit, default=2.0, help="above which an answer is late")
    add("--max_tpot", **limit, default=0.2, help="above which an answer is late")
    players.add_arguments(parser)
    capacity.add_arguments(parser, "user", 60.0, LIMIT)
    cli.add_common_arguments(parser, iteration=None)
    args = parser.parse_args()
    model.check_prompt_arguments(parser, args)
    capacity.check_arguments(parser, args, "user")
    return args


def main() -> int:
    args = parse_args()
    model.check_inputs(args)
    capacity.check_plot(args)
    with players.job(args, prepare, "user", LIMIT) as job:
        journal = run.start(args, **job.described)
        found = capacity.find(job, args, "user", journal, LIMIT, args.concurrency)
    capacity.draw(found, args, "user", {TTFT: args.max_ttft, TPOT: args.max_tpot})
    limits = f"TTFT within {args.max_ttft:g} s and TPOT within {args.max_tpot:g} s"
    condition = f"with {limits} in over 95 % of the answers"
    parts = found.record_parts(job, args, "user", condition)
    of_each = found.levels[found.shown]["of_each"]
    counts = sum(of_each["generated_tokens"]), sum(of_each["answers"])
    parts["warnings"] += length_warnings(*counts, args.max_new_tokens)
    return run.finish(run.build(args, **parts), args)


if __name__ == "__main__":
    cli.run(main)
