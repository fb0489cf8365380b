"""run_ab.sh with a real ab against the stand-in server: what it reports is what was served."""

import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time

import pytest
from conftest import REPO, assert_one_line

from harness import stats
from harness.metrics import METRICS


def metric(level: dict, name: str, statistic: str = "mean") -> float:
    return level["metrics"][name][statistic]


def served_ok(server, skip: int) -> list[dict]:
    """What was served with 200, without the first `skip`.

    These are the request that looks at the server, and the one ab sends alone.
    """
    return [each for each in server.served() if each["status"] == 200][skip:]


def alone(level: dict) -> int:
    return int(level["output"]["ab_starts_alone"] and level["parameters"]["concurrency"] > 1)


@pytest.mark.alone
@pytest.mark.parametrize(
    "version, log_format",
    [("1.1.0", "text"), ("1.1.0", "colour"), ("3.3.4", "colour"), ("3.3.4", "json")],
)
def test_figures_equal_what_was_served(scripts, stand_in, version, log_format):
    server = stand_in(version=version, log_format=log_format)
    done = scripts.ab(server, "-n", 21, "-c", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    level = scripts.levels()[3]
    served = served_ok(server, skip=1 + alone(level))
    assert (
        len(served)
        == level["output"]["succeeded"]
        == level["output"]["finished_in_server_log"]
        == 21
    )
    assert level["output"]["failures"] == {}
    assert level["output"]["generated_tokens"] == sum(each["tokens"] for each in served) == 2100
    for name, ours in (
        ("total_time_s", "server_total_time_s"),
        ("validation_time_s",) * 2,
        ("queue_time_s",) * 2,
        ("inference_time_s", "server_inference_time_s"),
        ("time_per_token_s", "server_time_per_token_s"),
    ):
        expected = stats.summarize(METRICS[ours], [[each[name] for each in served]])
        for statistic in ("mean", "median", "p95", "max"):
            assert metric(level, ours, statistic) == pytest.approx(
                expected[statistic], rel=0.01, abs=1e-9
            )
    # What the client waited is what the server took and the way there and back: on loopback under
    # 1 % of 0.2 s.
    assert metric(level, "request_latency_s", "median") == pytest.approx(
        statistics.median(t["total_time_s"] for t in served), rel=0.03
    )
    assert metric(level, "tokens_per_second") == pytest.approx(
        100 * metric(level, "requests_per_second")
    )
    assert level["server"]["version"] == version and level["model"]["weight_format"] == "bfloat16"
    for name in level["metrics"]:
        assert not METRICS[name].printed or f"{METRICS[name].label}: " in done.stdout


@pytest.mark.alone
def test_throughput_is_that_of_the_concurrency_requested_though_ab_sends_one_alone(
    scripts, stand_in
):
    server = stand_in(slots=4)
    assert scripts.ab(server, "-n", 40, "-c", 4).returncode == 0
    level = scripts.levels()[4]
    seconds = statistics.mean(
        each["total_time_s"] for each in served_ok(server, skip=1 + alone(level))
    )
    # Ten rounds of four: the eleventh, of the request sent alone, would take 9 % off.
    assert metric(level, "requests_per_second") == pytest.approx(4 / seconds, rel=0.05)


@pytest.mark.alone
def test_times_come_from_the_headers_where_no_log_can_be_read(scripts, stand_in):
    server = stand_in()
    done = scripts.ab(server, "-n", 20, "-c", 2, LOG_FILE="", CONTAINER="none-of-this-name")
    assert done.returncode == 0 and "Log: none" in done.stdout
    level = scripts.levels()[2]
    served = served_ok(server, skip=1 + alone(level))
    assert metric(level, "server_inference_time_s") == pytest.approx(
        statistics.mean(t["inference_time_s"] for t in served), abs=0.001
    )
    assert metric(level, "server_time_per_token_s") == pytest.approx(0.002, rel=0.02)
    assert (
        level["output"]["generated_tokens"] == 2000
        and level["output"]["finished_in_server_log"] is None
    )


def test_refused_requests_are_named_and_not_counted(scripts, stand_in):
    server = stand_in(max_concurrent=2)
    done = scripts.ab(server, "-n", 40, "-c", 6)
    assert done.returncode == 0, done.stderr
    level = scripts.levels()[6]
    refused = sum(each["status"] == 429 for each in server.served())
    assert refused > 0 and level["output"]["failures"] == {"HTTP 429": refused}
    assert level["output"]["succeeded"] == 40 - refused == metric(level, "successful_requests")
    assert metric(level, "requests_per_second") == pytest.approx(
        (40 - refused) / metric(level, "duration_s")
    )
    assert "request_latency_s" not in level["metrics"]  # a refusal in a millisecond is no latency
    assert any("429" in warning for warning in level["warnings"])


@pytest.mark.parametrize(
    "option, kind",
    [
        ("fail_every", "HTTP 424"),
        ("drop_every", "no answer"),
        ("reset_every", "connection reset"),
        ("cut_every", "cut off"),
    ],
)
def test_each_kind_of_failure_has_its_name(scripts, stand_in, option, kind):
    server = stand_in(time_per_token=0.0005, **{option: 5})
    assert scripts.ab(server, "-n", 20, "-c", 1).returncode == 0
    output = scripts.levels()[1]["output"]
    assert output["failures"] == {kind: 4} and output["succeeded"] == 16


def test_a_sweep_ends_in_table_csv_plot_and_records(scripts, stand_in):
    server = stand_in(slots=2, time_per_token=0.0005)
    done = scripts.ab(server, CONCURRENCY="4 1 2", REQUESTS_PER_CLIENT=12)
    assert done.returncode == 0, done.stdout + done.stderr
    levels = scripts.levels()
    assert {c: level["output"]["requests"] for c, level in levels.items()} == {1: 20, 2: 24, 4: 48}
    rows = list(csv.DictReader((scripts.folder() / "sweep.csv").open()))
    assert [row["concurrency"] for row in rows] == ["1", "2", "4"]
    for row in rows:
        assert float(row["requests_per_second"]) == metric(
            levels[int(row["concurrency"])], "requests_per_second"
        )
    assert (scripts.folder() / "sweep.png").read_bytes().startswith(b"\x89PNG")
    sweep = scripts.sweep()
    assert sweep["status"] == "complete" and [
        row["concurrency"] for row in sweep["output"]["levels"]
    ] == [1, 2, 4]
    assert metric(sweep, "requests_per_second") == max(
        metric(level, "requests_per_second") for level in levels.values()
    )
    for concurrency in levels:
        folder = scripts.folder() / f"concurrency-{concurrency:04d}/run-00"
        assert (
            "Requests per second" in (folder / "000-000/ab.txt").read_text()
            and (folder / "server.log").stat().st_size
        )
    assert re.search(r"^ +1 +20 +0 ", done.stdout, re.MULTILINE)


def test_six_repeats_give_an_interval(scripts, stand_in):
    assert scripts.ab(stand_in(time_per_token=0.0002), "-n", 10, "-c", 2, REPEATS=6).returncode == 0
    level = scripts.levels()[2]
    assert (
        level["metrics"]["requests_per_second"]["n"] == 6
        and level["metrics"]["requests_per_second"]["ci95"]
    )
    assert level["output"]["succeeded"] == 60 and level["output"]["generated_tokens"] == 6000
    assert level["metrics"]["tokens_per_second"]["ci95"]
    assert [len(run) >= 10 for run in level["samples"]["request_latency_s"]] == [True] * 6


def test_a_sweep_survives_a_server_killed_in_mid_level_that_comes_back(scripts, stand_in):
    levels = [1, 2, 3, 4, 5, 6]
    first = stand_in(time_per_token=0.0005, die_at=1 + 20 + 21 + 31 + 20)  # in the fourth level

    def bring_back():
        first.process.wait()
        time.sleep(1)
        stand_in(port=first.port, time_per_token=0.0005)

    nurse = threading.Thread(target=bring_back)
    nurse.start()
    done = scripts.ab(first, CONCURRENCY=" ".join(map(str, levels)))
    nurse.join()
    assert done.returncode == 1, done.stdout + done.stderr
    found = scripts.levels()
    assert sorted(found) == levels
    assert [c for c, level in found.items() if level["status"] == "failed"] == [4]
    assert (
        "the server went away" in found[4]["error"]
        and "requests_per_second" not in found[4]["metrics"]
    )
    assert scripts.sweep()["status"] == "failed" and "4: the server went away" in done.stderr
    assert all(found[c]["output"]["succeeded"] == max(20, 10 * c) for c in levels if c != 4)


def test_levels_after_the_end_of_a_server_are_not_run_and_the_finished_ones_kept(scripts, stand_in):
    done = scripts.ab(stand_in(time_per_token=0.0005, die_at=30), CONCURRENCY="1 2 4 8")
    assert done.returncode == 1
    assert {c: level["status"] for c, level in scripts.levels().items()} == {
        1: "complete",
        2: "failed",
    }
    assert [row["status"] for row in scripts.sweep()["output"]["levels"]] == [
        "complete",
        "failed",
        "not run",
        "not run",
    ]


def test_a_server_that_falls_silent_is_given_up_on(scripts, stand_in):
    done = scripts.ab(stand_in(time_per_token=0.0005, hang_at=10), "-n", 20, "-c", 2, TIMEOUT_S=1)
    assert done.returncode == 1
    assert (
        "timed out" in scripts.levels()[2]["error"]
        and "of 20 requests had been answered" in scripts.levels()[2]["error"]
    )


def test_ctrl_c_keeps_what_was_measured(scripts, stand_in):
    server = stand_in(time_per_token=0.002)
    process = scripts.start_ab(server, CONCURRENCY="8 16 32")
    for line in process.stdout:
        if line.startswith("concurrency 8:"):
            break
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in errors and "interrupted" in errors
    levels = scripts.levels()
    assert {c: level["status"] for c, level in levels.items()} == {8: "complete", 16: "interrupted"}
    assert 0 < levels[16]["output"]["succeeded"] < 160
    assert (
        scripts.sweep()["status"] == "interrupted"
        and [row["status"] for row in scripts.sweep()["output"]["levels"]][2] == "not run"
    )


@pytest.mark.alone
def test_slo_p95_finds_the_highest_concurrency_within_the_limit(scripts, stand_in):
    # Up to a concurrency of six nobody queues and all take 0.2 s; the seventh waits another 0.2 s.
    done = scripts.ab(stand_in(slots=6), "--slo_p95", "0.3", REQUESTS_PER_CLIENT=5)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(scripts.levels()) == [1, 2, 4, 6, 7, 8]
    assert scripts.sweep()["output"]["slo"] == {"p95_s": 0.3, "concurrency": 6, "first_over": 7}
    assert "Within 0.3 s at the 95th percentile: concurrency 6 (7 is over)" in done.stdout


@pytest.mark.alone
def test_prompts_are_sent_in_turn_at_the_concurrency_requested(scripts, stand_in, tmp_path):
    prompts = [f"prompt number {i}" for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text(
        "\n".join(
            [
                *map(json.dumps, prompts[:-1]),
                json.dumps({"inputs": prompts[-1], "parameters": {"max_new_tokens": 100}}),
            ]
        )
    )
    server = stand_in(slots=4)
    done = scripts.ab(server, "-n", 40, "-c", 4, PROMPTS=tmp_path / "prompts.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    sent = [each["prompt"] for each in served_ok(server, skip=1)]
    assert {prompt: sent.count(prompt) for prompt in prompts} == dict.fromkeys(prompts, 5)
    level = scripts.levels()[4]
    assert level["input"]["bodies"] == 8 and level["output"]["succeeded"] == 40
    assert (
        0.8 * 20 < metric(level, "requests_per_second") < 20
    )  # four lanes of 0.2 s each, and starting ab forty times


@pytest.mark.alone
def test_slo_p95_searches_below_the_first_level_too(scripts, stand_in):
    limit = ("--slo_p95", "0.3", "-c", 5)
    assert scripts.ab(stand_in(slots=2), *limit, REQUESTS_PER_CLIENT=5).returncode == 0
    assert sorted(scripts.levels()) == [2, 3, 5]
    assert scripts.sweep()["output"]["slo"] == {"p95_s": 0.3, "concurrency": 2, "first_over": 3}
    assert metric(scripts.sweep(), "concurrency_within_slo") == 2


def test_records_say_what_the_work_was_and_nothing_of_openvino(scripts, stand_in):
    server = stand_in(time_per_token=0.0002)
    assert scripts.ab(server, "-n", 20, "-c", 2, KEEP_ALIVE=1).returncode == 0
    level, sweep = scripts.levels()[2], scripts.sweep()
    assert level["placement"] == {"cpus": sorted(os.sched_getaffinity(0))} == sweep["placement"]
    task = {"API": "tgi", "concurrency": 2, "max new tokens": 100, "keep alive": True}
    assert level["task"] == {"input": level["input"]["sha256"], **task}
    assert level["comparable_by"] == {
        "model": "stand-in/Llama-2-7b",
        "weight format": "bfloat16",
        "runtime": "TGI",
    }
    assert level["context"]["server version"] == server.version
    assert level["server"]["is_local"] and level["server"]["url"] == server.url
    assert level["primary"] == "requests_per_second" and sweep["primary"] is None
    assert {entry["unit"] for entry in level["work"]} == {"million tokens", "1,000 requests"}
    assert sweep["work"] == [] and sweep["usage"] is None


def test_ctrl_c_in_the_warm_up_leaves_that_level_unmeasured(scripts, stand_in):
    server = stand_in(time_per_token=0.002)
    process = scripts.start_ab(server, WARMUP=100, CONCURRENCY="1 8", REQUESTS_PER_CLIENT=1)
    deadline = time.monotonic() + 60
    while len(server.served()) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in errors and "interrupted" in errors and not scripts.levels()


def test_warmup_is_not_counted(scripts, stand_in):
    server = stand_in(time_per_token=0.0002)
    assert scripts.ab(server, "-n", 20, "-c", 1, WARMUP=5).returncode == 0
    assert len(server.served()) == 1 + 5 + 20
    assert scripts.levels()[1]["output"]["finished_in_server_log"] == 20


def test_somebody_else_at_the_server_is_noticed(scripts, stand_in):
    server = stand_in()
    stop = threading.Event()

    def other():
        while not stop.is_set():
            subprocess.run(
                ["ab", "-n", "1", "-p", REPO / "gpu-tgi/data.json", server.url], capture_output=True
            )

    guest = threading.Thread(target=other)
    guest.start()
    scripts.ab(server, "-n", 20, "-c", 2)
    stop.set()
    guest.join()
    assert any(
        "other clients used the server" in warning for warning in scripts.levels()[2]["warnings"]
    )


@pytest.mark.alone
def test_it_adds_little_to_a_level(scripts, stand_in, tmp_path):
    """Time between ab's runs, written down by an ab that notes when it began and ended."""
    (tmp_path / "bin").mkdir()
    notes = tmp_path / "notes"
    (tmp_path / "bin/ab").write_text(
        f"#!/bin/bash\ndate +%s.%N >>{notes}\n"
        f'{shutil.which("ab")} "$@"\nstatus=$?\ndate +%s.%N >>{notes}\nexit $status\n'
    )
    (tmp_path / "bin/ab").chmod(0o755)
    server = stand_in(time_per_token=0.0002)
    assert (
        scripts.ab(
            server,
            "-n",
            20,
            CONCURRENCY="1 2 3 4 5",
            PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        ).returncode
        == 0
    )
    times = [float(line) for line in notes.read_text().split()][-10:]
    between = [times[i + 1] - times[i] for i in range(1, 9, 2)]
    print("between two levels:", between)
    assert statistics.median(between) < 3  # 0.6 s on two idle cores


@pytest.mark.parametrize(
    "args, settings, words",
    [
        (["-n", "2", "-c", "4"], {}, "less than the concurrency 4"),
        (["-c", "none"], {}, "'none' is not a whole number"),
        (["-c"], {}, "-c needs a value"),
        (["--slo_p95", "soon"], {}, "--slo_p95 soon"),
        (["--slo_p95", "2", "-n", "10", "-c", "2"], {}, "needs 20 requests"),
        ([], {"API": "grpc"}, "API=grpc"),
        ([], {"URL": "http://127.0.0.1:8080"}, "whole address with a path"),
        ([], {"CONCURRENCY": "1 two"}, "'two'"),
        (["-c", "18446744073709551617"], {}, "'18446744073709551617' is not"),
        ([], {"CONTAINER": "--privileged"}, "CONTAINER=--privileged"),
    ],
)
def test_wrong_usage_ends_with_status_2(scripts, args, settings, words):
    assert_one_line(scripts.run("run_ab.sh", *args, **settings), words, status=2)
    assert not scripts.results.exists()


def test_nobody_listening_is_said_in_one_line(scripts):
    assert_one_line(
        scripts.run("run_ab.sh", URL="http://127.0.0.1:9/generate"),
        "no server answers",
        "start_tgi.sh",
    )
    assert not list(scripts.results.glob("*"))


@pytest.mark.parametrize(
    "path, settings, content, words",
    [
        ("generate", {"DATA": "body.json"}, "{not JSON", ["not JSON", "DATA"]),
        ("generate", {"DATA": "nowhere.json"}, "", ["cannot read", "DATA"]),
        ("generate", {"DATA": "body.json"}, '{"inputs": "no parameters"}', ["answers 422"]),
        ("nothing", {}, "", ["answers 404"]),
        ("generate", {"PROMPTS": "body.json"}, '"fine"\nnot in quotes', ["line 2", "PROMPTS"]),
        ("generate", {"PROMPTS": "body.json"}, "\n", ["no requests", "PROMPTS"]),
        ("generate", {"API": "openai"}, "", ["names no model", "MODEL"]),
        ("generate", {"LOG_FILE": "/nowhere/log"}, "", ["cannot read /nowhere/log"]),
    ],
)
def test_what_can_not_be_measured_is_said_in_one_line(
    scripts, stand_in, tmp_path, path, settings, content, words
):
    (tmp_path / "body.json").write_text(content)
    server = stand_in()
    settings = {
        k: str(tmp_path / v) if k in ("DATA", "PROMPTS") else v for k, v in settings.items()
    }
    done = scripts.ab(server, **{"URL": server.url.replace("generate", path), **settings})
    assert_one_line(done, *words)
    assert not list(scripts.results.glob("*.json"))


def test_a_full_disk_is_said_before_measuring(scripts, stand_in, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_one_line(scripts.ab(stand_in(), RESULTS_DIR=tmp_path / "file/results"), "RESULTS_DIR")


def test_more_open_files_than_allowed_are_said(scripts, stand_in):
    server = stand_in()
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 100; exec bash {REPO}/gpu-tgi/run_ab.sh -c 500"],
        capture_output=True,
        text=True,
        env=scripts.environment(URL=server.url),
    )
    assert_one_line(done, "564 open files", "ulimit -n")


def test_without_ab_it_says_where_to_get_it(scripts, tmp_path):
    for tool in ("bash", "dirname", "realpath", "sort", "python3"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    assert_one_line(scripts.run("run_ab.sh", PATH=tmp_path), "apache2-utils")


def test_started_and_stopped_containers_are_measured_from_their_log(docker):
    assert docker.run("start_tgi.sh").returncode == 0
    done = docker.run(
        "run_ab.sh", "-n", 20, "-c", 2, URL=f"http://127.0.0.1:{docker.port}/generate"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    level = docker.scripts.levels()[2]
    assert level["output"]["finished_in_server_log"] == 20
    assert level["server"]["container"]["image"].endswith(":1.1.0")
    assert level["server"]["container"]["arguments"][:2] == [
        "--model-id",
        "meta-llama/Llama-2-7b-chat-hf",
    ]
