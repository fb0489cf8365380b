"""Measure text generation: tokens per second, time to first token, time per output token.

  python3 infer.py --model_name="llama-2-7b-chat-ov"
  python3 infer.py --model_name="llama-2-7b-chat-ov" --runtime genai --prompt_tokens 1024

Timed is the runtime's generation: from the prompt's token ids to the last new token's id. Making
token ids of text and text of token ids is timed apart. Only generated tokens are counted.
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import model
import numpy as np
import runtimes
import traffic
from model import LoadedModel, Prompts
from runtimes import RUNTIMES, GenAI, GenerationConfig, GenerationResult, OnTokens, Optimum

from harness import energy, instance, instances, monitor, roofline, run, tune
from harness.journal import Journal
from harness.roofline import Roofline

# What --tune looks at: throughput, latency, and options tried with the best layout.
TUNED = (
    "tokens_per_second",
    "time_per_output_token_s",
    (("--batch_size", "4"), ("--batch_size", "16")),
)


def generate_optimum(
    runtime: Optimum, prompts: np.ndarray, config: GenerationConfig, show: OnTokens | None = None
) -> GenerationResult:
    """Generate from prompts of equal length, int64 [B, T]: a forward pass per token of each."""
    sample = runtimes.make_sampler(config)
    ended = np.zeros(len(prompts), bool)
    steps, times_s = [], []
    started = time.perf_counter()
    logits = runtime.start(prompts, config.max_new_tokens)  # prefill
    while True:
        tokens = sample(logits)
        times_s.append(time.perf_counter() - started)
        steps.append(tokens)
        if show:
            show(tokens.tolist())
        if config.stop_at_eos:
            ended |= np.isin(tokens, list(config.eos_ids))
        if len(steps) == config.max_new_tokens or ended.all():
            break
        logits = runtime.step(tokens)  # decode
    time_s = time.perf_counter() - started
    rows = np.stack(steps, axis=1).tolist()
    tokens = [runtimes.truncate_at_eos(row, config.eos_ids) for row in rows]
    return GenerationResult(tokens, times_s, time_s)


def generate_genai(
    runtime: GenAI, prompts: np.ndarray, config: GenerationConfig, show: OnTokens | None = None
) -> GenerationResult:
    """Generate from prompts of equal length, int64 [B, T], in openvino-genai's own loop.

    The time of the call is taken here; those of tokens are, too, but for batches, which
    openvino-genai does not stream.
    """
    times_s: list[float] = []

    def on_tokens(tokens: list[int]) -> None:
        times_s.append(time.perf_counter() - started)
        if show:
            show(tokens)

    is_streamed = len(prompts) == 1
    started = time.perf_counter()
    result = runtime.generate(prompts, config, on_tokens if is_streamed else None)
    time_s = time.perf_counter() - started
    if not is_streamed:  # by openvino-genai's own clock
        raw = result.perf_metrics.raw_metrics
        first_s = raw.m_times_to_first_token[0] / 1e6
        at_ms = sorted(set(raw.m_new_token_times))  # milliseconds, though documented as µs
        times_s = [first_s + (moment - at_ms[0]) / 1e3 for moment in at_ms]
    tokens = [runtimes.truncate_at_eos(row, config.eos_ids) for row in result.tokens]
    return GenerationResult(tokens, times_s, time_s)


GENERATE = {Optimum: generate_optimum, GenAI: generate_genai}


@dataclass(frozen=True)
class Job:
    """What is generated, and how often."""

    prompts: Prompts
    config: GenerationConfig
    batch_size: int
    warmup: int
    num_iters: int
    min_duration_s: float
    is_streamed: bool = False


@dataclass(frozen=True)
class Measurement:
    journal: Journal  # the samples, and the monitor of the system while they were taken
    results: list[GenerationResult]
    text: str  # of the last iteration's first answer


def first_inference_time_s(loaded: LoadedModel, job: Job) -> float:
    """Time of the first inference after loading: the prompt and one token."""
    config = GenerationConfig(1, loaded.text.eos_ids)
    generate = GENERATE[type(loaded.runtime)]
    return generate(loaded.runtime, job.prompts.take(job.batch_size), config).time_s


def measure(loaded: LoadedModel, job: Job, journal: Journal) -> Measurement:
    """Warm up, then answer prompts and take the times. Ctrl-C keeps what was measured."""
    from transformers import TextStreamer

    generate, tokenizer = GENERATE[type(loaded.runtime)], loaded.text.tokenizer
    for _ in range(job.warmup):
        generate(loaded.runtime, job.prompts.take(job.batch_size), job.config)

    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    show = (lambda tokens: streamer.put(np.array(tokens))) if job.is_streamed else None
    results, text = [], ""
    instance.wait_for_others()
    with journal.monitor:
        for _ in monitor.iterations(job.num_iters, job.min_duration_s):
            started = time.perf_counter()
            ids = job.prompts.take(job.batch_size)
            tokenized_s = time.perf_counter() - started

            result = generate(loaded.runtime, ids, job.config, show)
            if show:
                streamer.end()
            runtimes.check_length(result.tokens, job.config)

            started = time.perf_counter()
            text = tokenizer.decode(result.tokens[0], skip_special_tokens=True)
            detokenized_s = time.perf_counter() - started

            first_s, per_token_s = result.time_to_first_token_s, result.time_per_output_token_s
            row = {
                "generation_time_s": [result.time_s],
                "tokens_per_second": [result.count / result.time_s],
                "time_to_first_token_s": [first_s],
                "prompt_tokens_per_second": [ids.size / first_s],
                "time_per_output_token_s": [] if per_token_s is None else [per_token_s],
                "inter_token_latency_s": np.diff(result.times_s).tolist(),
                "tokenization_time_s": [tokenized_s] if job.prompts.text else [],
                "detokenization_time_s": [detokenized_s],
            }
            results.append(result)
            journal.add(row)
    return Measurement(journal, results, text)


def measure_roofline(args, loaded: LoadedModel, measured: Measurement) -> Roofline | None:
    """With the run's threads, properties and weight format; None where it would not be used."""
    found = loaded.inspection
    if (
        args.skip_limits
        or instance.current()
        or not found.traffic
        or measured.journal.monitor.status != "complete"
    ):
        return None
    threads = found.placement["threads_effective"]
    weight_format = found.description["weight_format"]
    return roofline.measure_apart(args.device, loaded.config, threads, weight_format)


def describe(args: argparse.Namespace, loaded: LoadedModel, system: dict, job: Job) -> dict:
    """What the record says of the run before it has begun."""
    return {
        "workload": "llm",
        "title": "LLM",
        "primary": "tokens_per_second",
        "task": model.task(job.config, job.prompts, job.batch_size, job.is_streamed),
        "work": [("million tokens", "tokens_per_second", 1e6)],
        **model.record_parts(args, loaded),
        "input": job.prompts.source(),
        "system": system,
    }


def make_record(
    args: argparse.Namespace,
    described: dict,
    loaded: LoadedModel,
    job: Job,
    measured: Measurement,
    first_s: float,
    roofs: Roofline | None,
) -> dict:
    prompts, samples, watched = job.prompts, measured.journal.samples, measured.journal.monitor
    generated = [result.count for result in measured.results]
    first_tokens = measured.results[0].tokens
    differs_by_design = job.config.temperature > 0 or prompts.random is not None
    same = all(result.tokens == first_tokens for result in measured.results)
    output = {
        "text": measured.text,
        "generated_tokens": generated,
        "same_tokens_every_iteration": None if differs_by_design else same,
    }
    answers = f" in {job.batch_size} answers" if job.batch_size > 1 else ""
    details = [f"Tokens: {prompts.tokens} in the prompt, {generated[-1]} generated{answers}"]
    utilization, reasons = {}, list(described["reasons"])
    if roofs:
        shape = (prompts.tokens, job.config.max_new_tokens, job.batch_size)
        utilization, limits = traffic.utilization(loaded.inspection.traffic, roofs, samples, *shape)
        details.append(limits)
        reasons += traffic.impossible(utilization)
        output |= {"roofline": asdict(roofs), "traffic": asdict(loaded.inspection.traffic)}
    energy_j = energy.per_unit_j(watched.usage, watched.status, args.device, sum(generated))
    return run.build(
        args,
        **{**described, "reasons": reasons},
        warnings=runtimes.length_warnings(
            sum(generated), len(generated) * job.batch_size, job.config.max_new_tokens
        ),
        samples={
            **samples,
            **utilization,
            "energy_per_token_j": [[] if energy_j is None else [energy_j]],
            "first_inference_time_s": [[first_s]],
            "load_time_s": [[loaded.load_time_s]],
            "peak_rss_bytes": [[watched.usage["peak_rss_bytes"]]],
        },
        monitor=watched,
        output=output,
        details=[*details, f"Text: {prompts.text}{measured.text}"],
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_model_arguments(parser)
    add_runtime_arguments(parser)
    model.add_generation_arguments(parser)
    model.add_prompt_arguments(parser)
    add = parser.add_argument
    add("--batch_size", type=cli.positive_int, default=1, help="prompts answered together")
    add("--stream", action="store_true", help="print tokens as they come; that time counts")
    add("--concurrency", help=argparse.SUPPRESS)  # moved to capacity.py
    instances.add_arguments(parser)
    cli.add_common_arguments(parser, iteration="one answer to the prompt", num_iters=8)
    args = parser.parse_args()
    model.check_prompt_arguments(parser, args)
    if args.concurrency:
        name = f'--model_name="{args.model_name}" --concurrency {args.concurrency}'
        parser.error(f"many users are measured by: python3 capacity.py {name}")
    if args.stream and args.batch_size > 1:
        parser.error("--stream prints one answer: leave --batch_size out")
    return args


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    which = "optimum: optimum-intel, one step at a time; genai: openvino-genai's LLMPipeline"
    parser.add_argument("--runtime", choices=tuple(RUNTIMES), default="optimum", help=which)
    skip = "do not measure the machine's roofline afterwards: no MFU, no MBU"
    parser.add_argument("--skip_limits", action="store_true", help=skip)


def main() -> int:
    args = parse_args()
    model.check_inputs(args)
    if instances.requested(args):
        return tune.measure(args, *TUNED) if args.tune else instances.measure(args)
    loaded = model.load(args.model_name, RUNTIMES[args.runtime], args)
    system = model.print_header(args, loaded)
    prompts = model.prompts_from_arguments(args, loaded.text)
    model.check_context(loaded.text, prompts.tokens, args.max_new_tokens)
    config = model.generation_config(args, loaded.text, args.max_new_tokens)
    repeat = (args.warmup, args.num_iters, args.min_duration)
    job = Job(prompts, config, args.batch_size, *repeat, is_streamed=args.stream)

    described = describe(args, loaded, system, job)

    first_s = first_inference_time_s(loaded, job)
    measured = measure(loaded, job, run.start(args, **described))
    roofs = measure_roofline(args, loaded, measured)
    record = make_record(args, described, loaded, job, measured, first_s, roofs)
    return run.finish(record, args)


if __name__ == "__main__":
    cli.run(main)
