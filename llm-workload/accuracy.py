"""What a faster setting costs in quality: perplexity of a text, agreement with a reference model.

  python3 accuracy.py --model_name="llama-2-7b-chat-int4-ov" --reference_model="llama-2-7b-fp32-ov"
  python3 accuracy.py --model_name="llama-2-7b-chat-ov" --text="novel.txt" --kv_cache_precision=u8

The reference computes in f32 throughout, whatever the scored model does.

Perplexity is exp of the mean negative log-likelihood of the text's tokens. The text is read in
windows (https://huggingface.co/docs/transformers/perplexity) of --context tokens, each beginning
--stride after the one before; every token but the first is scored once, in the first window that
has it, given all of that window before it. Bits per byte is the same likelihood over the text's
length in UTF-8, and so does not depend on the tokenizer.

Agreement: the reference continues pieces of the text greedily. At each place of its continuations,
up to an end-of-sequence token, the scored model is given what the reference wrote until there, and
would choose the same token, or not; the first place where it would not is where their own greedy
answers part. The Kullback-Leibler divergence is of the model's distribution of the next token from
the reference's, the mean over the same places.

Both read keys and values from the cache as an answer does, so its precision counts: windows take
two steps, continuations one per token. Intervals are 95 %, from the percentile bootstrap over
windows or prompts, as tokens of a window are not independent; the ratio is paired by window.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model as models  # before NumPy, whose threads it limits
import numpy as np

from harness import cli, files, monitor, progress, run
from harness.cli import UserError
from harness.openvino_setup import Placement

TEXT = Path(__file__).with_name("accuracy_text.txt")
CONTEXT = 512
ROWS = 64  # of logits [rows, vocabulary] that are turned into float64 together
MAX_EXPONENT = 700.0  # exp of more is not a float64
RUNTIME = "optimum-intel"
RESAMPLES, SEED = 4000, 20231101  # of the bootstrap
MIN_BLOCKS = 6  # windows or prompts, for an interval


@dataclass(frozen=True)
class Window:
    """Tokens `first` to `end` - 1 of the text are scored, given those from `begin` on."""

    begin: int
    first: int
    end: int

    @property
    def scored(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Task:
    """The text to score, in windows, and the prompts for the reference to continue."""

    source: dict  # the record's input
    tokens: np.ndarray  # int64 [T]
    context: int
    stride: int
    windows: list[Window]
    prompts: np.ndarray  # int64 [P, prompt tokens]
    max_new_tokens: int


@dataclass(frozen=True)
class Reference:
    """What the reference model made of a task."""

    description: dict
    nll: np.ndarray  # nats [windows]
    logits: list[np.ndarray]  # of each step, float32 [P, vocabulary]
    continuations: np.ndarray  # int64 [P, max_new_tokens]
    lengths: np.ndarray  # [P] tokens of each continuation up to its end-of-sequence token


@dataclass(frozen=True)
class Scores:
    """What the scored model made of a task; less of it where it was interrupted."""

    nll: np.ndarray  # nats [windows read]
    same: list[np.ndarray]  # of each step, bool [P]: whether it would choose the reference's token
    kl: list[np.ndarray]  # of each step, nats [P]: divergence from the reference's distribution


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    models.add_model_arguments(parser)
    add, number = parser.add_argument, cli.positive_int
    what = "the same model exported with --weight_format fp32, to compare with"
    add("--reference_model", type=Path, metavar="FOLDER", help=what)
    what = "UTF-8 text; must not be one that the model was calibrated on"
    add("--text", type=Path, default=TEXT, help=what)
    add("--max_tokens", type=number, default=4096, help="read at most so many tokens of it")
    what = f"tokens per window (default: {CONTEXT}, or the model's maximum)"
    add("--context", type=number, help=what)
    add("--stride", type=number, help="tokens from window to window (default: half of --context)")
    add("--num_prompts", type=number, default=16, help="pieces of the text, spread evenly")
    add("--prompt_tokens", type=number, default=32, help="length of each")
    what = "tokens that the reference continues each with"
    add("--max_new_tokens", type=number, default=64, help=what)
    cli.add_common_arguments(parser, iteration=None)
    return parser.parse_args()


def make_task(args: argparse.Namespace, text_model: models.TextModel) -> Task:
    """Raises UserError for a text or settings that do not fit the model or one another."""
    text = files.read_text(args.text, "--text")
    if not text.strip():
        raise UserError(f"{args.text} is empty (--text)")
    tokens, longest = tokenize(text_model, text), text_model.max_context
    if args.reference_model:
        check_same_vocabulary(args, text_model, tokens, text)
        models.check_context(text_model, args.prompt_tokens, args.max_new_tokens)
    context = args.context or min(CONTEXT, longest or CONTEXT)
    stride = args.stride or max(1, context // 2)
    if longest and context > longest:
        raise UserError(f"--context {context} exceeds the model's context of {longest}")
    if context < 2 or stride > context:
        raise UserError(
            f"a window of {context} tokens every {stride}: give --context 2 or more, "
            "and --stride no more than that"
        )
    tokens = tokens[: args.max_tokens]
    needed = max(2, args.prompt_tokens if args.reference_model else 2)
    if len(tokens) < needed:
        raise UserError(
            f"{args.text}: {len(tokens)} tokens are too few, {needed} are needed "
            "(--text, --max_tokens)"
        )
    digest = hashlib.sha256(text.encode()).hexdigest()
    source = {"name": args.text.name, "sha256": digest, "tokens": len(tokens)}
    windows = windows_of(len(tokens), context, stride)
    prompts = prompts_of(tokens, args.num_prompts, args.prompt_tokens)
    return Task(source, tokens, context, stride, windows, prompts, args.max_new_tokens)


def tokenize(text_model: models.TextModel, text: str) -> np.ndarray:
    return np.asarray(text_model.tokenizer(text, verbose=False)["input_ids"], dtype=np.int64)


def check_same_vocabulary(args, text_model: models.TextModel, tokens: np.ndarray, text: str):
    """Raise UserError unless the reference's tokenizer has the same tokens and makes these."""
    other = models.load_text_model(args.reference_model)
    same = other.tokenizer.get_vocab() == text_model.tokenizer.get_vocab()
    if not same or not np.array_equal(tokens, tokenize(other, text)):
        raise UserError(
            f"{args.model_name} and {args.reference_model} have different vocabularies: "
            "name another export of the same model (--reference_model)"
        )


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


def load(folder: Path, args: argparse.Namespace, config: dict):
    """The compiled OVModelForCausalLM of a folder, and the seconds it took. Raises UserError."""
    import torch
    from optimum.intel import OVModelForCausalLM

    torch.set_num_threads(1)  # its OpenMP threads would spin against OpenVINO's
    started = time.perf_counter()
    with progress.stage(f"Loading {folder}"):
        try:
            model = OVModelForCausalLM.from_pretrained(folder, device=args.device, ov_config=config)
            model.compile()
        except models.LOAD_ERRORS as error:
            raise models.cannot_load(folder, error) from None
    return model, time.perf_counter() - started


def feed(model, tokens: np.ndarray, past=None):
    """Logits after each of the tokens [B, T], float32 [B, T, vocabulary], and the cache after them.

    Without `past` the cache is new. Raises UserError where the logits are not finite.
    """
    import torch

    if past is None:
        # With OpenVINO 2026.4.1 a used request may return NaN once its u8 cache grows at another
        # batch size, so this is a new one.
        model.request = model.request.get_compiled_model().create_infer_request()
    output = model(input_ids=torch.from_numpy(np.ascontiguousarray(tokens)), past_key_values=past)
    logits = output.logits.numpy()
    if not np.isfinite(logits).all():
        raise UserError(
            "the model's output is not finite: it is broken, or its precision too low (--precision)"
        )
    return logits, output.past_key_values


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, float64, over the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Of the targets [T] together, given logits [T, vocabulary], in nats."""
    total = 0.0
    for start in range(0, len(targets), ROWS):
        rows, wanted = logits[start : start + ROWS], targets[start : start + ROWS]
        total -= float(log_softmax(rows)[np.arange(len(wanted)), wanted].sum())
    return total


def score(model, task: Task) -> Iterator[float]:
    """Negative log-likelihood of each window's scored tokens together, in nats."""
    tokens = task.tokens
    with progress.bar("Windows", len(task.windows)) as line:
        for window in task.windows:
            # Into the cache first: all before the scored tokens, or at least one token.
            cut = max(window.first - 1, window.begin + 1)
            before, past = feed(model, tokens[None, window.begin : cut])
            known = window.first - 1 - window.begin  # logits of scored tokens from here: at most 1
            total = negative_log_likelihood(before[0, known:], tokens[window.first : cut + 1])
            if cut < window.end - 1:
                logits, _ = feed(model, tokens[None, cut : window.end - 1], past)
                total += negative_log_likelihood(logits[0], tokens[cut + 1 : window.end])
            yield total
            line.update()


def decode(model, task: Task, given: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Logits [P, vocabulary] of each token after the prompts.

    Each is given the tokens `given` [P, max_new_tokens] before it; without, its own greedy choices.
    """
    tokens, past = task.prompts, None
    for step in range(task.max_new_tokens):
        logits, past = feed(model, tokens, past)
        yield logits[:, -1]
        tokens = (logits[:, -1].argmax(-1) if given is None else given[:, step])[:, None]


def compare_step(reference: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether both [P, vocabulary] choose the same token, and the divergence of `scored`, nats."""
    if reference.shape != scored.shape:
        raise UserError(
            f"the reference has {reference.shape[-1]} logits and the model {scored.shape[-1]}: "
            "name another export of the same model (--reference_model)"
        )
    p, q = log_softmax(reference), log_softmax(scored)
    return reference.argmax(-1) == scored.argmax(-1), (np.exp(p) * (p - q)).sum(axis=-1)


def until_end(continuations: np.ndarray, eos_ids: frozenset[int]) -> np.ndarray:
    """[P] tokens of each continuation [P, N] up to and including its first end of sequence."""
    ends = np.isin(continuations, list(eos_ids))
    return np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, continuations.shape[1])


def measure_reference(args, task: Task, placement: Placement) -> Reference:
    """Score the task with the reference model, computing in f32."""
    folder = args.reference_model
    print(f"Reference: {folder}, computing in f32", flush=True)
    config = models.compile_config(args, replace(placement, precision="f32"), extra={})
    model, _ = load(folder, args, config)
    nll = np.array(list(score(model, task)))
    logits = [step.copy() for step in decode(model, task)]
    continuations = np.stack([step.argmax(-1) for step in logits], axis=1)
    eos_ids = models.load_text_model(folder).eos_ids
    description = models.describe(folder, model.model)
    return Reference(description, nll, logits, continuations, until_end(continuations, eos_ids))


def measure(model, task: Task, reference: Reference | None):
    """The model's scores, and the monitor. What was measured before Ctrl-C is kept."""
    nll, same, kl = [], [], []
    with monitor.SystemMonitor() as watched:
        for total in score(model, task):
            nll.append(total)
        if reference:
            steps = decode(model, task, reference.continuations)
            for theirs, ours in zip(reference.logits, steps):
                equal, divergence = compare_step(theirs, ours)
                same.append(equal)
                kl.append(divergence)
    if not nll:
        raise KeyboardInterrupt if watched.status == "interrupted" else UserError(watched.error)
    return Scores(np.array(nll), same, kl), watched


def bootstrap(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of sum(sums) / sum(counts), over blocks (windows or prompts) [N].

    None for fewer than MIN_BLOCKS.
    """
    if len(sums) < MIN_BLOCKS:
        return None
    drawn = np.random.default_rng(SEED).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def mean_per_token(
    sums: np.ndarray, counts: np.ndarray, form: Callable[[float], float] = float
) -> tuple[list[list[float]], tuple[float, ...] | None]:
    """A metric's samples and interval: `form`, a rising function, of the mean over tokens."""
    bounds = bootstrap(sums, counts)
    return [[form(sums.sum() / counts.sum())]], bounds and tuple(form(bound) for bound in bounds)


def exponential(nats: float) -> float:
    return float(np.exp(min(nats, MAX_EXPONENT)))


def summarize(task: Task, scores: Scores, reference: Reference | None, tokenizer) -> dict:
    """Each metric's samples and interval, by name."""
    nll, windows = scores.nll, task.windows[: len(scores.nll)]
    counts = np.array([window.scored for window in windows])
    scored = np.concatenate([task.tokens[window.first : window.end] for window in windows])
    size_bytes = len(tokenizer.decode(scored).encode())
    found = {
        "perplexity": mean_per_token(nll, counts, exponential),
        "bits_per_byte": ([[float(nll.sum() / np.log(2) / size_bytes)]], None),
        "nll_per_token": ([[value] for value in (nll / counts).tolist()], None),
    }
    if reference:
        difference = nll - reference.nll[: len(nll)]
        found["perplexity_ratio"] = mean_per_token(difference, counts, exponential)
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


def make_record(args, task, scores, reference, tokenizer, header: dict, watched) -> dict:
    """`header`: model, placement, system and what else is known before measuring."""
    found = summarize(task, scores, reference, tokenizer)
    counts = [window.scored for window in task.windows[: len(scores.nll)]]
    windows = f"{len(counts)} windows of {task.context}, stride {task.stride}"
    details = [f"Scored: {sum(counts)} tokens in {windows}"]
    compared = {}
    if reference:
        sha256 = reference.description["sha256"][:12]
        places, prompts = reference.lengths.sum(), len(task.prompts)
        details.append(f"Compared: {places} places after {prompts} prompts, with {sha256}")
        compared = {
            "reference": sha256,
            "prompts": len(task.prompts),
            "prompt tokens": args.prompt_tokens,
            "max new tokens": task.max_new_tokens,
        }
    return run.build(
        args,
        workload="llm-accuracy",
        title="LLM accuracy",
        primary="perplexity",
        samples={name: samples for name, (samples, _) in found.items()},
        intervals={name: interval for name, (_, interval) in found.items()},
        task={
            "tokens": len(task.tokens),
            "context": task.context,
            "stride": task.stride,
            **compared,
        },
        work=[],
        **header,
        input=task.source,
        monitor=watched,
        output={
            "windows": len(counts),
            "tokens_scored": counts,
            "reference": reference and reference.description,
        },
        details=details,
        check_samples=False,
    )


def main() -> int:
    args = parse_args()
    placement = Placement.from_arguments(args)
    models.check_folder(args.model_name)
    if args.reference_model:
        models.check_folder(args.reference_model, "--reference_model")
    text_model = models.load_text_model(args.model_name)
    task = make_task(args, text_model)
    run.check_destination(args)

    reference = measure_reference(args, task, placement) if args.reference_model else None
    gc.collect()  # the reference model's memory
    config = models.compile_config(args, placement)
    model, load_time_s = load(args.model_name, args, config)
    compiled = model.request.get_compiled_model()
    inspection = models.inspect(model.model, compiled, args.model_name, placement)
    system = models.print_header(args, inspection, RUNTIME, load_time_s)
    header = {**models.record_parts(args, inspection, RUNTIME), "system": system}
    header["resolved"] |= {"context": task.context, "stride": task.stride}
    scores, watched = measure(model, task, reference)
    tokenizer = text_model.tokenizer
    return run.finish(make_record(args, task, scores, reference, tokenizer, header, watched), args)


if __name__ == "__main__":
    cli.run(main)
