"""run_ab.sh against servers that break off, drip, lie or disappear, and ended at any moment."""

import csv
import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import assert_one_line


def failures(scripts, concurrency: int) -> dict:
    return scripts.levels()[concurrency]["output"]["failures"]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_each_body_that_is_cut_off_is_a_failure(scripts, stand_in, split, concurrency):
    options = {"split": True} if split else {}
    server = stand_in(time_per_token=0.0005, cut_every=5, **options)
    assert scripts.ab(server, "-n", 20, "-c", concurrency).returncode == 0
    output = scripts.levels()[concurrency]["output"]
    alone = int(output["ab_starts_alone"] and concurrency > 1)
    assert output["failures"] == {"cut off": 21 // 5 if not alone else 22 // 5}
    assert output["succeeded"] == 16 and output["generated_tokens"] == 1600


@pytest.mark.parametrize(
    "trouble, kind",
    [
        ("cut", "20 × cut off"),
        ("page", "20 × text/html instead of application/json"),
        ("text", "20 × text/plain instead of application/json"),
        ("no_text", "20 × no generated text"),
        ("no_headers", "20 × no x-generated-tokens"),
        ("redirect", "20 × HTTP 302"),
    ],
)
def test_an_answer_that_is_none_is_no_success_whatever_its_status(scripts, stand_in, trouble, kind):
    done = scripts.ab(stand_in(time_per_token=0.0005, trouble=trouble), "-n", 20, "-c", 2)
    assert_one_line(done, f"no request succeeded: {kind}")
    level = scripts.levels()[2]
    assert level["status"] == "failed" and "requests_per_second" not in level["metrics"]
    assert level["output"]["generated_tokens"] is None


@pytest.mark.parametrize("trouble", ["drip", "endless"])
def test_a_body_without_end_is_given_up_on(scripts, stand_in, trouble):
    server = stand_in(time_per_token=0.0005, trouble=trouble, trouble_from=10)
    began = time.monotonic()
    done = scripts.ab(server, "-n", 20, "-c", 2, TIMEOUT_S=1)
    assert time.monotonic() - began < 30
    assert_one_line(done, "the server timed out (TIMEOUT_S)", "of 20 requests had been answered")
    assert scripts.levels()[2]["status"] == "failed"


@pytest.mark.parametrize(
    "trouble, words",
    [
        ("cut", ["cut off", "bytes are missing"]),
        ("drip", ["no whole answer came within 1 s"]),
        ("endless", ["no whole answer came within 1 s"]),
        ("page", ["without generated text"]),
        ("redirect", ["redirects (302) to http://127.0.0.1:9/x", "set URL"]),
    ],
)
def test_a_first_answer_that_is_none_is_said_in_one_line(scripts, stand_in, trouble, words):
    began = time.monotonic()
    done = scripts.ab(stand_in(trouble=trouble, trouble_from=1), "-n", 20, "-c", 2, TIMEOUT_S=1)
    assert_one_line(done, *words)
    assert time.monotonic() - began < 30 and not list(scripts.results.glob("*"))


@pytest.mark.parametrize("log", [True, False])
def test_tokens_from_a_cache_are_not_counted(scripts, stand_in, log):
    server = stand_in(trouble="cache")
    settings = {} if log else {"LOG_FILE": "", "CONTAINER": "none-of-this-name"}
    assert scripts.ab(server, "-n", 20, "-c", 1, **settings).returncode == 0
    level = scripts.levels()[1]
    assert level["output"]["generated_tokens"] is None
    assert "tokens_per_second" not in level["metrics"] and not level["validity"]["valid"]
    assert any("came from a cache" in warning for warning in level["warnings"])


def test_what_a_server_says_is_plain_and_short(scripts, stand_in):
    info = {"model_id": "a\x1b]0;b\x07" + 1000 * "c", "deep": {"x": 1}, "version": ["3"]}
    info |= {"model_dtype": "hf_" + 20 * "A1", "api_key": "S3cr", "big": 10**400, "n": float("nan")}
    done = scripts.ab(stand_in(time_per_token=0.0002, info=json.dumps(info)), "-n", 20, "-c", 1)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "hf_A1" not in done.stdout
    level = scripts.levels()[1]
    assert len(level["model"]["name"]) <= 200 and "\x1b" not in json.dumps(level)
    shown = level["server"]["info"]
    assert shown["deep"] == "{'x': 1}" and shown["api_key"] == "***" and shown["n"] == "nan"
    assert len(shown["big"]) <= 200


@pytest.mark.parametrize(
    "url",
    [
        "http://me:S3cr@t@127.0.0.1:{port}/generate",
        "http://me:S3cr/t@127.0.0.1:{port}/generate",
        "http://127.0.0.1:{port}/generate?token=S3cr",
        "http://127.0.0.1:{port}/generate?user=me&password=S3cr",
        "HTTP://me:S3cr@127.0.0.1:{port}/generate",
        "http://me:S3cr@127.0.0.1",
        "http://127.0.0.1?token=S3cr",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(scripts, stand_in, url):
    server = stand_in(time_per_token=0.0002)
    done = scripts.ab(server, URL=url.format(port=server.port))
    assert_one_line(done, "URL", status=2)
    assert "S3cr" not in done.stdout + done.stderr
    assert not list(scripts.results.glob("*")) and not server.served()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ab_of(server) -> list[psutil.Process]:
    """The runs of ab under way."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if server.url in (process.info["cmdline"] or [])]


ENDS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)]


@pytest.mark.parametrize("name, status", ENDS)
def test_however_a_sweep_is_ended_its_levels_are_kept_and_ab_is_ended(
    scripts, stand_in, name, status
):
    """Here, before the first answer of the second level, where ab has written nothing."""
    server = stand_in(time_per_token=0.0002, hang_at=22)
    process = scripts.start_ab(server, "-n", 20, CONCURRENCY="1 2 4")
    wait_until(lambda: scripts.levels() and ab_of(server))
    time.sleep(0.5)
    for _ in range(3 if name == "SIGINT" else 1):
        process.send_signal(getattr(signal, name))
        time.sleep(0.3)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status, output + errors
    assert "Traceback" not in errors and not ab_of(server)
    levels = scripts.levels()
    assert levels[1]["status"] == "complete" and levels[1]["output"]["succeeded"] == 20
    sweep = scripts.sweep()
    assert sweep["status"] == "interrupted" and list(levels) == [1]
    rows = [row["status"] for row in sweep["output"]["levels"]]
    assert rows == ["complete", "not run", "not run"]
    rows = list(csv.DictReader((scripts.folder() / "sweep.csv").open()))
    assert [row["concurrency"] for row in rows] == ["1", "2", "4"]


def test_an_ab_killed_in_a_later_repeat_leaves_the_runs_before(scripts, stand_in):
    server = stand_in(time_per_token=0.0002, hang_at=32)
    process = scripts.start_ab(server, "-n", 20, "-c", 1, REPEATS=3)
    wait_until(lambda: len(server.served()) >= 31)
    for each in ab_of(server):
        each.kill()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    level = scripts.levels()[1]
    assert "ab ended early (SIGKILL)" in level["error"]
    assert (
        level["samples"]["requests_per_second"][0] and len(level["samples"]["duration_s"][0]) == 1
    )


def test_a_sweep_killed_in_a_level_leaves_its_runs_to_the_next(scripts, stand_in):
    server = stand_in(time_per_token=0.0005)
    process = scripts.start_ab(server, "-n", 20, "-c", 1, REPEATS=1000)
    wait_until(lambda: len(server.served()) > 1 + 20 + 20 + 5)
    process.kill()
    process.communicate()
    wait_until(lambda: not ab_of(server))  # it ends with its reader
    assert not scripts.levels()
    done = scripts.ab(server, "-n", 20, "-c", 2)
    assert done.returncode == 0 and "recovered: " in done.stdout, done.stdout + done.stderr
    levels = scripts.levels()
    assert levels[2]["status"] == "complete" and levels[1]["status"] == "interrupted"
    assert 2 <= len(levels[1]["samples"]["requests_per_second"]) <= 4


def test_a_second_sweep_leaves_the_files_of_the_first_as_they_are(scripts, stand_in):
    server = stand_in(time_per_token=0.0002)

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in scripts.results.rglob("*") if path.is_file()}

    for _ in range(2):
        before = files() if scripts.results.exists() else {}
        assert scripts.ab(server, "-n", 20, "-c", 1).returncode == 0
        after = files()
        assert len(after) > len(before) and all(after[path] == before[path] for path in before)


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 1 MiB of space."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1M", "none", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_gets_full_keeps_the_levels_finished(scripts, stand_in, small_disk):
    server = stand_in(time_per_token=0.0001)
    done = scripts.ab(server, CONCURRENCY="1 40", REQUESTS_PER_CLIENT=60, RESULTS_DIR=small_disk)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No space left on device" in done.stderr
    (level,) = (json.loads(path.read_text()) for path in small_disk.glob("gpu-tgi_*.json"))
    assert level["status"] == "complete" and level["output"]["succeeded"] == 60


def test_a_folder_that_is_read_only_is_said_before_measuring(scripts, stand_in, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    server = stand_in()
    done = scripts.ab(server, RESULTS_DIR=small_disk)
    assert_one_line(done, "Read-only file system (RESULTS_DIR)")
    assert not server.served()
