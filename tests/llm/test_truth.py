"""A slow-down that is known shows in the figures, in full."""

import sys
import time

import numpy as np
import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "llm-workload"))

import infer
from runtimes import GenerationConfig


class Timed:
    """A model of two tokens whose calls take a known time at least, and say how long."""

    def __init__(self, prefill_s: float, step_s: float):
        self.prefill_s, self.step_s = prefill_s, step_s
        self.took_s: list[float] = []

    def _logits(self, pause_s: float) -> np.ndarray:
        started = time.perf_counter()
        time.sleep(pause_s)
        self.took_s.append(time.perf_counter() - started)
        return np.array([[0.0, 1.0]], np.float32)

    def start(self, prompts: np.ndarray, max_new_tokens: int) -> np.ndarray:
        return self._logits(self.prefill_s)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return self._logits(self.step_s)


@pytest.mark.alone
def test_twenty_milliseconds_more_per_step_are_twenty_milliseconds_more_per_token():
    """Within 3 %. Load on this machine can only add to it: the least of three tries."""
    config = GenerationConfig(30, frozenset({0}))
    for step_s in (0.01, 0.03):
        shares = []  # reported over true: time to first token, per token, in all
        for _ in range(3):
            model = Timed(0.2, step_s)
            result = infer.generate_optimum(model, np.array([[1, 1]]), config)
            first_s, *steps_s = model.took_s
            assert result.count == 30 and len(steps_s) == 29
            assert result.time_per_output_token_s >= step_s
            true = first_s, np.mean(steps_s), sum(model.took_s)
            told = result.time_to_first_token_s, result.time_per_output_token_s, result.time_s
            shares.append(np.divide(told, true))
        assert np.min(shares, axis=0) == pytest.approx(1, rel=0.03)
