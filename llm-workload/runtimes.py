"""The runtimes that generate with an exported model: optimum-intel's, and openvino-genai's two.

No clock is in here: infer.py and capacity.py call these pieces and take the times. All give the
tokens of optimum-intel's own generate() where nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import traffic

from harness.cli import UserError

OPENVINO_MODEL = "openvino_model.xml"
OnTokens = Callable[[list[int]], None]  # is called with the tokens of each step


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen, and when generation ends."""

    max_new_tokens: int
    eos_ids: frozenset[int]
    stop_at_eos: bool = False  # else end-of-sequence tokens are never chosen
    temperature: float = 0.0  # 0: the most probable token
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class GenerationResult:
    """What one call generated."""

    tokens: list[list[int]]  # per prompt, up to and including its end-of-sequence token
    times_s: list[float]  # of each step's tokens, from the call on
    time_s: float  # of the whole call

    @property
    def count(self) -> int:
        """Generated tokens of all prompts."""
        return sum(map(len, self.tokens))

    @property
    def time_to_first_token_s(self) -> float:
        return self.times_s[0]

    @property
    def time_per_output_token_s(self) -> float | None:
        """Mean time of the steps after the first; None where there are none."""
        steps = len(self.times_s) - 1
        return (self.times_s[-1] - self.times_s[0]) / steps if steps else None


class Optimum:
    """OVModelForCausalLM's compiled model, without transformers' bookkeeping at every token.

    Logits are computed for the last position only, as no other is looked at. One sequence batch at
    a time: start() forgets the one before.
    """

    name, package, is_paged = "optimum-intel", "optimum.intel", False

    def __init__(self, folder: Path, device: str, config: dict):
        loaded = load_optimum(folder, device, config)
        only_last_logits(loaded.model)
        loaded.compile()
        self.model, self._request = loaded.model, loaded.request
        self.compiled = self._request.get_compiled_model()
        self._names = {name for port in self.compiled.inputs for name in port.names}

    def start(self, prompts: np.ndarray, max_new_tokens: int) -> np.ndarray:
        """Prefill prompts of equal length, int64 [B, T]: logits float32 [B, V] after each."""
        rows, length = prompts.shape
        self._mask = np.ones((rows, length + max_new_tokens), np.int64)
        self._positions = np.tile(np.arange(length + max_new_tokens), (rows, 1))
        self._beams = np.arange(rows, dtype=np.int32)
        self._past_tokens = 0
        self._request.reset_state()
        return self._forward(prompts)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Append a token to each sequence, int64 [B]: logits float32 [B, V] after it."""
        return self._forward(tokens[:, None])

    def _forward(self, ids: np.ndarray) -> np.ndarray:
        """The logits are the request's own memory: valid until the next call."""
        first, last = self._past_tokens, self._past_tokens + ids.shape[1]
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ascontiguousarray(self._mask[:, :last]),
            "position_ids": np.ascontiguousarray(self._positions[:, first:last]),
            "beam_idx": self._beams,
        }
        known = {name: inputs[name] for name in self._names}
        # Not infer(), which has this thread compute too, though it is bound to no core: 3 % slower.
        self._request.start_async(known, share_inputs=True)
        self._request.wait()
        self._past_tokens = last
        return self._request.get_tensor("logits").data[:, -1]


class Logits:
    """OVModelForCausalLM as it is, with logits of every position: for accuracy.py."""

    name, package, is_paged = "optimum-intel", "optimum.intel", False

    def __init__(self, folder: Path, device: str, config: dict):
        self.forward = load_optimum(folder, device, config)
        self.forward.compile()
        self.model, self.compiled = self.forward.model, self.forward.request.get_compiled_model()


def load_optimum(folder: Path, device: str, config: dict):
    """An OVModelForCausalLM that is not compiled yet."""
    from optimum.intel import OVModelForCausalLM

    settings = {"device": device, "ov_config": config, "compile": False}
    return OVModelForCausalLM.from_pretrained(folder, **settings)


class GenAI:
    """openvino-genai's LLMPipeline, without a prefix cache."""

    name, package, is_paged = "openvino-genai", "openvino_genai", True

    def __init__(self, folder: Path, device: str, config: dict):
        import openvino_genai as genai

        scheduler = scheduler_config()
        self._pipeline = genai.LLMPipeline(folder, device, scheduler_config=scheduler, **config)

    def generate(
        self, prompts: np.ndarray, config: GenerationConfig, on_tokens: OnTokens | None = None
    ):
        """Generate from prompts of equal length, int64 [B, T]: openvino-genai's EncodedResults.

        `on_tokens` is called with each step's tokens; of a batch openvino-genai streams none.
        """
        import openvino as ov
        import openvino_genai as genai

        inputs = genai.TokenizedInputs(ov.Tensor(prompts), ov.Tensor(np.ones_like(prompts)))
        streamer = [token_streamer(on_tokens)] if on_tokens else []
        return self._pipeline.generate(inputs, genai_config(config), *streamer)


class ContinuousBatching:
    """openvino-genai's ContinuousBatchingPipeline, without a prefix cache.

    Its scheduler decides which requests' tokens go into a step.
    """

    name = "openvino-genai continuous batching"
    package, is_paged = "openvino_genai", True

    def __init__(self, folder: Path, device: str, config: dict):
        import openvino_genai as genai

        pipeline = genai.ContinuousBatchingPipeline(folder, scheduler_config(), device, config)
        self._pipeline, self._requests = pipeline, 0
        self.step, self.is_busy = pipeline.step, pipeline.has_non_finished_requests
        self._running = genai.GenerationStatus.RUNNING

    def add(self, prompt: np.ndarray, config: GenerationConfig):
        """Queue a request for a prompt, int64 [T]; returns its handle."""
        import openvino as ov

        self._requests += 1
        ids = ov.Tensor(prompt[None].copy())
        return self._pipeline.add_request(self._requests, ids, genai_config(config))

    def is_finished(self, handle) -> bool:
        """Whether the request gets no more tokens than can be read."""
        return handle.get_status() != self._running

    @staticmethod
    def read(handle) -> list[int]:
        """The request's tokens since the last call."""
        tokens = []
        while handle.can_read():
            tokens += next(iter(handle.read().values())).generated_ids
        return tokens


RUNTIMES = {"optimum": Optimum, "genai": GenAI}


def compile_paged(folder: Path, device: str, config: dict):
    """The ov.Model of a folder, and the graph with paged attention that openvino-genai makes of it.

    openvino-genai's pipelines do not show their compiled model, so it is compiled here once more,
    to be inspected and let go before the pipeline is made. Raises UserError where the device keeps
    no such cache: with paged attention, one of floats must be in the precision that is computed in.
    """
    import openvino as ov
    from openvino._offline_transformations import paged_attention_transformation

    core = ov.Core()
    model = core.read_model(folder / OPENVINO_MODEL)
    paged = model.clone()
    paged_attention_transformation(paged)
    try:
        return model, core.compile_model(paged, device, config)
    except RuntimeError as error:
        if "kvcache" not in str(error):
            raise
        cache = config["KV_CACHE_PRECISION"]
        raise UserError(
            f"openvino-genai keeps no {cache} cache at this precision: choose another "
            f"--kv_cache_precision, or --precision {cache}"
        ) from None


def scheduler_config():
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    return scheduler


def genai_config(config: GenerationConfig):
    """A GenerationConfig as openvino-genai's."""
    import openvino_genai as genai

    is_sampled = config.temperature > 0
    sampling = {"temperature": config.temperature, "top_p": config.top_p, "rng_seed": config.seed}
    return genai.GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=0 if config.stop_at_eos else config.max_new_tokens,
        stop_token_ids=set(config.eos_ids),
        do_sample=is_sampled,
        **(sampling if is_sampled else {}),
    )


def token_streamer(on_tokens: OnTokens):
    """A streamer of openvino-genai that passes on the tokens of each step."""
    import openvino_genai as genai

    class TokenStreamer(genai.StreamerBase):
        def write(self, tokens):
            on_tokens(tokens if isinstance(tokens, list) else [tokens])
            return genai.StreamingStatus.RUNNING

        def end(self):
            pass

    return TokenStreamer()


def truncate_at_eos(tokens: Sequence[int], eos_ids: Iterable[int]) -> list[int]:
    """The tokens up to and including the first end-of-sequence token: the rest is not counted."""
    ends = (index for index, token in enumerate(tokens) if token in eos_ids)
    return list(tokens[: next(ends, len(tokens)) + 1])


def check_length(answers: Sequence[Sequence[int]], config: GenerationConfig) -> None:
    """Raise UserError where an answer has not the tokens requested: its time would not compare."""
    least = 1 if config.stop_at_eos else config.max_new_tokens
    wrong = [len(tokens) for tokens in answers if not least <= len(tokens) <= config.max_new_tokens]
    if wrong:
        raise UserError(
            f"an answer has {wrong[0]} tokens, {config.max_new_tokens} were requested: "
            "its speed says nothing"
        )


def length_warnings(generated: int, answers: int, max_new_tokens: int) -> list[str]:
    """That answers ended early: a run whose answers are of another length did other work."""
    if generated == answers * max_new_tokens:
        return []
    return [
        f"answers ended early (--stop_at_eos), with {generated / answers:.1f} of "
        f"{max_new_tokens} tokens on average: compare only with answers as long"
    ]


def make_sampler(config: GenerationConfig) -> Callable[[np.ndarray], np.ndarray]:
    """A function from logits float32 [B, V], which it may change, to the next tokens, int64 [B]."""
    banned = [] if config.stop_at_eos else sorted(config.eos_ids)

    def check_finite(best: np.ndarray) -> None:
        """Of the best logits [B], as NaN and infinity are always among them."""
        if not np.isfinite(best).all():
            raise UserError(
                "the model computes NaN or infinity: try --precision f32, or export it again"
            )

    def greedy(logits: np.ndarray) -> np.ndarray:
        logits[:, banned] = -np.inf
        tokens = logits.argmax(axis=1)
        check_finite(logits[np.arange(len(logits)), tokens])
        return tokens

    if config.temperature == 0:
        return greedy
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    warpers = [TemperatureLogitsWarper(config.temperature), TopPLogitsWarper(config.top_p)]
    warp = LogitsProcessorList(warpers)
    generator = torch.Generator().manual_seed(config.seed)

    def sample(logits: np.ndarray) -> np.ndarray:
        logits[:, banned] = -np.inf
        check_finite(logits.max(axis=1))
        probabilities = torch.softmax(warp(None, torch.from_numpy(logits)), dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].numpy()

    return sample


def only_last_logits(model) -> None:
    """Let the head see the last position only: logits [B, T, V] become [B, 1, V].

    That spares T - 1 products with the vocabulary of a prompt of T tokens; generation reads none.
    """
    from openvino import opset13

    node = traffic.head(model)
    if node is not None:
        last = opset13.slice(node.input_value(0), [-1], [np.iinfo(np.int64).max], [1], [1])
        node.input(0).replace_source_output(last.output(0))
        model.validate_nodes_and_infer_types()
