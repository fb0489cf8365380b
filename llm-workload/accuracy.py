"""How right a faster setting leaves a model: perplexity of a text, and agreement with a reference model.

  python3 accuracy.py --model_name="llama-2-7b-chat-int4-ov" --reference_model="llama-2-7b-chat-fp32-ov"
  python3 accuracy.py --model_name="llama-2-7b-chat-ov" --text="novel.txt" --kv_cache_precision="u8"

Run it beside any setting that makes infer.py faster: same model, same options for precision. The reference computes in f32
throughout, whatever the model judged does.

Perplexity is exp of the mean negative log-likelihood of the text's tokens. As the text is longer than the context, it is read in
windows (https://huggingface.co/docs/transformers/perplexity): each holds --context tokens and begins --stride after the one before;
every token is scored once, in the first window that holds it, given all of that window before it; the text's first token, which
nothing is before, is not scored. Bits per byte is the same likelihood by the text's length in UTF-8, and so does not depend on the
tokenizer.

Agreement: the reference continues prompts out of the text greedily. At each place of its continuations, up to an end-of-sequence
token, the model judged is given what the reference had written until there, and would choose the same token, or not. Until the
first place where it would not, the two have written the same: that is also where their own greedy answers part. The divergence is
that of Kullback and Leibler of the model's distribution of the next token from the reference's, the mean over the same places.

Both read keys and values from the cache as an answer does, so that its precision counts: windows go in two steps, continuations token
by token. Intervals are 95 %, from the percentile bootstrap over windows (prompts), as tokens of one window are not independent; the
ratio of perplexities is paired, window by window.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli, files, measure, model as model_files, placement as place, ratio, record
from harness.cli import UserError
from runtimes import OPENVINO_MODEL

README = Path(__file__).resolve().parent.parent / "README.md"
CONTEXT = 512
ROWS = 64  # of logits [rows, vocabulary] that are turned into float64 at a time
MAX_EXPONENT = 700.0  # exp of more is no float64


@dataclass(frozen=True)
class Window:
    """Tokens `first` to `end` - 1 of the text are scored, given those from `begin` on."""

    begin: int
    first: int
    end: int

    @property
    def scored(self) -> int:
        return self.end - self.first


@dataclass
class Judged:
    """What came out for one model."""

    nll: np.ndarray  # [windows read] negative log-likelihood of each window's scored tokens together, nats
    same: np.ndarray | None = None  # [prompts, new tokens] whether it would choose the reference's token
    kl: np.ndarray | None = None  # [prompts, new tokens] divergence from the reference's distribution, nats


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model_name", type=Path, default=Path("llama-2-7b-chat-ov"), help="folder made by export.py")
    parser.add_argument("--reference_model", type=Path, metavar="FOLDER",
                        help="the same model exported with --weight_format fp32, to agree with")  # fmt: skip
    # Texts differ by more than settings do: a default that is on every machine makes runs comparable. This one is the kit's own.
    parser.add_argument("--text", type=Path, default=README, help="UTF-8 text; it must not be the one a model was calibrated on")
    parser.add_argument("--max_tokens", type=cli.positive_int, default=4096, help="read at most so many tokens of it")
    parser.add_argument(
        "--context", type=cli.positive_int, help=f"tokens of a window (default: {CONTEXT}, or the model's maximum)"
    )
    parser.add_argument("--stride", type=cli.positive_int, help="tokens from window to window (default: half of --context)")
    parser.add_argument("--num_prompts", type=cli.positive_int, default=16, help="prompts out of the text, spread evenly")
    parser.add_argument("--prompt_tokens", type=cli.positive_int, default=32, help="length of each")
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=64, help="tokens the reference continues each with")
    place.add_llm_arguments(parser)
    cli.add_common_arguments(parser, iteration=None)
    return parser.parse_args()


def read_tokens(folder: Path, text: str):
    """The tokenizer of a model's folder, its longest context or None, and the text's token ids, int64 [T]. Raises UserError."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        longest = getattr(AutoConfig.from_pretrained(folder).get_text_config(), "max_position_embeddings", None)
    except Exception as error:  # tokenizers raises no kind of its own
        raise UserError(f"cannot load {folder}: {cli.one_line(error)} (export it again with export.py)") from None
    return tokenizer, longest, np.asarray(tokenizer(text, verbose=False)["input_ids"], dtype=np.int64)


def check_same_vocabulary(args: argparse.Namespace, tokenizer, tokens: np.ndarray, text: str) -> None:
    """Raise UserError unless the reference's tokenizer knows the same tokens and reads the text as these."""
    other, _, other_tokens = read_tokens(args.reference_model, text)
    if other.get_vocab() != tokenizer.get_vocab() or not np.array_equal(tokens, other_tokens):
        raise UserError(f"{args.model_name} and {args.reference_model} have different vocabularies: name another export of the same "
                        "model (--reference_model)")  # fmt: skip


def windows_of(count: int, context: int, stride: int) -> list[Window]:
    """The windows over `count` tokens; stride <= context."""
    windows, scored = [], 1
    for begin in range(0, count, stride):
        end = min(begin + context, count)
        first = max(scored, begin + 1)
        if first < end:
            windows.append(Window(begin, first, end))
        scored = end
        if end == count:
            break
    return windows


def prompts_of(tokens: np.ndarray, count: int, length: int) -> np.ndarray:
    """[N, length] pieces of the text, spread evenly over it and not overlapping: N is `count`, or as many as there are."""
    count = min(count, len(tokens) // length)
    return np.stack([tokens[start : start + length] for start in np.linspace(0, len(tokens) - length, count).astype(int)])


def feed(model, tokens: np.ndarray, past=None):
    """Logits after each of the tokens [B, T], float32 [B, T, vocabulary], and the cache to go on from; without `past`, from anew.

    Raises UserError where they are not numbers.
    """
    import torch

    if past is None:  # a request used before may return NaN once its u8 cache grows at another batch size (OpenVINO 2026.4.1)
        model.request = model.request.get_compiled_model().create_infer_request()
    told = model(input_ids=torch.from_numpy(np.ascontiguousarray(tokens)), past_key_values=past)
    logits = told.logits.numpy()
    if not np.isfinite(logits).all():
        raise UserError("the model's output is not finite: it is broken, or its precision too low for it (--precision)")
    return logits, told.past_key_values


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, float64, over the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Of the targets [T] together, given logits [T, vocabulary], nats."""
    total = 0.0
    for start in range(0, len(targets), ROWS):
        rows, wanted = logits[start : start + ROWS], targets[start : start + ROWS]
        total -= float(log_softmax(rows)[np.arange(len(wanted)), wanted].sum())
    return total


def score(model, tokens: np.ndarray, windows: list[Window]) -> Iterator[float]:
    """Negative log-likelihood of each window's scored tokens together, nats."""
    for window in windows:
        # What goes into the cache first: all before the tokens scored, or at least one token.
        cut = max(window.first - 1, window.begin + 1)
        before, past = feed(model, tokens[None, window.begin : cut])
        known = window.first - 1 - window.begin  # from here on its logits are of scored tokens: one at most
        total = negative_log_likelihood(before[0, known:], tokens[window.first : cut + 1])
        if cut < window.end - 1:
            logits, _ = feed(model, tokens[None, cut : window.end - 1], past)
            total += negative_log_likelihood(logits[0], tokens[cut + 1 : window.end])
        yield total


def decode(model, prompts: np.ndarray, count: int, given: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Logits [P, vocabulary] of each of `count` tokens after the prompts [P, T]: given those of `given` [P, count] before it, or,
    without, its own greedy choices."""
    tokens, past = prompts, None
    for step in range(count):
        logits, past = feed(model, tokens, past)
        yield logits[:, -1]
        tokens = (logits[:, -1].argmax(-1) if given is None else given[:, step])[:, None]


def compare_step(reference: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether both [P, vocabulary] choose the same token, bool [P], and the divergence of `judged` from `reference`, nats [P]."""
    if reference.shape != judged.shape:
        raise UserError(f"the reference has {reference.shape[-1]} logits and the model {judged.shape[-1]}: name another export of the "
                        "same model (--reference_model)")  # fmt: skip
    p, q = log_softmax(reference), log_softmax(judged)
    return reference.argmax(-1) == judged.argmax(-1), (np.exp(p) * (p - q)).sum(axis=-1)


def until_end(continuations: np.ndarray, eos_ids: set[int]) -> np.ndarray:
    """[P] tokens of each continuation [P, N] up to its first end-of-sequence token, that included."""
    ends = np.isin(continuations, list(eos_ids))
    return np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, continuations.shape[1])


def interval(sums: np.ndarray, counts: np.ndarray) -> list[float] | None:
    """95 % confidence interval of sum(sums) / sum(counts), from the percentile bootstrap over the blocks (windows or prompts) that
    both have an entry for; None for fewer blocks than ratio.MIN_SAMPLES."""
    if len(sums) < ratio.MIN_SAMPLES:
        return None
    drawn = np.random.default_rng(ratio.SEED).integers(len(sums), size=(ratio.RESAMPLES, len(sums)))
    tail = (1 - measure.CONFIDENCE) / 2
    return [float(bound) for bound in np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [tail, 1 - tail])]


def mean_metric(sums: np.ndarray, counts: np.ndarray, unit: str, better: str, form=float) -> dict:
    """The record's metric of the mean over tokens, with the interval above. `form`: a rising function of both."""
    bounds = interval(sums, counts)
    metric = measure.summarize([form(sums.sum() / counts.sum())], unit, better)
    return {**metric, "ci95": bounds and [form(bound) for bound in bounds]}


def exponential(nats: float) -> float:
    return float(np.exp(min(nats, MAX_EXPONENT)))


def shown(metric: dict, form: str = "{:.4g}") -> str:
    """A metric's value and interval for the terminal."""
    bounds = f"95 % CI {form}–{form}".format(*metric["ci95"]) if metric["ci95"] else "too few for an interval"
    return f"{form.format(metric['median'])}   ({bounds}"


def load(folder: Path, args: argparse.Namespace, placement: place.Placement, properties: dict):
    """The compiled OVModelForCausalLM of a folder, and the seconds that took. Raises UserError."""
    import openvino as ov
    import torch
    from optimum.intel import OVModelForCausalLM

    torch.set_num_threads(1)  # its spinning OpenMP threads would slow OpenVINO's
    config = place.openvino_config(ov.Core(), args.device, placement, "LATENCY", properties)
    started = time.perf_counter()
    try:
        model = OVModelForCausalLM.from_pretrained(folder, device=args.device, ov_config=config)
        model.compile()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(f"cannot load {folder}: {cli.one_line(error)} (export it again with export.py)") from None
    return model, time.perf_counter() - started


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    for folder in filter(None, (args.model_name, args.reference_model)):
        hint = f"make it with `python3 export.py --output {folder}`"
        if not folder.is_dir():
            raise UserError(f"no model folder {folder}: {hint}")
        model_files.check_ir(folder / OPENVINO_MODEL, hint=hint)
    text = files.read_text(args.text, "--text")
    if not text.strip():
        raise UserError(f"{args.text} is empty (--text)")
    tokenizer, longest, tokens = read_tokens(args.model_name, text)
    if args.reference_model:
        check_same_vocabulary(args, tokenizer, tokens, text)
    context = args.context or min(CONTEXT, longest or CONTEXT)
    stride = args.stride or max(1, context // 2)
    if longest and context > longest:
        raise UserError(f"--context {context} exceeds the model's context of {longest}")
    if longest and args.reference_model and args.prompt_tokens + args.max_new_tokens > longest:
        raise UserError(
            f"{args.prompt_tokens} prompt tokens and {args.max_new_tokens} new ones exceed the model's context of {longest}"
        )
    if context < 2 or stride > context:
        raise UserError(f"a window of {context} tokens every {stride}: give --context 2 or more, and --stride no more than that")
    tokens = tokens[: args.max_tokens]
    needed = args.prompt_tokens if args.reference_model else 2
    if len(tokens) < max(2, needed):
        raise UserError(f"{args.text}: {len(tokens)} tokens are too few, {max(2, needed)} are needed (--text, --max_tokens)")
    windows = windows_of(len(tokens), context, stride)
    record.check_destination(args)

    prompts = continuations = reference_nll = told_reference = None
    reference_logits = []  # of each step [P, vocabulary]
    if args.reference_model:
        print(f"Reference: {args.reference_model}, computing in f32", flush=True)
        model, _ = load(args.reference_model, args, replace(placement, precision="f32"), {})
        prompts = prompts_of(tokens, args.num_prompts, args.prompt_tokens)
        reference_nll = np.array(list(score(model, tokens, windows)))
        reference_logits = [logits.copy() for logits in decode(model, prompts, args.max_new_tokens)]
        continuations = np.stack([logits.argmax(-1) for logits in reference_logits], axis=1)
        eos = model.generation_config.eos_token_id
        lengths = until_end(continuations, set(eos if isinstance(eos, list) else [eos]) - {None})
        told_reference = model_files.describe(args.reference_model.name, args.reference_model,
                                              [args.reference_model / OPENVINO_MODEL], place.weight_format(model.model))  # fmt: skip
        del model
        gc.collect()

    model, load_time_s = load(args.model_name, args, placement, {**place.llm_properties(args), **args.ov_config})
    weight_format = place.weight_format(model.model)
    place.check_int8(placement, weight_format)
    told_model = model_files.describe(args.model_name.name, args.model_name, [args.model_name / OPENVINO_MODEL], weight_format)
    told_placement = place.describe(placement, {"model": model.request.get_compiled_model()})
    machine = record.introduce(told_model, told_placement, args.device, load_time_s,
                               more=f"; KV cache {told_placement['openvino_properties']['model'].get('KV_CACHE_PRECISION')}")  # fmt: skip

    nll, same, kl = [], [], []
    with measure.Watch() as watch:
        for total in score(model, tokens, windows):
            nll.append(total)
        if args.reference_model:
            for theirs, ours in zip(reference_logits, decode(model, prompts, args.max_new_tokens, continuations)):
                equal, divergence = compare_step(theirs, ours)
                same.append(equal)
                kl.append(divergence)
    if not nll:
        if watch.status == "interrupted":
            raise KeyboardInterrupt
        raise UserError(watch.error)

    nll, read = np.array(nll), windows[: len(nll)]
    counts = np.array([window.scored for window in read])
    size = len(tokenizer.decode(np.concatenate([tokens[window.first : window.end] for window in read])).encode())
    metrics = {
        "perplexity": mean_metric(nll, counts, "perplexity", "lower", exponential),
        "bits_per_byte": measure.summarize([float(nll.sum() / np.log(2) / size)], "bits/byte", "lower"),
    }
    samples = {"nll_per_token": (nll / counts).tolist()}
    print(
        f"\nPerplexity: {shown(metrics['perplexity'])}; {counts.sum()} tokens in {len(read)} windows of {context}, stride {stride})"
    )
    print(f"Bits per byte: {metrics['bits_per_byte']['median']:.4f}")
    if args.reference_model:
        metrics["perplexity_ratio"] = mean_metric(nll - reference_nll[: len(nll)], counts, "times", "lower", exponential)
        print(f"Perplexity against the reference: {shown(metrics['perplexity_ratio'], '{:.4f}')}; paired)")
    if len(same) == args.max_new_tokens and args.reference_model:
        same, kl = np.stack(same, axis=1), np.stack(kl, axis=1)
        counted = np.arange(args.max_new_tokens) < lengths[:, None]
        until = np.where((~same & counted).any(axis=1), (~same & counted).argmax(axis=1), lengths)
        metrics["token_agreement"] = mean_metric((same & counted).sum(axis=1), lengths, "share", "higher")
        metrics["kl_divergence"] = mean_metric((kl * counted).sum(axis=1), lengths, "nats/token", "lower")
        metrics["tokens_until_divergence"] = measure.summarize(until.tolist(), "tokens", "higher")
        samples["tokens_until_divergence"] = until.tolist()
        print(
            f"Same next token: {shown(metrics['token_agreement'], '{:.1%}')}; {lengths.sum()} places after {len(prompts)} prompts)"
        )
        print(f"Own answers the same for: {measure.describe(metrics['tokens_until_divergence'])}, of {args.max_new_tokens}")
        print(f"KL divergence: {shown(metrics['kl_divergence'])}) nats a token")

    run = record.build(
        "llm-accuracy",
        args,
        headline="perplexity",
        metrics=metrics,
        samples=samples,
        model=told_model,
        source={"name": args.text.name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "tokens": len(tokens)},
        machine=machine,
        placement=told_placement,
        watch=watch,
        output={
            "windows": len(read),
            "tokens_scored": [int(count) for count in counts],
            "bytes_scored": size,
            "reference": told_reference,
        },
        resolved={
            "runtime": "optimum-intel",
            "torch_threads": 1,
            "context": context,
            "stride": stride,
            "reference_sha256": told_reference and told_reference["sha256"][:12],
        },
        signs=place.llm_signs(args, told_placement),
    )
    return record.finish(run, args)


if __name__ == "__main__":
    cli.run(main)
