"""API=openai against a real LLM server: `transformers serve` with SmolLM2."""

import os
import re
import socket
import subprocess
import time
import urllib.request

import pytest
from conftest import REPO

PYTHON = REPO / "tests/gpu/.venv/bin/python"
LLM = REPO / "llm-workload"
SAVE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
gguf_folder, ir_folder, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    gguf_folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", dtype="bfloat16"
)
model.save_pretrained(output)
AutoTokenizer.from_pretrained(ir_folder).save_pretrained(output)
"""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """(url, model name, log file) of a running server."""
    if not PYTHON.exists() or not (LLM / "smollm2-135m-instruct-ov").is_dir():
        pytest.skip("no environment or model for transformers serve: ./test.sh makes both")
    folder = tmp_path_factory.mktemp("smollm2")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    subprocess.run(
        [PYTHON, "-c", SAVE, LLM / "models", LLM / "smollm2-135m-instruct-ov", folder],
        check=True,
        capture_output=True,
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (folder / "log").open("w")
    serve = [
        PYTHON,
        "-m",
        "transformers.cli.transformers",
        "serve",
        folder,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(serve, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (
                    folder / "log"
                ).read_text()[-2000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1/chat/completions", str(folder), folder / "log"
    finally:
        process.kill()
        process.wait()


def test_a_real_llm_server_is_measured(scripts, smollm2, tmp_path):
    url, model, log = smollm2
    (tmp_path / "data.json").write_text(
        '{"inputs": "Say something about tea.", "parameters": {"max_new_tokens": 8}}'
    )
    done = scripts.run(
        "run_ab.sh",
        "-n",
        8,
        API="openai",
        URL=url,
        MODEL=model,
        DATA=tmp_path / "data.json",
        CONCURRENCY="1 2",
        WARMUP=1,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    levels = scripts.levels()
    assert {c: level["output"]["succeeded"] for c, level in levels.items()} == {1: 8, 2: 8}
    for concurrency, level in levels.items():
        rate = level["metrics"]["requests_per_second"]["median"]
        assert rate == pytest.approx(8 / level["metrics"]["duration_s"]["median"], rel=0.01)
        # Little's law: concurrency = rate x latency; the last of 8 may run alone.
        assert (
            0.6 * concurrency
            <= rate * level["metrics"]["request_latency_s"]["mean"]
            <= 1.2 * concurrency
        )
        assert (
            level["output"]["text"]
            and level["server"]["api"] == "openai"
            and level["model"]["name"] == model
        )
        if level["output"]["generated_tokens"] is not None:
            assert level["output"]["generated_tokens"] == 64
            assert level["metrics"]["tokens_per_second"]["median"] == pytest.approx(
                8 * rate, rel=0.01
            )
    # One request to look at the server; at each level a round of warm-up and eight; where ab sends
    # its first one alone, one more in each run at concurrency 2.
    alone = levels[2]["output"]["ab_starts_alone"]
    assert (
        len(re.findall(r'"POST /v1/chat/completions HTTP/1.\d" 200', log.read_text()))
        == 1 + (1 + 8) + (2 + 8) + 2 * alone
    )
