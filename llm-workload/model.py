"""An exported LLM: the options that several commands share, its folder, tokenizer and prompts."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads would compete with OpenVINO's

import numpy as np
import traffic
from runtimes import OPENVINO_MODEL, GenerationConfig, compile_paged
from traffic import Traffic

from harness import cli, files, model_files, openvino_setup, progress, run
from harness.cli import UserError
from harness.openvino_setup import Placement

DEFAULT_MODEL = model_files.beside(__file__, "llama-2-7b-chat-ov")
PROMPT = "Discuss the history and evolution of artificial intelligence in 80 words"
KV_CACHE_PRECISIONS = ("u4", "u8", "bf16", "f16", "f32")  # that the CPU plugin takes
DYNAMIC_QUANTIZATION = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
PACKAGES = ("openvino", "optimum-intel", "openvino-genai", "transformers", "torch")


@dataclass(frozen=True)
class TextModel:
    """What turns text into token ids and back."""

    tokenizer: Any  # of transformers
    eos_ids: frozenset[int]
    max_context: int | None  # tokens; None where the model does not say


@dataclass(frozen=True)
class Inspection:
    """What was read from a model and its compiled form."""

    description: dict  # the record's model
    placement: dict  # the record's
    kv_cache: str | None  # the precision that keys and values are kept in
    traffic: Traffic | None  # None where unknown of this model or device

    @property
    def properties(self) -> dict:
        """OpenVINO's, read back."""
        return self.placement["openvino_properties"]["model"]


@dataclass(frozen=True)
class LoadedModel:
    runtime: Any  # one of runtimes.py
    text: TextModel
    config: dict  # OpenVINO properties it was compiled with
    load_time_s: float
    inspection: Inspection


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and what its runtime rounds besides --precision."""
    add, choices = parser.add_argument, KV_CACHE_PRECISIONS
    add("--model_name", type=Path, default=DEFAULT_MODEL, help="folder made by export.py")
    cache = "of cached keys and values (default: OpenVINO's choice; f32 with --precision f32)"
    add("--kv_cache_precision", choices=choices, help=cache)
    group = (
        "activations of compressed layers in 8 bits, N per scale; 0: not rounded "
        "(default: OpenVINO's choice; 0 with --precision f32)"
    )
    size = cli.non_negative_int
    add("--dynamic_quantization_group_size", type=size, metavar="N", help=group)


def temperature(text: str) -> float:
    """For argparse: a temperature at which float32 logits stay finite."""
    value = cli.non_negative_float(text)
    if value and not 0.01 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must be 0, or 0.01 to 100, not {text}")
    return value


def top_p(text: str) -> float:
    value = cli.share(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def seed(text: str) -> int:
    value = cli.non_negative_int(text)
    if value >= 2**63:
        raise argparse.ArgumentTypeError("must be below 2^63")
    return value


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--stop_at_eos", action="store_true", help="let an answer end before --max_new_tokens")
    add("--temperature", type=temperature, default=0.0, help="0: greedy; else sampled")
    add("--top_p", type=top_p, default=1.0, help="sample among the tokens with this share")
    add("--seed", type=seed, default=0, help="of sampling and of random prompts")


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_prompt = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    add_prompt("--prompt", default=PROMPT, help="text to continue")
    add_prompt("--prompt_file", type=Path, help="read the prompt from a text file")
    random = "prompts of exactly N random tokens, different each time"
    add_prompt("--prompt_tokens", type=cli.positive_int, metavar="N", help=random)
    add("--chat", action="store_true", help="apply the model's chat template")
    add("--max_new_tokens", type=cli.positive_int, default=100, help="tokens per prompt")


def check_prompt_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.chat and args.prompt_tokens:
        parser.error("--chat needs a text: leave --prompt_tokens out")


def generation_config(args, text: TextModel, max_new_tokens: int) -> GenerationConfig:
    sampling = (args.stop_at_eos, args.temperature, args.top_p, args.seed)
    return GenerationConfig(max_new_tokens, text.eos_ids, *sampling)


def check_folder(folder: Path, option: str = "--model_name") -> None:
    """Raise UserError where the model is missing or incomplete; names one that is there."""
    hint = f"make it with `python3 export.py --output {folder}`"
    others = sorted(path.parent for path in folder.absolute().parent.glob(f"*/{OPENVINO_MODEL}"))
    if others and not folder.exists():
        hint += f', or use the model that is here: {option}="{folder.with_name(others[0].name)}"'
    if not folder.is_dir():
        raise UserError(f"no model folder {folder}: {model_files.where(folder, hint)}")
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


def _requested_rounding(args: argparse.Namespace) -> dict:
    requested = {
        "KV_CACHE_PRECISION": args.kv_cache_precision,
        DYNAMIC_QUANTIZATION: args.dynamic_quantization_group_size,
    }
    return {name: value for name, value in requested.items() if value is not None}


def rounding_reasons(args: argparse.Namespace, found: Inspection) -> list[str]:
    """One sentence per requested rounding that is not the effective one."""
    effective = {**found.properties, "KV_CACHE_PRECISION": found.kv_cache}
    return [
        f"{name} {value} was requested, {effective.get(name, 'none')} was used"
        for name, value in _requested_rounding(args).items()
        if effective.get(name) != value
    ]


def record_parts(args: argparse.Namespace, loaded: LoadedModel, **resolved) -> dict:
    """What every command gives to run.build(), with the parameters that were `resolved`."""
    runtime, found = loaded.runtime.name, loaded.inspection
    known = {"runtime": runtime, "kv_cache_precision": found.kv_cache, "torch_threads": 1}
    return {
        "model": found.description,
        "placement": found.placement,
        "comparable_by": {
            "runtime": runtime,
            "device": args.device,
            "KV cache": found.kv_cache,
            "dynamic quantization group": found.properties.get(DYNAMIC_QUANTIZATION),
        },
        "configuration": {"hint": "LATENCY"},
        "packages": PACKAGES,
        "resolved": {**known, **resolved},
        "reasons": rounding_reasons(args, found),
    }


def task(config: GenerationConfig, prompts: Prompts, batch_size: int, is_streamed: bool) -> dict:
    """What generation must have in common to be the same work."""
    is_sampled = config.temperature > 0
    return {
        "prompt tokens": prompts.tokens,
        "max new tokens": config.max_new_tokens,
        "batch size": batch_size,
        "stop at eos": config.stop_at_eos,
        "temperature": config.temperature if is_sampled else None,
        "top p": config.top_p if is_sampled and config.top_p < 1 else None,
        "stream": is_streamed,
    }


def print_header(args: argparse.Namespace, loaded: LoadedModel) -> dict:
    """Print model, system and placement; returns the record's system."""
    found, load_time_s = loaded.inspection, loaded.load_time_s
    extra = f"; {loaded.runtime.name}, KV cache {found.kv_cache or 'unknown'}"
    return run.print_header(found.description, found.placement, args.device, load_time_s, extra)


def load_text_model(folder: Path) -> TextModel:
    """Raises UserError."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except Exception as error:  # the tokenizers library raises plain Exceptions
        raise model_files.cannot_load(folder, error) from None
    try:
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:  # has no generation_config.json
        eos = config.eos_token_id
    eos_ids = frozenset(eos if isinstance(eos, list) else [eos]) - {None}
    return TextModel(tokenizer, eos_ids, getattr(config, "max_position_embeddings", None))


def load(
    folder: Path, runtime: type, args: argparse.Namespace, precision: str | None = None
) -> LoadedModel:
    """Load a model for one of runtimes.py, and inspect it, which does not count as loading.

    With `precision`, in that one throughout, whatever the options say. Raises UserError.
    """
    import openvino
    import torch

    placement = Placement.from_arguments(args)
    extra = {**_requested_rounding(args), **args.ov_config}
    if precision:
        placement, extra = replace(placement, precision=precision), {}
    core = openvino.Core()
    config = openvino_setup.compile_config(core, args.device, placement, "LATENCY", extra)
    torch.set_num_threads(1)  # torch only samples here; its OpenMP threads would spin
    with progress.stage(f"Loading {folder}"):
        importlib.import_module(runtime.package)
        try:
            if runtime.is_paged:
                found = inspect(*compile_paged(folder, args.device, config), folder, placement)
            started = time.perf_counter()
            text = load_text_model(folder)
            made = runtime(folder, args.device, config)
            load_time_s = time.perf_counter() - started
            if not runtime.is_paged:
                found = inspect(made.model, made.compiled, folder, placement)
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise model_files.cannot_load(folder, error) from None
    return LoadedModel(made, text, config, load_time_s, found)


def inspect(model, compiled, folder: Path, placement: Placement) -> Inspection:
    """Of an ov.Model and its compiled form. Raises UserError."""
    weight_format = openvino_setup.weight_format(model)
    openvino_setup.check_int8(placement, weight_format)
    try:
        demands = traffic.count(model, compiled)
    except ValueError:
        demands = None
    ir = [folder / OPENVINO_MODEL]
    description = model_files.describe(folder.name, folder, ir, weight_format)
    described = openvino_setup.describe(placement, {"model": compiled})
    return Inspection(description, described, traffic.kv_cache_precision(compiled), demands)


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
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt is not UTF-8 text (--prompt)") from None
    if not prompt.strip():
        raise UserError("the prompt is empty: give some text (--prompt, --prompt_file)")
    return prompt
