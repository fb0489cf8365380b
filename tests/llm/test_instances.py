"""Instances of the LLM workload side by side."""

import os

import pytest
from conftest import assert_two_at_once
from llm_in_process import DEMO, InProcess


@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two instances take two CPUs")
@pytest.mark.parametrize("runtime", ["optimum", "genai"])
def test_two_instances_generate_at_once_and_their_rates_add_up(tmp_path, runtime):
    llm = InProcess("llm-workload", tmp_path)
    short = ("--num_iters", 3, "--max_new_tokens", 20, "--runtime", runtime)
    run, printed = llm.measure(f"--model_name={DEMO}", "--instances", 2, *short)
    assert_two_at_once(run)
    assert len(run["samples"]["time_per_output_token_s"][0]) == 2
    assert run["output"]["same_tokens_every_iteration"] is True
    assert "2 × 1 core(s)" in printed and "efficiency" in printed
    assert len(list(tmp_path.iterdir())) == 1
