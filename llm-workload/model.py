"""An exported LLM: the options that several commands share, its folder, tokenizer and prompts."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads would compete with OpenVINO's

import numpy as np
import traffic
from runtimes import OPENVINO_MODEL, GenerationConfig, Optimum, compile_paged
from traffic import Traffic

from harness import cli, files, model_files, openvino_setup, progress, run
from harness.cli import UserError
from harness.openvino_setup import Placement

DEFAULT_MODEL = Path("llama-2-7b-chat-ov")
PROMPT = "Discuss the history and evolution of artificial intelligence in 80 words"
KV_CACHE_PRECISIONS = ("u4", "u8", "bf16", "f16", "f32")  # that the CPU plugin takes
LOAD_ERRORS = (RuntimeError, ValueError, OSError, KeyError)
PACKAGES = ("openvino", "optimum-intel", "openvino-genai", "transformers", "torch")


@dataclass(frozen=True)
class TextModel:
    """What turns text into token ids and back."""

    tokenizer: Any  # of transformers
    eos_ids: frozenset[int]
    max_context: int | None  # tokens; None where the model does not say


@dataclass(frozen=True)
class Inspection:
    """What was read from a model and from what OpenVINO compiled of it."""

    description: dict  # the record's model
    placement: dict  # the record's
    kv_cache: str | None  # the precision that keys and values are kept in
    traffic: Traffic | None  # None where unknown of this model or device


@dataclass(frozen=True)
class LoadedModel:
    runtime: Any  # one of runtimes.py
    text: TextModel
    inspection: Inspection
    config: dict  # OpenVINO properties it was compiled with
    load_time_s: float


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and what its runtime rounds besides --precision."""
    add = parser.add_argument
    add("--model_name", type=Path, default=DEFAULT_MODEL, help="folder made by export.py")
    add = parser.add_argument_group("rounding").add_argument
    add(
        "--kv_cache_precision",
        choices=KV_CACHE_PRECISIONS,
        help="of cached keys and values (default: OpenVINO's choice; f32 with --precision f32)",
    )
    add(
        "--dynamic_quantization_group_size",
        type=cli.non_negative_int,
        metavar="N",
        help="activations of compressed layers in 8 bits, N per scale; 0: not rounded "
        "(default: OpenVINO's choice; 0 with --precision f32)",
    )


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--stop_at_eos", action="store_true", help="let an answer end before --max_new_tokens")
    add("--temperature", type=cli.non_negative_float, default=0.0, help="0: greedy; else sampled")
    add("--top_p", type=cli.share, default=1.0, help="sample among the tokens with this share")
    add("--seed", type=int, default=0, help="of sampling and of random prompts")


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--prompt", default=PROMPT, help="text to continue")
    group.add_argument("--prompt_file", type=Path, help="read the prompt from a text file")
    random = "prompts of exactly N random tokens, different each time"
    group.add_argument("--prompt_tokens", type=cli.positive_int, metavar="N", help=random)
    parser.add_argument("--chat", action="store_true", help="apply the model's chat template")
    new = "tokens to generate per prompt"
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=100, help=new)


def check_prompt_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.chat and args.prompt_tokens:
        parser.error("--chat needs a text: leave --prompt_tokens out")


def generation_config(
    args: argparse.Namespace, eos_ids: frozenset[int], max_new_tokens: int | None = None
) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_new_tokens or args.max_new_tokens,
        eos_ids=eos_ids,
        stop_at_eos=args.stop_at_eos,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )


def check_folder(folder: Path, option: str = "--model_name") -> None:
    """Raise UserError where the model is missing or incomplete; names one that is there."""
    hint = f"make it with `python3 export.py --output {folder}`"
    others = sorted(path.parent for path in folder.absolute().parent.glob(f"*/{OPENVINO_MODEL}"))
    if others and not folder.exists():
        hint += f', or use the model that is here: {option}="{folder.with_name(others[0].name)}"'
    if not folder.is_dir():
        raise UserError(f"no model folder {folder}: {hint}")
    model_files.check_ir(folder / OPENVINO_MODEL, hint=hint)


def check_inputs(args: argparse.Namespace) -> None:
    """Raise UserError for what can be known to be wrong before loading."""
    if not args.prompt_tokens:
        read_prompt(args)
    check_folder(args.model_name)
    run.check_destination(args)


def check_context(text: TextModel, prompt_tokens: int, max_new_tokens: int) -> None:
    if text.max_context and prompt_tokens + max_new_tokens > text.max_context:
        raise UserError(
            f"{prompt_tokens} prompt tokens and {max_new_tokens} new ones "
            f"exceed the model's context of {text.max_context}"
        )


def compile_config(args, placement: Placement, extra: dict | None = None) -> dict:
    """OpenVINO properties to compile with; `extra`: instead of the options'. Raises UserError."""
    import openvino as ov

    if extra is None:
        extra = {**_requested_rounding(args), **args.ov_config}
    return openvino_setup.compile_config(ov.Core(), args.device, placement, "LATENCY", extra)


def _requested_rounding(args: argparse.Namespace) -> dict:
    requested = {
        "KV_CACHE_PRECISION": args.kv_cache_precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": args.dynamic_quantization_group_size,
    }
    return {name: value for name, value in requested.items() if value is not None}


def rounding_warnings(args: argparse.Namespace, inspection: Inspection) -> list[str]:
    """One sentence per requested rounding that is not the effective one."""
    (properties,) = inspection.placement["openvino_properties"].values()
    effective = {**properties, "KV_CACHE_PRECISION": inspection.kv_cache}
    return [
        f"{name} {value} was requested, {effective.get(name, 'none')} was used"
        for name, value in _requested_rounding(args).items()
        if effective.get(name) != value
    ]


def record_parts(args: argparse.Namespace, inspection: Inspection, runtime: str) -> dict:
    """What every command gives to run.build()."""
    (properties,) = inspection.placement["openvino_properties"].values()
    return {
        "model": inspection.description,
        "placement": inspection.placement,
        "comparable_by": {
            "runtime": runtime,
            "device": args.device,
            "KV cache": inspection.kv_cache,
            "dynamic quantization group": properties.get("DYNAMIC_QUANTIZATION_GROUP_SIZE"),
        },
        "configuration": {"hint": "LATENCY"},
        "packages": PACKAGES,
        "resolved": {
            "runtime": runtime,
            "kv_cache_precision": inspection.kv_cache,
            "torch_threads": 1,
        },
        "warnings": rounding_warnings(args, inspection),
    }


def task(config: GenerationConfig, prompts: Prompts) -> dict:
    """What generation must have in common to be the same work."""
    is_sampled = config.temperature > 0
    return {
        "prompt tokens": prompts.tokens,
        "max new tokens": config.max_new_tokens,
        "stop at eos": config.stop_at_eos,
        "temperature": config.temperature if is_sampled else None,
        "top p": config.top_p if is_sampled and config.top_p < 1 else None,
    }


def print_header(args, inspection: Inspection, runtime: str, load_time_s: float) -> dict:
    """Print model, system and placement; returns the record's system."""
    extra = f"; {runtime}, KV cache {inspection.kv_cache or 'unknown'}"
    described, placed = inspection.description, inspection.placement
    return run.print_header(described, placed, args.device, load_time_s, extra)


def load_text_model(folder: Path) -> TextModel:
    """Raises UserError."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except Exception as error:  # the tokenizers library raises plain Exceptions
        raise cannot_load(folder, error) from None
    try:
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:  # has no generation_config.json
        eos = config.eos_token_id
    eos_ids = frozenset(eos if isinstance(eos, list) else [eos]) - {None}
    return TextModel(tokenizer, eos_ids, getattr(config, "max_position_embeddings", None))


def cannot_load(folder: Path, error: Exception) -> UserError:
    why = cli.one_line(error)
    return UserError(f"cannot load {folder}: {why} (export it again with export.py)")


def describe(folder: Path, model) -> dict:
    """The record's model."""
    weight_format = openvino_setup.weight_format(model)
    return model_files.describe(folder.name, folder, [folder / OPENVINO_MODEL], weight_format)


def inspect(model, compiled, folder: Path, placement: Placement) -> Inspection:
    """Read what goes into the record from an ov.Model and its compiled form. Raises UserError."""
    description = describe(folder, model)
    openvino_setup.check_int8(placement, description["weight_format"])
    try:
        demands = traffic.count(model, compiled)
    except ValueError:
        demands = None
    return Inspection(
        description=description,
        placement=openvino_setup.describe(placement, {"model": compiled}),
        kv_cache=traffic.kv_cache_precision(compiled),
        traffic=demands,
    )


def load(args: argparse.Namespace, runtime: type) -> LoadedModel:
    """Load and inspect --model_name for a runtime of runtimes.py.

    Loading is from the tokenizer to the compiled model; what is inspected does not count. Raises
    UserError.
    """
    import torch

    placement = Placement.from_arguments(args)
    config = compile_config(args, placement)
    torch.set_num_threads(1)  # torch only samples here; its OpenMP threads would spin
    folder = args.model_name
    with progress.stage(f"Loading {folder}"):
        importlib.import_module(runtime.package)
        try:
            if runtime is not Optimum:
                graphs = compile_paged(folder, args.device, config)
                inspection = inspect(*graphs, folder, placement)
                del graphs
            started = time.perf_counter()
            text = load_text_model(folder)
            made = runtime(folder, args.device, config)
            load_time_s = time.perf_counter() - started
            if runtime is Optimum:
                inspection = inspect(made.model, made.compiled, folder, placement)
        except LOAD_ERRORS as error:
            raise cannot_load(folder, error) from None
    return LoadedModel(made, text, inspection, config, load_time_s)


@dataclass(frozen=True)
class Prompts:
    """The prompts of one call after another: a text, or random tokens, different in each call."""

    tokenizer: Any
    name: str  # where the text is from
    text: str  # "" for random tokens
    tokens: int  # length of each prompt
    add_special_tokens: bool = True
    ordinary: np.ndarray | None = None  # the token ids to choose random ones from
    random: np.random.Generator | None = None

    def take(self, count: int) -> np.ndarray:
        """Token ids, int64 [count, tokens]."""
        if self.random:
            return self.random.choice(self.ordinary, (count, self.tokens))
        ids = self.tokenizer(self.text, add_special_tokens=self.add_special_tokens)["input_ids"]
        return np.tile(np.array(ids, np.int64), (count, 1))

    def source(self) -> dict:
        """The record's input."""
        digest = hashlib.sha256(self.text.encode()).hexdigest() if self.text else None
        return {"name": self.name, "sha256": digest, "prompt_tokens": self.tokens}


def random_prompts(text: TextModel, tokens: int, seed: int) -> Prompts:
    special = set(text.tokenizer.all_special_ids)
    ids = np.array([token for token in range(text.tokenizer.vocab_size) if token not in special])
    name = f"random prompts of {tokens} tokens"
    random = np.random.default_rng(seed)
    return Prompts(text.tokenizer, name, "", tokens, ordinary=ids, random=random)


def prompts_from_arguments(args: argparse.Namespace, text: TextModel) -> Prompts:
    """Raises UserError for a file that can't be read, or a model without a chat template."""
    if args.prompt_tokens:
        return random_prompts(text, args.prompt_tokens, args.seed)
    prompt = read_prompt(args)
    if args.chat:
        messages = [{"role": "user", "content": prompt}]
        try:
            prompt = text.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except ValueError:
            raise UserError("this model has no chat template: leave --chat out") from None
    tokens = len(text.tokenizer(prompt, add_special_tokens=not args.chat)["input_ids"])
    name = str(args.prompt_file or "prompt")
    return Prompts(text.tokenizer, name, prompt, tokens, add_special_tokens=not args.chat)


def read_prompt(args: argparse.Namespace) -> str:
    prompt = files.read_text(args.prompt_file, "--prompt_file") if args.prompt_file else args.prompt
    if not prompt.strip():
        raise UserError("the prompt is empty: give some text (--prompt, --prompt_file)")
    return prompt
