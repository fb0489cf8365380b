"""Measure text generation: tokens per second, time to first token, time per output token.

  python3 infer.py --model_name="llama-2-7b-chat-ov"

What is timed is model.generate(): from the prompt's token ids to the last new token's id. Tokenizing the prompt and
turning tokens into text are outside. Only generated tokens are counted.
"""

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from harness import cli, files, measure, model as model_files, placement as place, record
from harness.cli import UserError

PROMPT = "Discuss the history and evolution of artificial intelligence in 80 words"
OPENVINO_MODEL = "openvino_model.xml"


class TokenClock:
    """When each token came, in s. generate() calls put() with the prompt first, then with every new token."""

    def __init__(self):
        self.times_s = []

    def put(self, token_ids) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        pass


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model_name", type=Path, default=Path("llama-2-7b-chat-ov"), help="folder made by export.py")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default=PROMPT, help="text to continue")
    prompt.add_argument("--prompt_file", type=Path, help="read the prompt from a text file")
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=100, help="tokens to generate for each prompt")
    parser.add_argument("--batch_size", type=cli.positive_int, default=1, help="copies of the prompt answered together")
    parser.add_argument(
        "--stop_at_eos", action="store_true", help="let an answer end early (by default all have the asked length)"
    )
    cli.add_common_arguments(parser, iteration="one answer to the prompt", num_iters=8)
    return parser.parse_args()


def read_prompt(args: argparse.Namespace) -> str:
    prompt = files.read_text(args.prompt_file, "--prompt_file") if args.prompt_file else args.prompt
    if not prompt.strip():
        raise UserError("the prompt is empty: give some text (--prompt, --prompt_file)")
    return prompt


def load(args: argparse.Namespace, placement: place.Placement):
    """Read, compile and check the model. Returns it, its tokenizer, and the seconds it took."""
    import openvino as ov
    import torch
    from optimum.intel import OVModelForCausalLM
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)  # torch only keeps the books here; its spinning OpenMP threads would slow OpenVINO's
    config = place.openvino_config(ov.Core(), args.device, placement, "LATENCY", args.ov_config)
    started = time.perf_counter()
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model_name)
        model = OVModelForCausalLM.from_pretrained(args.model_name, device=args.device, ov_config=config)
        model.compile()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(f"cannot load {args.model_name}: {cli.one_line(error)} (export it again with export.py)") from None
    return model, tokenizer, time.perf_counter() - started


def count_generated(new_ids, eos_ids: set[int]) -> int:
    """Tokens generated in a batch [B, T]: in each row all up to its first end-of-sequence token; the rest is padding."""
    total = 0
    for row in new_ids.tolist():
        ends = [index for index, token in enumerate(row) if token in eos_ids]
        total += ends[0] + 1 if ends else len(row)
    return total


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    prompt = read_prompt(args)
    if not args.model_name.is_dir():
        raise UserError(f"no model folder {args.model_name}: make it with `python3 export.py --output {args.model_name}`")
    model_files.check_ir(args.model_name / OPENVINO_MODEL, hint=f"make it with `python3 export.py --output {args.model_name}`")
    record.check_destination(args)

    model, tokenizer, load_time_s = load(args, placement)
    weight_format = place.weight_format(model.model)
    place.check_int8(placement, weight_format)
    inputs = tokenizer([prompt] * args.batch_size, return_tensors="pt")
    prompt_tokens = inputs["input_ids"].shape[1]
    context = getattr(model.config, "max_position_embeddings", None)
    if context and prompt_tokens + args.max_new_tokens > context:
        raise UserError(
            f"{prompt_tokens} prompt tokens and {args.max_new_tokens} new ones exceed the model's context of {context}"
        )
    eos = model.generation_config.eos_token_id
    eos_ids = set(eos if isinstance(eos, list) else [eos]) - {None}
    how = {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": args.max_new_tokens,
        "min_new_tokens": None if args.stop_at_eos else args.max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos_ids, default=0),
    }
    told_model = model_files.describe(args.model_name.name, args.model_name, [args.model_name / OPENVINO_MODEL], weight_format)
    told_placement = place.describe(placement, {"model": model.request.get_compiled_model()})
    machine = record.introduce(told_model, told_placement, args.device, load_time_s)

    for _ in range(args.warmup):
        model.generate(**inputs, **how)

    samples = {"inference_time_s": [], "tokens_per_second": [], "time_to_first_token_s": [], "time_per_output_token_s": []}
    answers = []
    with measure.Watch() as watch:
        for _ in measure.iterations(args.num_iters, args.min_duration):
            clock = TokenClock()
            started = time.perf_counter()
            output_ids = model.generate(**inputs, **how, streamer=clock)
            inference_time_s = time.perf_counter() - started

            new_ids = output_ids[:, prompt_tokens:]
            first_s, last_s, steps = clock.times_s[1], clock.times_s[-1], len(clock.times_s) - 1
            samples["inference_time_s"].append(inference_time_s)
            samples["tokens_per_second"].append(count_generated(new_ids, eos_ids) / inference_time_s)
            samples["time_to_first_token_s"].append(first_s - started)
            if steps > 1:
                samples["time_per_output_token_s"].append((last_s - first_s) / (steps - 1))
            answers.append(new_ids)
    if not answers:
        raise KeyboardInterrupt

    text = tokenizer.decode(answers[-1][0], skip_special_tokens=True)
    metrics = {
        "inference_time_s": measure.summarize(samples["inference_time_s"], "s", "lower"),
        "tokens_per_second": measure.summarize(samples["tokens_per_second"], "tokens/s", "higher"),
        "time_to_first_token_s": measure.summarize(samples["time_to_first_token_s"], "s", "lower"),
        "load_time_s": measure.summarize([load_time_s], "s", "lower"),
        "peak_rss_bytes": measure.summarize([watch.usage["peak_rss_bytes"]], "bytes", "lower"),
    }
    if samples["time_per_output_token_s"]:
        metrics["time_per_output_token_s"] = measure.summarize(samples["time_per_output_token_s"], "s", "lower")

    print(f"\nInference time: {measure.describe(metrics['inference_time_s'])}")
    print(f"Throughput: {measure.describe(metrics['tokens_per_second'])}")
    print(f"Time to first token: {measure.describe(metrics['time_to_first_token_s'])}")
    if "time_per_output_token_s" in metrics:
        print(f"Time per output token: {measure.describe(metrics['time_per_output_token_s'])}")
    measure.tell_energy(metrics, watch, args.device, "token", sum(count_generated(ids, eos_ids) for ids in answers))
    print(f"Tokens: {prompt_tokens} in the prompt, {count_generated(answers[-1], eos_ids)} generated"
          f"{f' in {args.batch_size} answers' if args.batch_size > 1 else ''}; peak memory {watch.usage['peak_rss_bytes'] / 2**30:.2f} GiB")  # fmt: skip
    print(f"Text: {prompt}{text}\n")

    run = record.build(
        "llm",
        args,
        headline="tokens_per_second",
        metrics=metrics,
        samples=samples,
        model=told_model,
        source={
            "name": str(args.prompt_file or "prompt"),
            "sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "prompt_tokens": prompt_tokens,
        },
        machine=machine,
        placement=told_placement,
        watch=watch,
        output={
            "text": text,
            "generated_tokens": [count_generated(ids, eos_ids) for ids in answers],
            "same_tokens_every_iteration": all(
                bool((ids == answers[0]).all()) for ids in answers if ids.shape == answers[0].shape
            )
            and len({ids.shape for ids in answers}) == 1,
        },
        resolved={"runtime": "optimum-intel", "torch_threads": 1},
    )
    return record.finish(run, args)


if __name__ == "__main__":
    cli.run(main)
