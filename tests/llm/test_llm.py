"""The LLM workload, run as a user runs it, on the demo model that ./run.sh --prepare exports."""

import http.server
import json
import os
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import assert_one_line
from llm_in_process import DEMO, FOLDER, InProcess, small_model

from harness import record
from harness.cli import UserError

MODEL = DEMO.name
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}


def short(model=None) -> tuple:
    """The arguments of a short run, of the small model."""
    few = ("--num_iters", 2, "--warmup", 0, "--max_new_tokens", 5, "--skip_limits")
    return (f"--model_name={model or small_model()}", *few)


@pytest.fixture
def llm(tmp_path) -> InProcess:
    return InProcess("llm-workload", tmp_path / "results")


@pytest.fixture
def model_copy(tmp_path):
    """The exported model's folder, to be damaged; the weights are a link."""
    copy = tmp_path / "model"
    shutil.copytree(DEMO, copy, ignore=shutil.ignore_patterns("openvino_model.bin"))
    (copy / "openvino_model.bin").symlink_to(DEMO / "openvino_model.bin")
    return copy


@pytest.mark.alone
def test_the_guides_command_measures_generated_tokens_only(llm):
    run, printed = llm.measure(f"--model_name={MODEL}", "--num_iters", 6, "--warmup", 0, fresh=True)
    assert run["output"]["generated_tokens"] == [100] * 6
    for name, unit in (
        ("Generation time: ", " s "),
        ("Throughput: ", " tokens/s"),
        ("Time to first token (TTFT): ", " s "),
        ("Time per output token (TPOT): ", " s "),
    ):
        assert any(line.startswith(name) and unit in line for line in printed.splitlines()), printed
    times, rates = run["samples"]["generation_time_s"], run["samples"]["tokens_per_second"]
    assert [rate for (rate,) in rates] == pytest.approx([100 / t for (t,) in times])
    metric = run["metrics"]["tokens_per_second"]
    assert metric["ci95"][0] <= metric["median"] <= metric["ci95"][1]
    first, each = (
        run["metrics"]["time_to_first_token_s"]["median"],
        run["metrics"]["time_per_output_token_s"]["median"],
    )
    assert first + 99 * each == pytest.approx(
        run["metrics"]["generation_time_s"]["median"], rel=0.1
    )
    assert 0 < run["metrics"]["mbu"]["median"] < 1.2 and 0 < run["metrics"]["mfu"]["median"] < 1.2
    assert run["output"]["traffic"]["weight_bytes_per_step"] == pytest.approx(
        run["model"]["bytes"], rel=0.1
    )
    assert "Decode MBU: " in printed and "Prefill MFU: " in printed
    assert "intelligence" in run["output"]["text"] and run["output"]["same_tokens_every_iteration"]
    assert run["model"]["weight_format"] == "int8" and run["model"]["source"].endswith(".gguf")


@pytest.fixture(scope="module")
def generated_text() -> str:
    """Ten tokens by optimum-intel's own generate()."""
    import torch
    from optimum.intel import OVModelForCausalLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = OVModelForCausalLM.from_pretrained(DEMO, ov_config=EXACT)
    prompt = "Discuss the history and evolution of artificial intelligence in 80 words"
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=10, min_new_tokens=10, do_sample=False)
    return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("runtime", ["optimum", "genai"])
def test_the_tokens_are_those_of_optimums_own_generate(llm, generated_text, runtime):
    ten = ("--max_new_tokens", 10, "--precision", "f32", "--stream")
    run, printed = llm.measure(*short(MODEL), *ten, "--runtime", runtime)
    assert run["output"]["text"] == generated_text
    assert printed.count(run["output"]["text"].strip()) == 3  # twice as it came, and at the end
    assert (
        run["parameters"]["runtime"]
        == {"optimum": "optimum-intel", "genai": "openvino-genai"}[runtime]
    )
    placed = run["placement"]
    assert placed["precision_effective"] == "f32" and set(
        placed["executed_precisions"]["model"]
    ) <= {"f32", "u8", "i8"}
    properties = placed["openvino_properties"]["model"]
    assert (
        properties["KV_CACHE_PRECISION"] == "f32"
        and properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 0
    )


@pytest.mark.parametrize("runtime", ["optimum", "genai"])
def test_phases_add_up(llm, runtime):
    lengths = ("--prompt_tokens", 100, "--max_new_tokens", 10, "--num_iters", 3)
    run, _ = llm.measure(*short(), *lengths, "--runtime", runtime)
    samples = run["samples"]
    assert run["input"]["prompt_tokens"] == 100 and run["output"]["generated_tokens"] == [10] * 3
    assert [len(gaps_s) for gaps_s in samples["inter_token_latency_s"]] == [9] * 3
    for index, (time_s,) in enumerate(samples["generation_time_s"]):
        (first_s,) = samples["time_to_first_token_s"][index]
        gaps_s = samples["inter_token_latency_s"][index]
        assert first_s + sum(gaps_s) == pytest.approx(time_s, rel=0.05, abs=0.1)
        assert samples["time_per_output_token_s"][index] == [pytest.approx(sum(gaps_s) / 9)]
        assert samples["prompt_tokens_per_second"][index] == [pytest.approx(100 / first_s)]
    assert not run["output"]["same_tokens_every_iteration"]  # other prompts each time
    assert (
        run["metrics"]["first_inference_time_s"]["median"] > 0
        and "tokenization_time_s" not in samples
    )


def test_both_runtimes_answer_a_batch_of_different_prompts_alike():
    import numpy as np
    from infer import generate_genai, generate_optimum
    from runtimes import GenAI, GenerationConfig, Optimum

    prompts = np.random.default_rng(0).integers(100, 40000, (2, 20))
    runtimes = (
        partial(generate_optimum, Optimum(DEMO, "CPU", EXACT)),
        partial(generate_genai, GenAI(DEMO, "CPU", EXACT)),
    )
    config = GenerationConfig(8, frozenset({2}))
    together = [generate(prompts, config) for generate in runtimes]
    tokens = together[0].tokens
    assert tokens == together[1].tokens
    assert tokens == [runtimes[0](prompts[row : row + 1], config).tokens[0] for row in (0, 1)]
    for generate, result in zip(runtimes, together):
        assert len(result.times_s) == 8 and result.times_s == sorted(result.times_s)
        assert 0 < result.times_s[0] and result.times_s[-1] <= result.time_s * 1.01
        hot = [GenerationConfig(8, frozenset({2}), temperature=1.5, seed=n) for n in (1, 1, 2)]
        drawn = [generate(prompts[:1], config).tokens for config in hot]
        assert drawn[0] == drawn[1] != drawn[2]
        shown = []
        single = generate(prompts[:1], config, shown.append)
        assert single.tokens == [sum(shown, [])] == tokens[:1]
        assert len(single.times_s) == 8 and single.times_s[-1] <= single.time_s
        end = tokens[0][4]  # as if this one ended an answer
        before = tokens[0].index(end)
        ending = GenerationConfig(8, frozenset({end}), stop_at_eos=True)
        assert generate(prompts[:1], ending).tokens == [tokens[0][: before + 1]]
        longer = generate(prompts[:1], GenerationConfig(8, frozenset({end}))).tokens[0]
        assert len(longer) == 8 and end not in longer


@pytest.mark.parametrize("precision", [{}, {"INFERENCE_PRECISION_HINT": "f32"}])
@pytest.mark.parametrize("cache", [None, "u4", "u8", "f16", "f32"])
def test_the_cache_of_openvino_genais_graph_has_the_precision_recorded(precision, cache):
    """On any CPU: with bf16, it computes in it by default, and keeps no f32 cache."""
    import openvino as ov
    import traffic
    from openvino._offline_transformations import paged_attention_transformation
    from runtimes import compile_paged

    config = {**precision, **({"KV_CACHE_PRECISION": cache} if cache else {})}
    core = ov.Core()
    paged = core.read_model(small_model() / "openvino_model.xml")
    paged_attention_transformation(paged)  # as LLMPipeline does before it compiles
    computes_bf16 = not precision and "BF16" in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    )
    if computes_bf16 and cache == "f32":
        with pytest.raises(RuntimeError, match="expect kvcache type bf16"):
            core.compile_model(paged, "CPU", config)
        with pytest.raises(UserError, match="keeps no f32 cache at this precision"):
            compile_paged(small_model(), "CPU", config)
        return
    kept = {
        port.element_type.get_type_name()
        for port in core.compile_model(paged, "CPU", config).inputs
        if port.any_name.startswith(("key_cache.", "value_cache."))
    }
    model, compiled = compile_paged(small_model(), "CPU", config)
    assert kept == {traffic.kv_cache_precision(compiled)}
    if cache in ("u4", "u8"):
        assert kept == {cache}
    elif computes_bf16:
        assert kept == {"bf16"}
    # 3 key and 3 value heads of 64 elements, and scales and zero points
    elements, bits = 2 * 3 * 64, {"u4": 4, "u8": 8, "f16": 16, "bf16": 16, "f32": 32}
    bytes_per_token = traffic.kv_bytes_per_token(model, compiled)
    assert 1 <= bytes_per_token / (elements * bits[kept.pop()] / 8) < 1.6


def test_a_run_records_the_cache_that_it_had(llm):
    bf16 = "bf16" in Path("/proc/cpuinfo").read_text()
    done = llm.infer(*short(), "--runtime", "genai", "--kv_cache_precision", "f32")
    if bf16:  # refused, in a line that says what to do instead
        assert_one_line(done, "no f32 cache at this precision", "--precision f32")
    else:
        assert done.returncode == 0 and llm.last_record()["comparable_by"]["KV cache"] == "f32"
    run, printed = llm.measure(*short(), "--runtime", "genai")
    assert run["comparable_by"]["KV cache"] == run["parameters"]["kv_cache_precision"]
    assert run["comparable_by"]["KV cache"] == ("bf16" if bf16 else "f16")
    assert f"KV cache {run['comparable_by']['KV cache']}" in printed
    run, _ = llm.measure(*short(), "--kv_cache_precision", "f32")
    warnings = [warning for warning in run["warnings"] if "KV_CACHE_PRECISION f32" in warning]
    assert len(warnings) == bf16 and run["comparable_by"]["KV cache"] == ("bf16" if bf16 else "f32")


def test_a_chat_template_goes_around_the_prompt(llm):
    run, printed = llm.measure(*short(), "--chat", "--prompt", "Say hi.")
    assert "mbu" not in run["metrics"]
    assert (
        "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant" in printed
        and run["input"]["prompt_tokens"] > 15
    )
    assert llm.infer(*short(), "--chat", "--prompt_tokens", 5).returncode == 2


def capacity(llm, *args, **how) -> tuple[dict, str]:
    few = (f"--model_name={small_model()}", "--max_new_tokens", 20, "--min_observations", 4)
    few += ("--duration", 2, "--think_time", 0.2)
    done = llm.run("capacity.py", "--results_dir", llm.results, *few, *args, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return llm.last_record(), done.stdout


@pytest.mark.alone
def test_many_users_are_answered_together(llm, tmp_path):
    plot = tmp_path / "users.png"
    limits = ("--prompt_tokens", 40, "--max_ttft", 60, "--max_tpot", 60)
    run, printed = capacity(llm, *limits, "--concurrency", "1,4", "--plot", plot)
    levels = run["output"]["levels"]
    assert run["workload"] == "llm-capacity" and run["primary"] == "users"
    assert run["metrics"]["users"]["median"] == 4 and list(levels) == ["1", "4"]
    four = levels["4"]
    assert four["late"] == 0 and len(four["of_each"]["tokens_per_second"]) == 4
    ttft = run["metrics"]["time_to_first_token_s"]
    assert ttft["n"] == four["observations"] == four["metrics"]["time_to_first_token_s"]["n"]
    assert four["observations"] > levels["1"]["observations"] >= 2
    # Answers asked before counting, or read after it, make the difference.
    rate = 20 * four["observations"] / four["duration_s"]
    assert four["rates"]["tokens_per_second"] == pytest.approx(rate, rel=0.5)
    assert run["task"]["max TTFT s"] == 60 and run["task"]["numbers of users"] == "1,4"
    assert run["task"]["think time s"] == 0.2 and run["parameters"]["settle_s"] == 1
    assert "Capacity: 4 user(s)" in printed and plot.read_bytes().startswith(b"\x89PNG")


def test_a_limit_that_no_one_user_is_within_gives_no_users(llm, tmp_path):
    plot = ("--plot", tmp_path / "users.png")
    run, _ = capacity(llm, "--concurrency", "1,2", "--max_ttft", 0.0001, *plot)
    assert run["output"]["users"] == 0 and run["output"]["first_over"] == 1
    assert run["input"]["name"] == "prompt" and list(run["output"]["levels"]) == ["1", "2"]


def test_users_are_searched_for_by_doubling(llm, tmp_path):
    limits = ("--max_ttft", 60, "--max_tpot", 60, "--max_users", 3)
    run, printed = capacity(llm, *limits, "--plot", tmp_path / "users.png")
    assert list(run["output"]["levels"]) == ["1", "2", "3"] and run["output"]["users"] == 3
    assert "as many as were tried" in printed and "numbers of users" not in run["task"]


def play(numbers, seed=0, **settings):
    """The streams of users who ask the small model for 2 s."""
    from capacity import Settings, play
    from model import generation_config, load_text_model, random_prompts
    from runtimes import ContinuousBatching

    text = load_text_model(small_model())
    chosen = SimpleNamespace(stop_at_eos=False, temperature=0.0, top_p=1.0, seed=seed)
    config = generation_config(chosen, text, settings.pop("tokens", 8))
    limits = {"think_time_s": 0.2, "max_ttft_s": 30.0, "max_tpot_s": 30.0, "settle_s": 0.5}
    given = Settings(random_prompts(text, 8, seed), config, **{**limits, **settings})
    runtime = ContinuousBatching(small_model(), "CPU", {})
    streams = play(runtime, given, numbers, time.perf_counter(), 2.0)
    assert not runtime.is_busy()  # the next level begins with an empty queue
    return streams


def test_users_ask_at_random_moments_that_the_seed_decides():
    from capacity import User

    def first_s(seed, numbers, think_time_s=10.0):
        config, prompts = SimpleNamespace(seed=seed), SimpleNamespace(random=None)
        settings = SimpleNamespace(
            config=config, prompts=prompts, think_time_s=think_time_s, settle_s=4.0
        )
        return [User(number, settings).first_s() for number in numbers]

    assert first_s(1, range(4))[2:] == first_s(1, [2, 3]) != first_s(2, [2, 3])
    assert sum(first_s(1, range(1000))) / 1000 == pytest.approx(10, abs=1)
    assert len(set(first_s(1, range(9), 0.0))) == 9 and max(first_s(1, range(9), 0.0)) < 4
    asked = [due_s for stream in play(range(4)) for due_s in stream.due_s]
    assert len(set(asked)) == len(asked) >= 8 and 0 <= min(asked) <= max(asked) < 2


def test_an_answer_that_is_not_finished_in_time_is_late_and_ended():
    soon = {"max_ttft_s": 0.2, "max_tpot_s": 1e-5}
    streams = play(range(2), think_time_s=0.0, settle_s=0.0, tokens=4000, **soon)
    assert [stream.late for stream in streams] == [[True], [True]]
    assert not any(stream.samples["time_to_first_token_s"] for stream in streams)
    assert all(stream.rates["tokens_per_second"] > 0 for stream in streams)


def test_wrong_numbers_of_users_are_wrong_usage(llm):
    for wrong in (
        ["--concurrency", "1,x"],
        ["--concurrency", "0"],
        ["--min_users", 3, "--max_users", 2],
    ):
        assert llm.run("capacity.py", *wrong, fresh=True).returncode == 2
    for gone in ("--batch_size", "--num_iters", "--warmup"):
        assert llm.run("capacity.py", gone, 2).returncode == 2
    moved = llm.infer(*short(MODEL), "--concurrency", "1,4")
    command = f'python3 capacity.py --model_name="{MODEL}" --concurrency 1,4'
    assert moved.returncode == 2 and moved.stderr.splitlines()[-1].endswith(command)


def test_a_sweep_measures_every_combination(llm, tmp_path):
    files = (
        "--table",
        tmp_path / "sweep.csv",
        "--plot",
        tmp_path / "sweep.png",
        "--results_dir",
        llm.results,
    )
    lengths = ("--prompt_tokens", 16, 64, "--max_new_tokens", 4, "--batch_size", 1, 2)
    done = llm.run("sweep.py", *short(), *lengths, *files, fresh=True)
    assert done.returncode == 0, done.stderr
    runs = [record.read(path) for path in llm.results.glob("*.json")]
    measured = {
        (run["input"]["prompt_tokens"], run["parameters"]["batch_size"]): run for run in runs
    }
    assert len(runs) == 4 and set(measured) == {(16, 1), (16, 2), (64, 1), (64, 2)}
    assert measured[64, 2]["output"]["generated_tokens"] == [8, 8]
    rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert len(rows) == 5 and rows[0].startswith("prompt_tokens,max_new_tokens,batch_size,tokens/s")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    too_long = ("--prompt_tokens", 9000, "--results_dir", llm.results)
    assert_one_line(llm.run("sweep.py", *short(), *too_long), "exceed")


def test_an_answer_may_end_early_on_request(llm):
    question = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    once = ("--num_iters", 1, "--max_new_tokens", 80, "--stop_at_eos")
    run, _ = llm.measure(*short(MODEL), "--prompt", question, *once)
    assert run["output"]["generated_tokens"][0] < 80


def test_what_follows_an_answers_end_is_not_counted():
    from runtimes import truncate_at_eos

    assert truncate_at_eos([5, 6, 2, 0, 0], {2}) == [5, 6, 2]
    assert truncate_at_eos([5, 6, 7, 8, 9], {2}) == [5, 6, 7, 8, 9]


def test_threads_requested_are_threads_used(llm, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run, _ = llm.measure(*short())
    placed = run["placement"]
    assert (
        placed["threads_requested"],
        placed["threads_effective"],
        placed["threads_requested_by"],
    ) == (1, 1, "OMP_NUM_THREADS")
    assert run["usage"]["process_cores_busy"] < 1.3


def test_core_pinning_as_the_guide_shows_it(llm):
    if not shutil.which("numactl"):
        pytest.skip("numactl is not installed")
    cpu = min(os.sched_getaffinity(0))
    pinned = ("numactl", "--localalloc", f"--physcpubind={cpu}")
    run, _ = llm.measure(*short(), "--threads", 1, prefix=pinned, env={"OMP_NUM_THREADS": "2"})
    placed = run["placement"]
    assert placed["cpus"] == [cpu] and (
        placed["threads_effective"],
        placed["threads_requested_by"],
    ) == (1, "--threads")


def test_ctrl_c_keeps_the_answers_so_far(llm):
    run, status, errors = llm.interrupt(*short(), "--num_iters", 1000)
    assert status == 130 and "Traceback" not in errors
    assert run["status"] == "interrupted" and 1 <= len(run["samples"]["generation_time_s"]) < 1000


def test_mistakes_are_reported_in_one_line(llm, model_copy, tmp_path, monkeypatch):
    nowhere = llm.infer("--model_name=nowhere")
    assert_one_line(nowhere, "no model folder nowhere", "export.py", f'--model_name="{MODEL}"')
    if not (FOLDER / "llama-2-7b-chat-ov").exists():
        first = llm.infer(fresh=True)  # a new user's, after ./run.sh
        assert_one_line(first, "no model folder llama-2-7b-chat-ov", f'--model_name="{MODEL}"')
    assert_one_line(
        llm.infer("--model_name", model_copy, "--device", "XPU"), "no device 'XPU'", "CPU"
    )
    assert_one_line(llm.infer(f"--model_name={MODEL}", "--prompt", " "), "prompt is empty")
    assert_one_line(
        llm.infer(f"--model_name={MODEL}", "--prompt_file", tmp_path / "no.txt"), "no.txt"
    )
    assert_one_line(llm.infer(*short(), "--max_new_tokens", 9000), "exceed", "8192")
    assert_one_line(
        llm.infer(f"--model_name={MODEL}", "--results_dir", "/proc/nowhere"),
        "cannot write the record",
    )
    with monkeypatch.context() as set_by_a_user:
        set_by_a_user.setenv("OMP_NUM_THREADS", "all")
        assert_one_line(llm.infer(f"--model_name={MODEL}"), "OMP_NUM_THREADS")
    for option in (
        ("--num_iters", "0"),
        ("--threads", "-1"),
        ("--batch_size", "0"),
        ("--ov_config", "x"),
        ("--precision", "f8"),
    ):
        assert llm.infer(*option).returncode == 2
    (model_copy / "openvino_model.xml").write_text("<net>")
    assert_one_line(llm.infer("--model_name", model_copy), "openvino_model.xml is damaged (5 bytes")
    (model_copy / "export.json").unlink()  # another tool's model
    assert_one_line(llm.infer("--model_name", model_copy), "cannot load", "export it again")
    (model_copy / "openvino_model.bin").unlink()
    assert_one_line(llm.infer("--model_name", model_copy), "openvino_model.bin", "export.py")


def test_an_export_serves_other_runtimes_too_and_is_not_repeated(llm):
    assert {p.name for p in (DEMO).iterdir()} >= {
        "openvino_tokenizer.xml",
        "openvino_detokenizer.xml",
        "tokenizer.json",
        "config.json",
    }
    source = ("--model_id", "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    done = llm.run("export.py", *source, "--output", MODEL, fresh=True)
    assert done.returncode == 0 and "exported already" in done.stdout
    assert done.stdout.endswith(f"Next: python3 infer.py --model_name={MODEL}\n")


def test_the_tokenizer_out_of_a_gguf_file_is_exact():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    for text in ("Hello, world!", "Naïve café\n\n  80 words; isn't it?", "日本語 🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 80 words")["input_ids"]) == [
        "in",
        "Ġ",
        "8",
        "0",
        "Ġwords",
    ]
    assert tokenizer.eos_token == "<|im_end|>" and "assistant" in tokenizer.chat_template


def test_a_file_that_is_no_gguf_is_reported_in_one_line(llm, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a model at all" * 100)
    assert_one_line(
        llm.run("export.py", "--model_id", path, "--output", tmp_path / "out"), "as GGUF"
    )
    assert_one_line(llm.run("export.py", "--model_id", tmp_path / "no.gguf"), "no GGUF file")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for a gated model without access, and for one that is not there."""

    def do_GET(self):
        gated = "meta-llama" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        body = json.dumps({"error": "no"}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def test_a_gated_model_says_how_to_get_access(llm, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    try:
        done = llm.run("export.py", "--output", tmp_path / "out", env=env)
        assert_one_line(
            done, "meta-llama/Llama-2-7b-chat-hf is gated", "ask for access", "hf auth login"
        )
        assert_one_line(
            llm.run(
                "export.py", "--model_id", "nobody/nothing", "--output", tmp_path / "out", env=env
            ),
            "neither a local folder",
        )
    finally:
        server.shutdown()
        server.server_close()
