"""Two ways to generate with an exported model: optimum-intel's model stepped by hand, and openvino-genai's LLMPipeline.

Both take prompts as token ids and tell when each new token came. Both give the same tokens as optimum-intel's own generate() where
nothing is sampled. `inspect` is called once, with the model (ov.Model) and the compiled model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OPENVINO_MODEL = "openvino_model.xml"


@dataclass(frozen=True)
class How:
    """How answers are made."""

    max_new_tokens: int
    eos_ids: frozenset[int]
    stop_at_eos: bool = False  # else end-of-sequence tokens are never chosen
    temperature: float = 0.0  # 0: the most probable token
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of one call."""

    tokens: list[list[int]]  # new ones of each prompt, up to and with its end-of-sequence token
    times_s: list[float]  # when each step's tokens came, from the call on
    time_s: float  # the whole call


class Optimum:
    """OVModelForCausalLM's compiled model, without the bookkeeping that transformers' generate() does at every token.

    Logits are made for the last position only, as no other is looked at.
    """

    name, package = "optimum-intel", "optimum.intel"

    def __init__(self, folder: Path, device: str, config: dict, inspect: Callable):
        from optimum.intel import OVModelForCausalLM

        started = time.perf_counter()
        model = OVModelForCausalLM.from_pretrained(folder, device=device, ov_config=config, compile=False)
        only_last_logits(model.model)
        self.read_time_s = time.perf_counter() - started
        model.compile()
        self.compile_time_s = time.perf_counter() - started - self.read_time_s
        self._request = model.request
        compiled = self._request.get_compiled_model()
        self._inputs = {name for port in compiled.inputs for name in port.names}
        inspect(model.model, compiled)

    def generate(self, prompts: np.ndarray, how: How, tell: Callable[[list[int]], None] | None = None) -> Answer:
        """Answer prompts of equal length, int64 [B, T]; `tell` is called with each step's tokens."""
        started = time.perf_counter()
        rows, length = prompts.shape
        choose = chooser(how)
        banned = [] if how.stop_at_eos else sorted(how.eos_ids)
        mask = np.ones((rows, length + how.max_new_tokens), np.int64)
        positions = np.tile(np.arange(length + how.max_new_tokens), (rows, 1))
        beam_idx = np.arange(rows, dtype=np.int32)
        ids, first, steps, times_s, ended = prompts, 0, [], [], np.zeros(rows, bool)
        self._request.reset_state()
        while len(steps) < how.max_new_tokens and not ended.all():
            last = first + ids.shape[1]
            inputs = {
                "input_ids": ids,
                "attention_mask": np.ascontiguousarray(mask[:, :last]),
                "position_ids": np.ascontiguousarray(positions[:, first:last]),
                "beam_idx": beam_idx,
            }
            self._request.infer({name: inputs[name] for name in self._inputs}, share_inputs=True, share_outputs=True)
            logits = self._request.get_tensor("logits").data[:, -1]
            logits[:, banned] = -np.inf
            chosen = choose(logits)
            times_s.append(time.perf_counter() - started)
            steps.append(chosen)
            if how.stop_at_eos:
                ended |= np.isin(chosen, list(how.eos_ids))
            if tell:
                tell(chosen.tolist())
            ids, first = chosen[:, None], last
        tokens = [up_to_end(row, how) for row in np.stack(steps, axis=1).tolist()]
        return Answer(tokens, times_s, time.perf_counter() - started)


class GenAI:
    """openvino-genai's LLMPipeline. Prompts seen before are not remembered (no prefix cache)."""

    name, package = "openvino-genai", "openvino_genai"

    def __init__(self, folder: Path, device: str, config: dict, inspect: Callable):
        import openvino as ov
        import openvino_genai as genai

        self._genai, self._ov = genai, ov
        compile_to_inspect(folder, device, config, inspect)
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        started = time.perf_counter()
        self._pipeline = genai.LLMPipeline(folder, device, scheduler_config=scheduler, **config)
        self.read_time_s, self.compile_time_s = 0.0, time.perf_counter() - started  # both in one

    def generate(self, prompts: np.ndarray, how: How, tell: Callable[[list[int]], None] | None = None) -> Answer:
        """See Optimum.generate(); of a batch `tell` is told nothing, as openvino-genai does not."""
        genai, told = self._genai, ()
        if tell and len(prompts) == 1:

            class Told(genai.StreamerBase):
                def write(self, token):
                    tell(token if isinstance(token, list) else [token])
                    return genai.StreamingStatus.RUNNING

                def end(self):
                    pass

            told = (Told(),)
        started = time.perf_counter()
        inputs = genai.TokenizedInputs(self._ov.Tensor(prompts), self._ov.Tensor(np.ones_like(prompts)))
        result = self._pipeline.generate(inputs, genai_config(genai, how), *told)
        time_s = time.perf_counter() - started
        raw = result.perf_metrics.raw_metrics
        first_s = raw.m_times_to_first_token[0] / 1e6
        at_ms = sorted(set(raw.m_new_token_times))  # milliseconds, though documented as microseconds
        times_s = [first_s + (at - at_ms[0]) / 1e3 for at in at_ms]
        return Answer([up_to_end(row, how) for row in result.tokens], times_s, time_s)


RUNTIMES = {"optimum": Optimum, "genai": GenAI}


def compile_to_inspect(folder: Path, device: str, config: dict, inspect: Callable) -> None:
    """openvino-genai's pipelines do not hand out their compiled model: what the settings come to is read from the same model,
    compiled once more and let go again before the pipeline is made."""
    import openvino as ov

    core = ov.Core()
    ir = core.read_model(folder / OPENVINO_MODEL)
    inspect(ir, core.compile_model(ir, device, config))


def genai_config(genai, how: How):
    """The same for openvino-genai."""
    told = genai.GenerationConfig()
    told.max_new_tokens = how.max_new_tokens
    told.min_new_tokens = 0 if how.stop_at_eos else how.max_new_tokens
    told.stop_token_ids = set(how.eos_ids)
    told.do_sample = how.temperature > 0
    if told.do_sample:
        told.temperature, told.top_p, told.rng_seed = how.temperature, how.top_p, how.seed
    return told


def up_to_end(tokens: Sequence[int], how: How) -> list[int]:
    """The tokens up to and with the first end-of-sequence token: what follows was not generated for anyone."""
    end = next((index for index, token in enumerate(tokens) if token in how.eos_ids), len(tokens))
    return list(tokens[: end + 1])


def chooser(how: How) -> Callable[[np.ndarray], np.ndarray]:
    """Logits float32 [B, V] -> the next token of each row, int64 [B]."""
    if how.temperature == 0:
        return lambda logits: logits.argmax(axis=1)
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    warp = LogitsProcessorList([TemperatureLogitsWarper(how.temperature), TopPLogitsWarper(how.top_p)])
    generator = torch.Generator().manual_seed(how.seed)

    def sample(logits: np.ndarray) -> np.ndarray:
        chances = torch.softmax(warp(None, torch.from_numpy(logits)), dim=-1)
        return torch.multinomial(chances, 1, generator=generator)[:, 0].numpy()

    return sample


def only_last_logits(model) -> None:
    """Let the model's last MatMul see the last position only: logits [B, T, V] become [B, 1, V].

    For a prompt of T tokens that leaves out T - 1 products with the vocabulary, of which generation reads none.
    """
    from openvino import opset13

    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() in ("Convert", "Multiply", "Tanh", "Divide") and len(node.inputs()):  # e.g. soft-capped logits
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul":
        return
    hidden = node.input_value(0)
    last = opset13.slice(hidden, [-1], [np.iinfo(np.int64).max], [1], [1])
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
