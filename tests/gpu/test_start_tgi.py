"""start_tgi.sh and stop_tgi.sh with a docker that writes down how it was called."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
from conftest import REPO, assert_one_line

TOKEN = "hf_SecretOfTheTest"
SCRIPTS = REPO / "gpu-tgi"


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_the_guides_settings_are_the_defaults(docker):
    done = docker.run("start_tgi.sh")
    assert done.returncode == 0, done.stderr
    assert (
        "Ready after" in done.stdout and f"http://127.0.0.1:{docker.port}/generate" in done.stdout
    )
    (call,) = docker.calls("run")
    arguments = call["arguments"]
    assert value(arguments, "--publish") == f"127.0.0.1:{docker.port}:80"
    assert value(arguments, "--volume") == f"{docker.state / 'data'}:/data"
    assert (
        value(arguments, "--gpus") == "all"
        and value(arguments, "--shm-size") == "1g"
        and value(arguments, "--name") == "tgi"
    )
    image = arguments.index("ghcr.io/huggingface/text-generation-inference:1.1.0")
    assert arguments[image + 1 :] == [
        "--model-id",
        "meta-llama/Llama-2-7b-chat-hf",
        "--max-concurrent-requests",
        "2000",
        "--dtype",
        "bfloat16",
    ]
    assert "HF_TOKEN" not in arguments


def test_every_setting_reaches_docker(docker):
    done = docker.run(
        "start_tgi.sh",
        "--max-total-tokens",
        "4096",
        MODEL="mistralai/Mistral-7B-v0.1",
        IMAGE="tgi:3.3.4",
        GPUS="0,1",
        NUM_SHARD=2,
        QUANTIZE="awq",
        MAX_CONCURRENT_REQUESTS=64,
    )
    assert done.returncode == 0, done.stderr
    (call,) = docker.calls("run")
    arguments = call["arguments"]
    assert value(arguments, "--gpus") == '"device=0,1"'
    assert arguments[arguments.index("tgi:3.3.4") + 1 :] == [
        "--model-id",
        "mistralai/Mistral-7B-v0.1",
        "--max-concurrent-requests",
        "64",
        "--quantize",
        "awq",
        "--num-shard",
        "2",
        "--max-total-tokens",
        "4096",
    ]


def test_no_gpu_is_requested_with_gpus_none(docker):
    docker.does("runtimes", "runc")
    done = docker.run("start_tgi.sh", GPUS="none", GPU_FREE_MIB="")
    assert done.returncode == 0, done.stderr
    assert "--gpus" not in docker.calls("run")[0]["arguments"]


def test_the_token_reaches_the_container_and_is_found_nowhere_else(docker):
    done = docker.run("start_tgi.sh", TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    measured = docker.run(
        "run_ab.sh",
        "-n",
        4,
        "-c",
        2,
        URL=f"http://127.0.0.1:{docker.port}/generate",
        TOKEN=TOKEN,
        WARMUP=0,
    )
    assert measured.returncode == 0, measured.stderr
    assert docker.calls("run")[0]["secrets"] == {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN}
    for call in docker.calls():
        assert TOKEN not in str(call["arguments"])
        assert call["arguments"][0] == "run" or not call["secrets"]
    assert TOKEN not in done.stdout + done.stderr + measured.stdout + measured.stderr
    files = [path for path in docker.scripts.results.rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(TOKEN.encode() in path.read_bytes() for path in files)


def test_the_token_is_in_no_process_list_while_the_server_starts(docker):
    docker.does("silent")
    process = docker.start("start_tgi.sh", TOKEN=TOKEN)
    try:
        deadline = time.monotonic() + 30
        while not docker.calls("run"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for _ in range(20):
            assert (
                TOKEN
                not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
            )
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def test_a_token_left_by_hf_auth_login_is_used(docker):
    (docker.state / "hf").mkdir()
    (docker.state / "hf/token").write_text(TOKEN)
    assert docker.run("start_tgi.sh", HF_HOME=docker.state / "hf").returncode == 0
    assert docker.calls("run")[0]["secrets"]["HF_TOKEN"] == TOKEN


def test_started_twice_it_is_left_running(docker):
    assert docker.run("start_tgi.sh").returncode == 0
    again = docker.run("start_tgi.sh")
    assert again.returncode == 0 and "running already" in again.stdout
    assert len(docker.calls("run")) == 1
    assert_one_line(docker.run("start_tgi.sh", DTYPE="float16"), "other settings", "stop_tgi.sh")


def test_what_a_failed_start_left_is_removed(docker):
    docker.does("dies", "Error: CUDA out of memory\n")
    assert docker.run("start_tgi.sh").returncode == 1
    (docker.state / "dies").unlink()
    assert docker.run("start_tgi.sh").returncode == 0
    assert len(docker.calls("run")) == 2


def test_a_container_that_dies_shows_its_last_lines_without_the_token(docker):
    docker.does("dies", f"Downloading with {TOKEN}\nError: ShardCannotStart\n")
    done = docker.run("start_tgi.sh", TOKEN=TOKEN)
    assert_one_line(done, "ended while starting")
    assert (
        "ShardCannotStart" in done.stderr
        and "Downloading with (secret)" in done.stderr
        and TOKEN not in done.stderr
    )


def test_a_server_that_does_not_get_healthy_is_waited_for_no_longer_than_configured(docker):
    docker.does("silent")
    began = time.monotonic()
    assert_one_line(
        docker.run("start_tgi.sh", START_TIMEOUT_S=3), "not healthy after 3 s", "START_TIMEOUT_S"
    )
    assert 2 <= time.monotonic() - began < 20  # bash counts whole seconds


@pytest.mark.parametrize(
    "says, words",
    [
        (
            "permission denied while trying to connect to the Docker daemon socket",
            ["usermod -aG docker"],
        ),
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            ["not running", "systemctl start docker"],
        ),
        ("error during connect: tls", ["does not answer", "tls"]),
    ],
)
def test_a_docker_that_can_not_be_used_is_reported_with_the_remedy(docker, says, words):
    docker.does("version_error", says)
    assert_one_line(docker.run("start_tgi.sh"), *words)
    assert not docker.calls("run")


@pytest.mark.parametrize(
    "settings, does, words",
    [
        ({}, {"runtimes": "runc "}, ["no NVIDIA runtime", "nvidia-container-toolkit"]),
        ({"GPU_FREE_MIB": ""}, {}, ["nvidia-smi finds no GPU"]),
        ({"GPU_FREE_MIB": 6000}, {}, ["13.0 GiB", "11.7 GiB free", "QUANTIZE"]),
        ({"GPU_FREE_MIB": 10000, "GPUS": "1"}, {}, ["13.0 GiB", "9.8 GiB free"]),
        ({"MODEL": "meta-llama/Llama-2-70b-chat-hf"}, {}, ["130.4 GiB"]),
        ({"MODEL": "mistralai/Mixtral-8x7B-v0.1"}, {}, ["104.3 GiB"]),
        ({"GPUS": "5"}, {}, ["lists no such GPU"]),
        ({"GPUS": "0", "NUM_SHARD": 2}, {}, ["NUM_SHARD=2", "1 GPU"]),
        ({}, {"no_image": "", "pull_error": "manifest unknown"}, ["cannot pull"]),
        ({}, {"run_error": "no space left on device"}, ["could not start the container"]),
        ({"VOLUME": "/proc/nowhere"}, {}, ["cannot write to /proc/nowhere"]),
    ],
)
def test_what_can_not_work_is_said_in_one_line_before_anything_is_started(
    docker, settings, does, words
):
    for what, text in does.items():
        docker.does(what, text)
    assert_one_line(docker.run("start_tgi.sh", **settings), *words)
    assert "run_error" in does or not docker.calls("run")


@pytest.mark.parametrize(
    "setting, values",
    [
        ("IMAGE", ["--privileged", "a b", "tgi;reboot", "a\nb"]),
        ("PORT", ["http", "0", "65536", "99999", "80:80", "08", "99999999999999999999"]),
        ("BIND", ["0.0.0.0:1:2", "localhost", "::", "1.2.3", "256.0.0.1", "0.0.0.0 -v /:/x"]),
        ("VOLUME", ["a:b", "a:/data:ro", "a\nb"]),
        ("MODEL", ["--trust-remote-code", "a\nb", "a;b"]),
        ("DTYPE", ["int3", "float16 --x"]),
        ("QUANTIZE", ["--privileged", "awq --x"]),
        ("GPUS", ["two", "0,", "all,device=1", "0;1"]),
        ("NUM_SHARD", ["two", "-1"]),
        ("CONTAINER", ["--all", "a/b", "a b"]),
        ("MAX_CONCURRENT_REQUESTS", ["many", "0", "99999999999999999999"]),
        ("START_TIMEOUT_S", ["-5", "1e3"]),
    ],
)
def test_a_setting_that_is_none_is_refused_before_docker_sees_it(docker, setting, values):
    for value in values:
        done = docker.run("start_tgi.sh", **{setting: value})
        assert_one_line(done, f"{setting}=", status=2)
    assert not docker.calls()


def test_stopping_takes_no_option_for_a_container(docker):
    assert_one_line(docker.run("stop_tgi.sh", CONTAINER="--all"), "CONTAINER=--all", status=2)
    assert not docker.calls()


def test_keys_and_escape_codes_in_the_containers_log_are_not_shown(docker):
    docker.does(
        "dies", 'Args { api_key: Some("S3cr") }\n\x1b[31mError\x1b[0m: \x1b]0;owned\x07 n\n'
    )
    for words in (["--api-key", "S3cr"], ["--api-key=S3cr"]):
        done = docker.run("start_tgi.sh", *words)
        assert_one_line(done, "ended while starting")
        assert "api_key" in done.stderr and "S3cr" not in done.stdout + done.stderr
        assert "Error: " in done.stderr and "\x1b" not in done.stderr


def test_without_a_home_it_starts_all_the_same(docker):
    command = ["env", "-u", "HOME", "-u", "HF_HOME", "bash", SCRIPTS / "start_tgi.sh"]
    done = subprocess.run(command, capture_output=True, text=True, env=docker.environment())
    assert done.returncode == 0, done.stderr


def test_weights_that_fit_quantized_are_let_through(docker):
    assert docker.run("start_tgi.sh", GPU_FREE_MIB=6000, QUANTIZE="awq").returncode == 0


def test_a_disk_too_small_is_said(docker, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/df").write_text(
        "#!/bin/sh\necho Filesystem 1024-blocks Used Available\necho /dev/x 9 9 1048576\n"
    )
    (tmp_path / "bin/df").chmod(0o755)
    path = docker.environment()["PATH"]
    assert_one_line(
        docker.run("start_tgi.sh", PATH=f"{tmp_path / 'bin'}:{path}"),
        "13.0 GiB",
        "1.0 GiB free",
        "VOLUME",
    )
    (docker.state / "data/models--meta-llama--Llama-2-7b-chat-hf").mkdir(parents=True)
    assert (
        docker.run("start_tgi.sh", PATH=f"{tmp_path / 'bin'}:{path}").returncode == 0
    )  # downloaded already


def test_a_taken_port_is_said(docker):
    with socket.create_server(("127.0.0.1", docker.port)):
        assert_one_line(docker.run("start_tgi.sh"), f"port {docker.port}", "taken")


def test_without_docker_it_says_where_to_get_it(docker, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "realpath", "curl", "id", "cat"):
        (tools / tool).symlink_to(shutil.which(tool))
    assert_one_line(docker.run("start_tgi.sh", PATH=tools), "Docker is not installed")


def test_ctrl_c_while_waiting_leaves_the_container_and_says_so(docker):
    docker.does("silent")
    process = docker.start("start_tgi.sh")
    for line in process.stdout:
        if re.match(r" +\d+ s", line):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "stop_tgi.sh" in errors and not docker.calls("rm")


def test_stopping_removes_the_container_and_may_be_repeated(docker):
    docker.run("start_tgi.sh")
    assert "stopped" in docker.run("stop_tgi.sh").stdout
    again = docker.run("stop_tgi.sh")
    assert again.returncode == 0 and "no container tgi" in again.stdout
