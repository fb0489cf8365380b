"""What a faster setting costs in quality: perplexity of a text, agreement with a reference model.

  python3 accuracy.py --model_name="llama-2-7b-chat-int4-ov" --reference_model="llama-2-7b-fp32-ov"
  python3 accuracy.py --model_name="llama-2-7b-chat-ov" --text="novel.txt" --kv_cache_precision=u8

The reference always computes in f32. Both models read keys and values from the cache, as generation
does, so its precision counts: windows take two steps, continuations one per token.

Perplexity is exp of the mean negative log-likelihood of the text's tokens, read in windows
(https://huggingface.co/docs/transformers/perplexity) of --context tokens, each beginning --stride
after the one before; every token but the first is scored once, in the first window that has it.

Agreement: the reference continues pieces of the text greedily, up to an end-of-sequence token. At
each position the scored model, after the reference's tokens, chooses the same token or not. The
Kullback-Leibler divergence, of its distribution of the next token from the reference's, is the mean
over the same positions.

Intervals are 95 %, from the percentile bootstrap over windows or prompts, as tokens of a window are
not independent; the ratio is paired by window.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import model  # before NumPy, whose threads it limits
import numpy as np
from runtimes import Logits

from harness import files, gate, monitor, progress, run
from harness.cli import UserError

TEXT = Path(__file__).with_name("accuracy_text.txt")
CONTEXT = 512
ROWS = 64  # of logits [rows, vocabulary] that are turned into float64 together
MAX_EXPONENT = 700.0  # exp of more is not a float64
RESAMPLES, SEED = 4000, 20231101  # of the bootstrap
MIN_BLOCKS = 6  # windows or prompts, for an interval


class Window(NamedTuple):
    """Tokens `first` to `end` - 1 of the text are scored, after those from `begin` on."""

    begin: int
    first: int
    end: int


@dataclass(frozen=True)
class Task:
    """The text to score, in windows, and the prompts that the reference continues."""

    source: dict  # the record's input
    tokens: np.ndarray  # int64 [T]
    context: int
    stride: int
    windows: list[Window]
    prompts: np.ndarray  # int64 [P, prompt tokens]
    max_new_tokens: int


@dataclass(frozen=True)
class Reference:
    """The reference model's results for a task."""

    description: dict
    nll: np.ndarray  # nats [windows]
    logits: list[np.ndarray]  # of each step, float32 [P, vocabulary]
    continuations: np.ndarray  # int64 [P, max_new_tokens]
    lengths: np.ndarray  # [P] tokens of each continuation up to its end-of-sequence token


@dataclass(frozen=True)
class Scores:
    """The scored model's results for a task; partial where it was interrupted."""

    nll: np.ndarray  # nats [windows read]
    same: list[np.ndarray]  # of each step, bool [P]: whether it would choose the reference's token
    kl: list[np.ndarray]  # of each step, nats [P]: divergence from the reference's distribution


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_model_arguments(parser)
    add, number = parser.add_argument, cli.positive_int
    add("--reference_model", type=Path, help="an fp32 export of the same model, to compare with")
    add("--text", type=Path, default=TEXT, help="UTF-8; not one that the model was calibrated on")
    add("--max_tokens", type=number, default=4096, help="read at most so many tokens of it")
    add("--context", type=number, help=f"tokens per window (default: {CONTEXT}, or the maximum)")
    add("--stride", type=number, help="tokens from window to window (default: half of --context)")
    add("--num_prompts", type=number, default=16, help="pieces of the text, spread evenly")
    add("--prompt_tokens", type=number, default=32, help="length of each")
    add("--max_new_tokens", type=number, default=64, help="tokens that the reference adds to each")
    cli.add_common_arguments(parser, iteration=None)
    gate.add_arguments(parser, "perplexity_ratio with --reference_model, else perplexity")
    return parser.parse_args()


def make_task(args: argparse.Namespace, text_model: model.TextModel) -> Task:
    """Raises UserError for a text or settings that do not fit the model or one another."""
    text = files.read_text(args.text, "--text")
    if not text.strip():
        raise UserError(f"{args.text} is empty (--text)")
    tokens, longest = tokenize(text_model, text), text_model.max_context
    if args.reference_model:
        check_same_vocabulary(args, text_model, tokens, text)
        model.check_context(text_model, args.prompt_tokens, args.max_new_tokens)
    context = args.context or min(CONTEXT, longest or CONTEXT)
    stride = args.stride or max(1, context // 2)
    if longest and context > longest:
        raise UserError(f"--context {context} exceeds the model's context of {longest}")
    if context < 2 or stride > context:
        raise UserError(f"--context {context} must be 2 or more, --stride {stride} at most that")
    tokens = tokens[: args.max_tokens]
    needed = max(2, args.prompt_tokens if args.reference_model else 2)
    if len(tokens) < needed:
        found = f"{args.text}: {len(tokens)} tokens are too few"
        raise UserError(f"{found}, {needed} are needed (--text, --max_tokens)")
    digest = hashlib.sha256(text.encode()).hexdigest()
    source = {"name": args.text.name, "sha256": digest, "tokens": len(tokens)}
    windows = windows_of(len(tokens), context, stride)
    prompts = prompts_of(tokens, args.num_prompts, args.prompt_tokens)
    return Task(source, tokens, context, stride, windows, prompts, args.max_new_tokens)


def tokenize(text_model: model.TextModel, text: str) -> np.ndarray:
    return np.asarray(text_model.tokenizer(text, verbose=False)["input_ids"], dtype=np.int64)


def check_same_vocabulary(args, text_model: model.TextModel, tokens: np.ndarray, text: str):
    """Raise UserError unless the reference's tokenizer has the same tokens and makes these."""
    other = model.load_text_model(args.reference_model)
    same = other.tokenizer.get_vocab() == text_model.tokenizer.get_vocab()
    if not same or not np.array_equal(tokens, tokenize(other, text)):
        names = f"{args.model_name} and {args.reference_model}"
        raise UserError(f"{names} have different vocabularies: name another --reference_model")


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
    """[P, length] pieces of the text, spread evenly, not overlapping: at most `count`."""
    starts = np.linspace(0, len(tokens) - length, min(count, len(tokens) // length)).astype(int)
    return np.array([tokens[start : start + length] for start in starts])


def feed(forward, tokens: np.ndarray, past=None):
    """Logits after each of the tokens [B, T], float32 [B, T, vocabulary], and the cache after them.

    Without `past` the cache is new. Raises UserError where the logits are not finite.
    """
    import torch

    if past is None:
        # With OpenVINO 2026.4.1 a used request may return NaN once its u8 cache grows at another
        # batch size, so this is a new one.
        forward.request = forward.request.get_compiled_model().create_infer_request()
    output = forward(input_ids=torch.from_numpy(np.ascontiguousarray(tokens)), past_key_values=past)
    logits = output.logits.numpy()
    if not np.isfinite(logits).all():
        raise UserError("the output is not finite: a broken model, or too low a --precision")
    return logits, output.past_key_values


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, float64, over the last axis."""
    import torch

    return torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Of the targets [T] together, by logits [T, vocabulary], in nats."""
    rows = (slice(start, start + ROWS) for start in range(0, len(targets), ROWS))
    return -sum(np.take_along_axis(log_softmax(logits[r]), targets[r, None], 1).sum() for r in rows)


def score(forward, task: Task) -> Iterator[float]:
    """Negative log-likelihood of each window's scored tokens together, in nats."""
    tokens = task.tokens
    with progress.bar("Windows", len(task.windows)) as line:
        for window in task.windows:
            # Into the cache first: all before the scored tokens, or at least one token.
            cut = max(window.first - 1, window.begin + 1)
            before, past = feed(forward, tokens[None, window.begin : cut])
            known = window.first - 1 - window.begin  # logits of scored tokens from here: at most 1
            total = negative_log_likelihood(before[0, known:], tokens[window.first : cut + 1])
            if cut < window.end - 1:
                logits, _ = feed(forward, tokens[None, cut : window.end - 1], past)
                total += negative_log_likelihood(logits[0], tokens[cut + 1 : window.end])
            yield total
            line.update()


def decode(forward, task: Task, forced: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Logits [P, vocabulary] of each token after the prompts.

    Its input are the `forced` tokens [P, max_new_tokens]; without, its own greedy choices.
    """
    tokens, past = task.prompts, None
    for step in range(task.max_new_tokens):
        logits, past = feed(forward, tokens, past)
        yield logits[:, -1]
        tokens = (logits[:, -1].argmax(-1) if forced is None else forced[:, step])[:, None]


def compare_step(reference: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether both [P, vocabulary] choose the same token, and the divergence of `scored`, nats."""
    if reference.shape != scored.shape:
        raise UserError("models have different numbers of logits: name another --reference_model")
    p, q = log_softmax(reference), log_softmax(scored)
    return reference.argmax(-1) == scored.argmax(-1), (np.exp(p) * (p - q)).sum(axis=-1)


def until_end(continuations: np.ndarray, eos_ids: frozenset[int]) -> np.ndarray:
    """[P] tokens of each continuation [P, N] up to and including its first end of sequence."""
    ends = np.isin(continuations, list(eos_ids))
    return np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, continuations.shape[1])


def measure_reference(args: argparse.Namespace, task: Task) -> Reference:
    """The reference model's results for a task, computed in f32. Raises UserError."""
    print(f"Reference: {args.reference_model}, computing in f32", flush=True)
    loaded = model.load(args.reference_model, Logits, args, precision="f32")
    forward = loaded.runtime.forward
    nll = np.array(list(score(forward, task)))
    logits = [step.copy() for step in decode(forward, task)]
    continuations = np.stack([step.argmax(-1) for step in logits], axis=1)
    lengths = until_end(continuations, loaded.text.eos_ids)
    return Reference(loaded.inspection.description, nll, logits, continuations, lengths)


def measure(forward, task: Task, reference: Reference | None):
    """The model's scores, and the monitor. What was measured before Ctrl-C is kept."""
    nll, same, kl = [], [], []
    with monitor.SystemMonitor(keep=lambda: bool(nll)) as watched:
        for total in score(forward, task):
            nll.append(total)
        if reference:
            steps = decode(forward, task, reference.continuations)
            for theirs, ours in zip(reference.logits, steps):
                equal, divergence = compare_step(theirs, ours)
                same.append(equal)
                kl.append(divergence)
    return Scores(np.array(nll), same, kl), watched


def mean_per_token(
    sums: np.ndarray, counts: np.ndarray, is_log: bool = False
) -> tuple[list[list[float]], tuple[float, ...] | None]:
    """A metric's samples and 95 % interval: of the mean over tokens, or where `is_log` of its exp.

    The bootstrap resamples blocks (windows or prompts) [N]; no interval for under MIN_BLOCKS.
    """
    drawn = np.random.default_rng(SEED).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    values = np.append(np.quantile(means, [0.025, 0.975]), sums.sum() / counts.sum())
    *interval, mean = (np.exp(np.minimum(values, MAX_EXPONENT)) if is_log else values).tolist()
    return [[mean]], tuple(interval) if len(sums) >= MIN_BLOCKS else None


def summarize(task: Task, scores: Scores, reference: Reference | None, tokenizer) -> dict:
    """Each metric's samples and interval, by name."""
    nll, windows = scores.nll, task.windows[: len(scores.nll)]
    counts = np.array([window.end - window.first for window in windows])
    scored = np.concatenate([task.tokens[window.first : window.end] for window in windows])
    size_bytes = len(tokenizer.decode(scored).encode())
    found = {
        "perplexity": mean_per_token(nll, counts, is_log=True),
        "bits_per_byte": ([[float(nll.sum() / np.log(2) / size_bytes)]], None),
        "nll_per_token": ([[value] for value in (nll / counts).tolist()], None),
    }
    if reference:
        difference = nll - reference.nll[: len(nll)]
        found["perplexity_ratio"] = mean_per_token(difference, counts, is_log=True)
    if reference and len(scores.same) == task.max_new_tokens:
        same, kl = np.stack(scores.same, axis=1), np.stack(scores.kl, axis=1)
        lengths = reference.lengths
        counted = np.arange(task.max_new_tokens) < lengths[:, None]
        differs = ~same & counted
        until = np.where(differs.any(axis=1), differs.argmax(axis=1), lengths)
        found["token_agreement"] = mean_per_token((same & counted).sum(axis=1), lengths)
        found["kl_divergence"] = mean_per_token((kl * counted).sum(axis=1), lengths)
        found["tokens_until_divergence"] = ([[count] for count in until.tolist()], None)
    return found


def make_record(
    args: argparse.Namespace,
    loaded: model.LoadedModel,
    system: dict,
    task: Task,
    reference: Reference | None,
    scores: Scores,
    watched: monitor.SystemMonitor,
) -> dict:
    found = summarize(task, scores, reference, loaded.text.tokenizer)
    counts = [window.end - window.first for window in task.windows[: len(scores.nll)]]
    windows = f"{len(counts)} windows of {task.context}, stride {task.stride}"
    details = [f"Scored: {sum(counts)} tokens in {windows}"]
    what = {"tokens": len(task.tokens), "context": task.context, "stride": task.stride}
    output = {"windows": len(counts), "tokens_scored": counts, "reference": None}
    if reference:
        prompts, length = task.prompts.shape
        details.append(f"Compared: {reference.lengths.sum()} positions after {prompts} prompts")
        what |= {"reference": reference.description["sha256"][:12], "prompts": prompts}
        what |= {"prompt tokens": length, "max new tokens": task.max_new_tokens}
        output["reference"] = reference.description
    return run.build(
        args,
        workload="llm-accuracy",
        title="LLM accuracy",
        primary="perplexity",
        samples={name: samples for name, (samples, _) in found.items()},
        intervals={name: interval for name, (_, interval) in found.items()},
        task=what,
        work=[],
        **model.record_parts(args, loaded, context=task.context, stride=task.stride),
        input=task.source,
        system=system,
        monitor=watched,
        output={**output, **gate_output(args, task, found, watched)},
        details=details,
        check_samples=False,
    )


def gate_output(args: argparse.Namespace, task: Task, found: dict, watched) -> dict:
    """The accuracy gate: of the ratio to the reference's perplexity where there is one."""
    if watched.status != "complete":
        return {}
    if "perplexity_ratio" in found:
        metric, most = "perplexity_ratio", args.gate_limit
        most = gate.allowed(1.0, metric, args.max_loss) if most is None else most
    else:
        metric, most = "perplexity", gate.limit(args, "perplexity", task.source["sha256"])
    return gate.output(most, metric, found[metric][0][0][0])


def main() -> int:
    args = parse_args()
    model.check_folder(args.model_name)
    if args.reference_model:
        model.check_folder(args.reference_model, "--reference_model")
    task = make_task(args, model.load_text_model(args.model_name))
    run.check_destination(args)
    gate.limit(args, "perplexity", task.source["sha256"])

    reference = measure_reference(args, task) if args.reference_model else None
    gc.collect()  # the reference model's memory
    loaded = model.load(args.model_name, Logits, args)
    system = model.print_header(args, loaded)
    scores, watched = measure(loaded.runtime.forward, task, reference)
    return run.finish(make_record(args, loaded, system, task, reference, scores, watched), args)


if __name__ == "__main__":
    cli.run(main)
