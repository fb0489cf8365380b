"""Measure text generation: tokens per second, time to first token, time per output token.

  python3 infer.py --model_name="llama-2-7b-chat-ov"
  python3 infer.py --model_name="llama-2-7b-chat-ov" --runtime genai --prompt_tokens 1024 --max_new_tokens 128

What is timed is the runtime's generation: from the prompt's token ids to the last new token's id. Making token ids of the prompt
and text of the tokens are timed apart. Only generated tokens are counted.
"""

import argparse
import hashlib
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

import numpy as np

import concurrency
import limits
import traffic
from harness import cli, files, measure, model as model_files, placement as place, record
from harness.cli import UserError
from runtimes import OPENVINO_MODEL, RUNTIMES, Answer, How

MEMORY_BOUND = 0.7  # of the read bandwidth, from which on memory is told to be what limits
PROMPT = "Discuss the history and evolution of artificial intelligence in 80 words"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add_model_arguments(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default=PROMPT, help="text to continue")
    prompt.add_argument("--prompt_file", type=Path, help="read the prompt from a text file")
    prompt.add_argument("--prompt_tokens", type=cli.positive_int, metavar="N",
                        help="prompts of exactly N random tokens, another one each time")  # fmt: skip
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=100, help="tokens to generate for each prompt")
    parser.add_argument("--batch_size", type=cli.positive_int, default=1, help="prompts answered together")
    parser.add_argument("--stream", action="store_true", help="print tokens as they come; the time that takes counts")
    concurrency.add_arguments(parser)
    cli.add_common_arguments(parser, iteration="one answer to the prompt", num_iters=8)
    args = parser.parse_args()
    concurrency.check_arguments(parser, args)
    if args.stream and args.batch_size > 1:
        parser.error("--stream prints one answer: leave --batch_size out")
    if args.chat and args.prompt_tokens:
        parser.error("--chat takes a text: leave --prompt_tokens out")
    return args


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model answers, by which runtime, and how."""
    parser.add_argument("--model_name", type=Path, default=Path("llama-2-7b-chat-ov"), help="folder made by export.py")
    parser.add_argument("--runtime", choices=tuple(RUNTIMES), default="optimum",
                        help="optimum: optimum-intel's model, one step at a time; genai: openvino-genai's LLMPipeline")  # fmt: skip
    parser.add_argument(
        "--stop_at_eos", action="store_true", help="let an answer end early (by default all have the asked length)"
    )
    parser.add_argument("--temperature", type=cli.non_negative_float, default=0.0,
                        help="0: the most probable token; above: sampled")  # fmt: skip
    parser.add_argument("--top_p", type=cli.share, default=1.0, help="sample among the tokens that make up this share")
    place.add_llm_arguments(parser)
    parser.add_argument("--skip_limits", action="store_true", help="do not measure the machine's memory and cores afterwards")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and of random prompts")


class Prompts:
    """The prompts of one call after the other: the text given, or random tokens that no call has seen before."""

    def __init__(self, args: argparse.Namespace, tokenizer):
        self.args, self._tokenizer, self.text = args, tokenizer, None
        self.count = args.batch_size  # B
        if args.prompt_tokens:
            special = set(tokenizer.all_special_ids)
            self._ordinary = np.array([token for token in range(tokenizer.vocab_size) if token not in special])
            self._random = np.random.default_rng(args.seed)
            return
        self.text = read_prompt(args)
        if args.chat:
            try:
                self.text = tokenizer.apply_chat_template([{"role": "user", "content": self.text}], tokenize=False,
                                                          add_generation_prompt=True)  # fmt: skip
            except ValueError:
                raise UserError("this model has no chat template: leave --chat out") from None

    def take(self) -> tuple[np.ndarray, float | None]:
        """Token ids, int64 [B, T], and the seconds it took to make them of text."""
        if self.args.prompt_tokens:
            return self._random.choice(self._ordinary, (self.count, self.args.prompt_tokens)), None
        started = time.perf_counter()
        ids = self._tokenizer(self.text, add_special_tokens=not self.args.chat)["input_ids"]
        time_s = time.perf_counter() - started
        return np.tile(np.array(ids, np.int64), (self.count, 1)), time_s

    def source(self, length: int) -> dict:
        """What the record says of them."""
        if self.args.prompt_tokens:
            return {"name": f"random prompts of {length} tokens", "sha256": None, "prompt_tokens": length}
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return {"name": str(self.args.prompt_file or "prompt"), "sha256": digest, "prompt_tokens": length}


def read_prompt(args: argparse.Namespace) -> str:
    prompt = files.read_text(args.prompt_file, "--prompt_file") if args.prompt_file else args.prompt
    if not prompt.strip():
        raise UserError("the prompt is empty: give some text (--prompt, --prompt_file)")
    return prompt


def check_folder(args: argparse.Namespace) -> None:
    """Raise UserError where the model isn't there or not whole."""
    if not args.model_name.is_dir():
        raise UserError(f"no model folder {args.model_name}: make it with `python3 export.py --output {args.model_name}`")
    model_files.check_ir(args.model_name / OPENVINO_MODEL, hint=f"make it with `python3 export.py --output {args.model_name}`")


def openvino_config(args: argparse.Namespace, placement: place.Placement) -> dict:
    import openvino as ov

    return place.openvino_config(ov.Core(), args.device, placement, "LATENCY", {**place.llm_properties(args), **args.ov_config})


def load(args: argparse.Namespace, ov_config: dict, inspect: Callable):
    """Read, compile and check the model.

    Returns the runtime with it, its tokenizer, its end-of-sequence tokens, its context in tokens (None: not told), and the seconds
    it took.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)  # torch only samples here; its spinning OpenMP threads would slow OpenVINO's
    kind = concurrency.ContinuousBatching if args.concurrency else RUNTIMES[args.runtime]
    importlib.import_module(kind.package)  # is not loading the model
    started = time.perf_counter()
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model_name)
        model_config = AutoConfig.from_pretrained(args.model_name)
        try:
            eos = GenerationConfig.from_pretrained(args.model_name).eos_token_id
        except OSError:  # has none of its own
            eos = model_config.eos_token_id
        runtime = kind(args.model_name, args.device, ov_config, inspect)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(f"cannot load {args.model_name}: {cli.one_line(error)} (export it again with export.py)") from None
    eos_ids = frozenset(eos if isinstance(eos, list) else [eos]) - {None}
    return runtime, tokenizer, eos_ids, getattr(model_config, "max_position_embeddings", None), time.perf_counter() - started


def check_context(context: int | None, prompt_tokens: int, max_new_tokens: int) -> None:
    if context and prompt_tokens + max_new_tokens > context:
        raise UserError(f"{prompt_tokens} prompt tokens and {max_new_tokens} new ones exceed the model's context of {context}")


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    if not args.prompt_tokens:
        read_prompt(args)
    check_folder(args)
    record.check_destination(args)
    loaded = Loaded(args, placement)
    run = loaded.run(args)
    return record.finish(run, args)


class Loaded:
    """A model ready to answer, and what a record says of it."""

    def __init__(self, args: argparse.Namespace, placement: place.Placement):

        def inspect(model, compiled) -> None:
            weight_format = place.weight_format(model)
            place.check_int8(placement, weight_format)
            ir = [args.model_name / OPENVINO_MODEL]
            self.model = model_files.describe(args.model_name.name, args.model_name, ir, weight_format)
            self.placement = place.describe(placement, {"model": compiled})
            try:
                self.traffic = replace(traffic.count(model, compiled), logits_of_last_only=True)  # as both runtimes see to
            except ValueError:  # of this model, or on this device, it can't be told
                self.traffic = None

        self.ov_config = openvino_config(args, placement)
        self.runtime, self.tokenizer, self.eos_ids, self.context, self.load_time_s = load(args, self.ov_config, inspect)
        self.machine = record.introduce(self.model, self.placement, args.device, self.load_time_s, more=f"; {self.runtime.name}")
        self.first_inference_time_s, self.limits = None, None

    def run(self, args: argparse.Namespace) -> dict:
        """Warm up, measure, print what came of it, and return the record."""
        prompts = Prompts(args, self.tokenizer)
        prompt_tokens = prompts.take()[0].shape[1]
        check_context(self.context, prompt_tokens, args.max_new_tokens)
        how = How(args.max_new_tokens, self.eos_ids, args.stop_at_eos, args.temperature, args.top_p, args.seed)
        if args.concurrency:
            return concurrency.run(args, self, prompts, how)
        if self.first_inference_time_s is None:
            self.first_inference_time_s = self.runtime.generate(prompts.take()[0], How(1, how.eos_ids)).time_s
        for _ in range(args.warmup):
            self.runtime.generate(prompts.take()[0], how)

        printer = Printer(self.tokenizer) if args.stream else None
        samples = {name: [] for name in UNITS}
        answers: list[Answer] = []
        with measure.Watch() as watch:
            for _ in measure.iterations(args.num_iters, args.min_duration):
                ids, tokenization_time_s = prompts.take()
                answer = self.runtime.generate(ids, how, printer.tell if printer else None)
                if printer:
                    printer.end()
                text, detokenization_time_s = self._text(answer.tokens[0])
                add_samples(samples, ids, answer, tokenization_time_s, detokenization_time_s)
                answers.append(answer)
        if not answers:
            raise KeyboardInterrupt

        samples = {name: values for name, values in samples.items() if values}
        metrics = {name: measure.summarize(values, *UNITS[name]) for name, values in samples.items()}
        metrics |= {
            "first_inference_time_s": measure.summarize([self.first_inference_time_s], "s", "lower"),
            "load_time_s": measure.summarize([self.load_time_s], "s", "lower"),
            "peak_rss_bytes": measure.summarize([watch.usage["peak_rss_bytes"]], "bytes", "lower"),
        }
        generated = [sum(map(len, answer.tokens)) for answer in answers]
        print()
        for label, name in PRINTED.items():
            if name in metrics:
                print(f"{label}: {measure.describe(metrics[name])}")
        limited = self._against_limits(args, watch, metrics, prompt_tokens)
        measure.tell_energy(metrics, watch, args.device, "token", sum(generated))
        print(f"First inference: {self.first_inference_time_s:.4g} s, prompt and one token")
        print(f"Tokens: {prompt_tokens} in the prompt, {generated[-1]} generated"
              f"{f' in {args.batch_size} answers' if args.batch_size > 1 else ''}; "
              f"peak memory {watch.usage['peak_rss_bytes'] / 2**30:.2f} GiB")  # fmt: skip
        print(f"Text: {prompts.text or ''}{text}\n")
        run = record.build(
            "llm",
            args,
            headline="tokens_per_second",
            metrics=metrics,
            samples=samples,
            model=self.model,
            source=prompts.source(prompt_tokens),
            machine=self.machine,
            placement=self.placement,
            watch=watch,
            output={
                "text": text,
                "generated_tokens": generated,
                **limited,
                "same_tokens_every_iteration": all(answer.tokens == answers[0].tokens for answer in answers),
            },
            resolved={
                "runtime": self.runtime.name,
                "torch_threads": 1,
                "read_time_s": self.runtime.read_time_s,
                "compile_time_s": self.runtime.compile_time_s,
            },  # fmt: skip
        )
        run["trouble"] += place.llm_signs(args, self.placement)
        return run

    def _against_limits(self, args, watch: measure.Watch, metrics: dict, prompt_tokens: int) -> dict:
        """How close to the machine's limits this came: adds metrics, prints them, and returns what the record's output says of it."""
        if args.skip_limits or not self.traffic or watch.status != "complete":
            return {}
        if not self.limits:
            threads, weight_format = self.placement["threads_given"], self.model["weight_format"]
            self.limits = limits.measure_apart(args.device, self.ov_config, threads, weight_format)
        if not self.limits:
            return {}
        peak, bandwidth = self.limits.peak_gemm_flop_per_s, self.limits.read_bandwidth_bytes_per_s
        share = traffic.prefill_compute_share(self.traffic, prompt_tokens, metrics["time_to_first_token_s"]["median"], peak,
                                              batch_size=args.batch_size)  # fmt: skip
        metrics["prefill_compute_share"] = measure.summarize([share], "of the limit", None)
        print(f"Prefill against the cores' limit: {share:.0%} of the {peak / 1e9:.4g} GFLOP/s of a matrix product")
        if each := metrics.get("time_per_output_token_s"):
            context = prompt_tokens + args.max_new_tokens / 2
            share = traffic.decode_bandwidth_share(self.traffic, each["median"], bandwidth, batch_size=args.batch_size,
                                                   mean_context_tokens=context)  # fmt: skip
            metrics["decode_bandwidth_share"] = measure.summarize([share], "of the limit", None)
            read_bytes = traffic.decode_bytes_per_step(self.traffic, args.batch_size, context)
            print(f"Decode against memory's limit: {share:.0%} of {bandwidth / 1e9:.4g} GB/s ({read_bytes / 1e6:.4g} MB read a step): "
                  + ("faster memory or smaller weights would help" if share > MEMORY_BOUND else "more or faster cores would help"))  # fmt: skip
        return {"limits": asdict(self.limits), "traffic": asdict(self.traffic)}

    def _text(self, tokens: list[int]) -> tuple[str, float]:
        started = time.perf_counter()
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text, time.perf_counter() - started


class Printer:
    """Prints an answer's tokens as they come."""

    def __init__(self, tokenizer):
        from transformers import TextStreamer

        self._streamer = TextStreamer(tokenizer, skip_special_tokens=True)
        self.end = self._streamer.end

    def tell(self, tokens: list[int]) -> None:
        self._streamer.put(np.array(tokens))


UNITS = {
    "inference_time_s": ("s", "lower"),
    "tokens_per_second": ("tokens/s", "higher"),
    "time_to_first_token_s": ("s", "lower"),
    "prompt_tokens_per_second": ("tokens/s", "higher"),
    "time_per_output_token_s": ("s", "lower"),
    "inter_token_latency_s": ("s", None),
    "tokenization_time_s": ("s", None),
    "detokenization_time_s": ("s", None),
}
PRINTED = {
    "Inference time": "inference_time_s",
    "Throughput": "tokens_per_second",
    "Time to first token": "time_to_first_token_s",
    "Prefill": "prompt_tokens_per_second",
    "Time per output token": "time_per_output_token_s",
    "Inter-token latency": "inter_token_latency_s",
    "Tokenization": "tokenization_time_s",
    "De-tokenization": "detokenization_time_s",
}


def add_samples(samples: dict[str, list[float]], ids: np.ndarray, answer: Answer, tokenization_time_s: float | None,
                detokenization_time_s: float) -> None:  # fmt: skip
    """What one call adds: a sample of each, and of the inter-token latency one a step after the first."""
    first_s, *_, last_s = answer.times_s if len(answer.times_s) > 1 else answer.times_s * 2
    gaps_s = np.diff(answer.times_s).tolist()
    samples["inference_time_s"].append(answer.time_s)
    samples["tokens_per_second"].append(sum(map(len, answer.tokens)) / answer.time_s)
    samples["time_to_first_token_s"].append(first_s)
    samples["prompt_tokens_per_second"].append(ids.size / first_s)
    if gaps_s:
        samples["time_per_output_token_s"].append((last_s - first_s) / len(gaps_s))
        samples["inter_token_latency_s"] += gaps_s
    if tokenization_time_s is not None:
        samples["tokenization_time_s"].append(tokenization_time_s)
    samples["detokenization_time_s"].append(detokenization_time_s)


if __name__ == "__main__":
    cli.run(main)
