"""What the LLM workload refuses: hostile prompts, cut answers, cached prompts, bad options."""

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_one_line
from llm_in_process import DEMO, InProcess, small_model

from harness.cli import UserError

SHORT = (f"--model_name={DEMO}", "--num_iters", 1, "--max_new_tokens", 3, "--skip_limits")
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


@pytest.fixture
def llm(tmp_path) -> InProcess:
    return InProcess("llm-workload", tmp_path / "results")


def test_prompts_that_are_no_text_are_refused(llm, tmp_path):
    fifo, big, bad, empty = (tmp_path / name for name in ("fifo", "big", "bad", "empty"))
    os.mkfifo(fifo)
    with open(big, "wb") as file:
        file.truncate(2**30)
    bad.write_bytes(b"caf\xe9")
    empty.write_bytes(b"")
    for path, why in (
        ("/dev/zero", "not a regular file"),
        (fifo, "not a regular file"),
        (big, "1024 MiB"),
        (bad, "not a UTF-8 text file"),
        (empty, "prompt is empty"),
        (tmp_path, "not a regular file"),
    ):
        assert_one_line(llm.infer(*SHORT, "--prompt_file", path, timeout=60), why)
    assert_one_line(llm.infer(*SHORT, "--prompt", "caf\udce9"), "not UTF-8")


@pytest.mark.parametrize(
    "option, values",
    [
        ("--temperature", ["-1", "1e300", "1e-300", "nan"]),
        ("--top_p", ["0", "1.1", "nan"]),
        ("--seed", ["-1", str(10**23), "x"]),
    ],
)
def test_sampling_that_no_runtime_can_do_is_wrong_usage(option, values, capsys):
    import argparse

    import model

    parser = argparse.ArgumentParser()
    model.add_generation_arguments(parser)
    for value in values:
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([f"{option}={value}"])
        assert ended.value.code == 2 and option in capsys.readouterr().err


def test_a_wrong_property_does_not_ask_for_another_export(llm):
    done = llm.infer(*SHORT, "--ov_config", '{"NUM_STREAMS": "x"}')
    assert_one_line(done, "(--ov_config, --threads)")
    assert "export it" not in done.stderr


def test_escape_codes_of_a_prompt_do_not_reach_the_terminal(llm):
    small = f"--model_name={small_model()}"
    run, printed = llm.measure(*SHORT, small, "--prompt", "Say \x1b]0;evil\x07 hi.")
    assert "\x1b" not in printed and "\x07" not in printed and "evil" in printed


def test_an_export_needs_no_home_folder_and_says_so_where_there_is_no_network(llm, tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "HF_HOME")}
    without = ("env", "-i", *(f"{k}={v}" for k, v in env.items()), "HF_ENDPOINT=http://127.0.0.1:9")
    done = llm.run("export.py", "--output", tmp_path / "out", prefix=without)
    assert_one_line(done, "cannot reach the hub")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_are_not_finite_are_refused(value, temperature):
    from runtimes import GenerationConfig, make_sampler

    sample = make_sampler(GenerationConfig(5, frozenset({2}), temperature=temperature))
    logits = np.linspace(0, 1, 20, dtype=np.float32).reshape(2, 10)
    assert len(sample(logits.copy())) == 2
    logits[1, 3] = value
    with pytest.raises(UserError, match="NaN or infinity"):
        sample(logits)


def test_an_answer_of_another_length_than_requested_is_refused():
    from runtimes import GenerationConfig, check_length

    exact = GenerationConfig(3, frozenset({2}))
    may_end = GenerationConfig(3, frozenset({2}), stop_at_eos=True)
    check_length([[1, 1, 1], [1, 1, 1]], exact)
    check_length([[1, 2], [1, 1, 1]], may_end)
    for answers, config in (
        ([[1, 1, 1], [1, 2]], exact),
        ([[1, 1, 1, 1]], exact),
        ([[1, 1, 1, 1]], may_end),
        ([[]], may_end),
    ):
        with pytest.raises(UserError, match="tokens, 3 were requested"):
            check_length(answers, config)


def test_a_run_whose_answers_ended_early_says_so():
    from runtimes import length_warnings

    assert length_warnings(800, 8, max_new_tokens=100) == []
    (warning,) = length_warnings(296, 8, max_new_tokens=100)
    assert "37.0 of 100 tokens on average" in warning


def time_of_a_repeated_prompt(prefix_cache: bool, monkeypatch) -> float:
    """Time to first token of a prompt given again, over that of another one as long."""
    import runtimes
    from infer import generate_genai

    scheduler = runtimes.scheduler_config()
    assert not scheduler.enable_prefix_caching
    scheduler.enable_prefix_caching = prefix_cache
    monkeypatch.setattr(runtimes, "scheduler_config", lambda: scheduler)
    runtime = runtimes.GenAI(DEMO, "CPU", EXACT)
    prompts = np.random.default_rng(0).integers(100, 40000, (3, 300))
    config = runtimes.GenerationConfig(1, frozenset({2}))
    new_s, again_s = (
        min(generate_genai(runtime, prompts[row : row + 1], config).times_s[0] for row in rows)
        for rows in ((0, 1), (1, 1))
    )
    return again_s / new_s


@pytest.mark.alone
def test_a_prompt_given_again_is_computed_again(monkeypatch):
    assert time_of_a_repeated_prompt(False, monkeypatch) > 0.5
    assert time_of_a_repeated_prompt(True, monkeypatch) < 0.3  # as if it were cached


def test_prefill_faster_than_the_machine_computes_makes_a_run_invalid():
    from traffic import impossible

    assert impossible({"mfu": [[1.1]]}) == []
    (warning,) = impossible({"mfu": [[8.0]]})
    assert "8.0 times" in warning


def test_options_without_effect_leave_the_work_the_same():
    from model import task
    from runtimes import GenerationConfig

    def work(**options):
        prompts = SimpleNamespace(tokens=9)
        return task(GenerationConfig(5, frozenset({2}), **options), prompts, 1, False)

    assert work() == work(seed=7) == work(top_p=0.5) == work(top_p=0.5, seed=3)
    assert work(temperature=0.7) == work(temperature=0.7, seed=7)
    assert work() != work(temperature=0.7) != work(temperature=0.7, top_p=0.5)
    assert work() != work(stop_at_eos=True)


def test_a_sweep_replaces_no_file(llm, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("precious")
    done = llm.run("sweep.py", f"--model_name={DEMO}", "--table", table, fresh=True)
    assert_one_line(done, "--table", "mine.csv exists", "--overwrite")
    assert table.read_text() == "precious"
    few = (*SHORT, f"--model_name={small_model()}", "--prompt_tokens", 8, "--batch_size", 1)
    for _ in range(2):
        done = llm.run("sweep.py", *few, "--results_dir", llm.results)
        assert done.returncode == 0, done.stderr
        time.sleep(1)  # the files are named after the second
    assert len(list(llm.results.glob("llm-sweep_*.csv"))) == 2
    assert len(list(llm.results.glob("llm-sweep_*.png"))) == 2
