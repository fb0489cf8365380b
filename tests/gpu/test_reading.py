"""Reading TGI's log lines and ab's report files."""

import json
import os
import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "gpu-tgi"))
import ab
import level
import server
import tgi_log

from harness.cli import UserError

TEXT = (
    "2023-10-20T08:15:30.123456Z  INFO generate{parameters=GenerateParameters { best_of: None, "
    "temperature: None, stop: [], max_new_tokens: 100, seed: None } "
    'total_time="3.051s" validation_time="312.1µs" queue_time="48.7µs" inference_time="3.05s" '
    'time_per_token="30.5ms" seed="None"}: '
    "text_generation_router::server: router/src/server.rs:289: Success"
)
EXPECTED = tgi_log.Finished(3.051, 312.1e-6, 48.7e-6, 3.05, 0.0305)


@pytest.mark.parametrize(
    "duration, s",
    [
        ("1.27s", 1.27),
        ("5.669107ms", 0.005669107),
        ("54.2µs", 54.2e-6),
        ("980ns", 980e-9),
        ("83s", 83.0),
        ("0ns", 0.0),
    ],
)
def test_durations_as_rust_prints_them(duration, s):
    assert tgi_log.seconds(duration) == pytest.approx(s, rel=1e-12)


@pytest.mark.parametrize("no_duration", ["", "5", "s", "1.2.3s", "5 ms", "-3ms", "1h"])
def test_what_is_no_duration_is_refused(no_duration):
    with pytest.raises(ValueError):
        tgi_log.seconds(no_duration)


def close(found):
    return found and [getattr(found, f) for f in vars(found)] == pytest.approx(
        [getattr(EXPECTED, f) for f in vars(EXPECTED)]
    )


def test_a_line_of_plain_text():
    assert close(tgi_log.finished_request(TEXT))
    assert EXPECTED.generated_tokens == 100


def test_a_line_with_colours():
    coloured = TEXT.replace("total_time=", "\x1b[3mtotal_time\x1b[0m\x1b[2m=\x1b[0m").replace(
        "INFO", "\x1b[32m INFO\x1b[0m"
    )
    assert close(
        tgi_log.finished_request(
            "\x1b[2m" + coloured.replace("text_generation", "\x1b[2mtext_generation")
        )
    )


@pytest.mark.parametrize("flat", [True, False])
def test_a_line_of_json(flat):
    fields = {
        "total_time": "3.051s",
        "validation_time": "312.1µs",
        "queue_time": "48.7µs",
        "inference_time": "3.05s",
        "time_per_token": "30.5ms",
        "seed": "None",
        "parameters": "GenerateParameters { .. }",
        "name": "generate",
    }
    entry = {
        "timestamp": "2024-12-10T08:15:30Z",
        "level": "INFO",
        "target": "text_generation_router::server",
    }
    entry |= {"message": "Success"} if flat else {"fields": {"message": "Success"}}
    assert close(
        tgi_log.finished_request(
            json.dumps(entry | {"span": fields, "spans": [fields]}, ensure_ascii=False)
        )
    )
    assert close(
        tgi_log.finished_request(json.dumps(entry | {"spans": [{"name": "http"}, fields]}))
    )


def test_a_prompts_own_words_do_not_pass_for_times():
    line = TEXT.replace("stop: []", r'stop: ["total_time=\"9s\"", "inference_time=\"9s\""]')
    assert close(tgi_log.finished_request(line))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Success",
        "{",
        '{"message": "Success"}',
        '{"fields": "Success"}',
        '{"message": "Success", "target": "text_generation_router", "spans": 5}',
        '{"message": "Success", "target": "text_generation_router", "spans": [null]}',
        '{"a":' * 100_000,
        "[]",
        TEXT[:-20],
        TEXT.replace("Success", "Failure"),
        TEXT.replace('inference_time="3.05s" ', ""),
        TEXT.replace("3.05s", "soon"),
        TEXT.replace("3.05s", "9" * 400 + "s"),
        TEXT.replace("text_generation_router", "other"),
    ],
)
def test_other_and_damaged_lines_are_passed_over(line):
    assert tgi_log.finished_request(line) is None


def test_a_tail_gives_whole_lines_since_its_mark(tmp_path):
    log = tmp_path / "log"
    log.write_text(TEXT + "\n")
    tail = tgi_log.LogTail(log)
    tail.mark()
    with log.open("a") as file:
        file.write(TEXT + "\n" + TEXT[:50])
    assert len(tgi_log.finished_requests(tail.text())) == 1


def write_reports(folder, times_ms: list[float], percentiles: dict[int, float]) -> None:
    rows = [f"Mon Nov 23 02:01:45 2026\t1795399305\t0\t{t:.0f}\t{t:.0f}\t{t:.0f}" for t in times_ms]
    (folder / "ab.tsv").write_text(
        "\n".join(["starttime\tseconds\tctime\tdtime\tttime\twait", *rows]) + "\n"
    )
    lines = [
        "Percentage served,Time in ms",
        *(f"{percent},{time:.3f}" for percent, time in percentiles.items()),
    ]
    (folder / "ab.csv").write_text("\n".join(lines) + "\n")


def test_latencies_are_as_fine_as_ab_tells_them_and_its_garbage_is_left_out(tmp_path):
    exact = [10.111, 20.222, 30.333, 40.444]
    # ab's line i is sample int(0.5 + 4 i / 100); from 88 on that is one beyond the last, and what
    # lies there is printed
    printed = (
        {i: exact[int(0.5 + 4 * i / 100)] for i in range(87)}
        | {i: 5197265520511051.0 for i in range(88, 100)}
        | {100: exact[-1]}
    )
    write_reports(tmp_path, exact, printed)
    assert ab.latencies_s(tmp_path / "ab.tsv", tmp_path / "ab.csv") == pytest.approx(
        [t / 1000 for t in exact], abs=1e-9
    )


def test_of_many_latencies_each_is_known_to_half_a_millisecond_and_the_percentiles_exactly(
    tmp_path,
):
    exact = sorted(100 + 0.737 * i for i in range(1000))
    write_reports(
        tmp_path, exact, {i: exact[min(int(0.5 + 1000 * i / 100), 999)] for i in range(101)}
    )
    found = ab.latencies_s(tmp_path / "ab.tsv", tmp_path / "ab.csv")
    assert found == pytest.approx([t / 1000 for t in exact], abs=0.00051)
    assert found[950] == pytest.approx(exact[950] / 1000, abs=1e-9)


def test_requests_with_one_body_make_one_run_and_with_several_as_many_lanes_as_the_concurrency(
    tmp_path,
):
    one = level.lanes([tmp_path / "a"], 0, 40, 8)
    assert one == [[ab.Share(tmp_path / "a", 40, 8)]]
    several = level.lanes([tmp_path / name for name in "abc"], 1, 7, 2)
    assert [[share.body.name for share in lane] for lane in several] == [
        ["b", "a", "c", "b"],
        ["c", "b", "a"],
    ]
    assert {(share.requests, share.concurrency) for lane in several for share in lane} == {(1, 1)}


def answers(*sizes: int, tokens: int | None = None) -> ab.Report:
    headers = {} if tokens is None else {"x-generated-tokens": str(tokens)}
    made = [ab.Response(200, {"content-length": str(size), **headers}) for size in sizes]
    return ab.Report(
        requests=len(sizes),
        wall_s=1.0,
        latencies_s=[0.1] * len(sizes),
        responses=made,
    )


@pytest.mark.parametrize(
    "report, log, counted, tokens, source",
    [
        (answers(9, 9, tokens=100), None, None, 200, "headers"),
        (answers(9, 9, tokens=100), [EXPECTED], None, None, None),  # one came from somewhere else
        (answers(9, 9), [EXPECTED, EXPECTED], None, 200, "log"),
        (answers(9, 9), [EXPECTED], 180.0, 180, "counter"),
        (answers(7, 7), None, None, 32, "exactly its size"),
        (answers(7, 8), None, None, None, None),
    ],
)
def test_generated_tokens_are_counted_or_unknown_never_guessed(
    report, log, counted, tokens, source
):
    found, why = level.generated_tokens(report, log, counted, server.Probe("", {}, 7, 16, None))
    assert found == tokens and (why is None if source is None else source in why)


def test_the_guides_request_in_the_words_of_openai():
    data = json.loads((REPO / "gpu-tgi/data.json").read_text())
    assert data == {
        "inputs": "Discuss the history and evolution of artificial intelligence in 80 words",
        "parameters": {"max_new_tokens": 100},
    }
    assert server.request_body(data, "tgi", "http://x/generate", "m") == data
    completion = server.request_body(data, "openai", "http://x/v1/completions", "m")
    assert completion == {
        "model": "m",
        "prompt": data["inputs"],
        "max_tokens": 100,
        "temperature": 0,
    }
    chat = server.request_body(data, "openai", "http://x/v1/chat/completions", "m")
    assert server.with_prompt(chat, "Hello")["messages"] == [{"role": "user", "content": "Hello"}]


def test_an_ab_interrupted_before_its_first_response_is_read_though_it_wrote_no_latencies(tmp_path):
    (tmp_path / "ab.txt").write_text("Time taken for tests:   1.500 seconds\n")
    (tmp_path / "ab.err").write_text("")
    report = ab.read(tmp_path, 20, ab.Response(200, {}))
    assert report.wall_s == 1.5 and report.latencies_s == [] and report.succeeded == 0


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("# TYPE a histogram\ntgi_request_generated_tokens_sum 12\n", 12),
        ('vllm:generation_tokens_total{model="a}b"} 5\nvllm:generation_tokens_total{m="c"} 7', 12),
        ("# HELP llamacpp:tokens_predicted_total n\nllamacpp:tokens_predicted_total 1.2e+01", 12),
        ("tgi_request_generated_tokens_count 12\n", None),
        ("<html>no metrics</html>", None),
    ],
)
def test_the_servers_counter_of_tokens_is_found_in_its_metrics(monkeypatch, text, tokens):
    monkeypatch.setattr(server, "fetch", lambda url: (200, {}, text.encode()))
    assert server.generated_tokens_so_far("http://x/generate") == tokens


def test_secrets_on_the_launchers_command_line_are_hidden(monkeypatch, tmp_path):
    arguments = ["--model-id", "m", "--api-key", "abc"]
    found = {"image": "tgi", "image_id": "0", "arguments": arguments, "devices": None}
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps(found)}\nEOF\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    shown = server._container("tgi")["arguments"]
    assert shown == ["--model-id", "m", "--api-key", "***"]


def test_answers_that_can_not_be_true_are_no_measure_of_tokens():
    report = answers(9, 9, tokens=100)
    assert level.why_not_generated(report, 200.0) is None
    assert level.why_not_generated(report, None) is None
    assert "counted 100" in level.why_not_generated(report, 100.0)
    for response in report.responses:
        response.headers["x-total-time"] = "100"
    assert level.why_not_generated(report, None) is None
    report.latencies_s = [0.01, 0.01]
    assert "took 0.1 s and came in 0.01 s" in level.why_not_generated(report, None)


def printed_by_ab(folder, *chunks: bytes, received: int, length: int, others: int) -> ab.Report:
    """The report of an ab that printed these headers, each with what it saw of the body."""
    text = b"".join(ab.MARK + chunk + b"\n" for chunk in chunks)
    summary = (
        f"..done\n\n\nServer Software:        \nDocument Length:        {length} bytes\n"
        f"Time taken for tests:   1.000 seconds\nComplete requests:      {len(chunks)}\n"
        f"Failed requests:        {others}\n"
        f"   (Connect: 0, Receive: 0, Length: {others}, Exceptions: 0)\n"
        f"HTML transferred:       {received} bytes\n"
    )
    (folder / "ab.txt").write_bytes(text + summary.encode())
    (folder / "ab.err").write_text("")
    return ab.read(folder, len(chunks), ab.Response(200, {"content-type": "application/json"}))


def answer(length: int, body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}"
    return head.encode() + b"\r\n\r\n" + body


GOOD = b'{"generated_text": "x"}'  # 23 bytes


@pytest.mark.parametrize(
    "chunks, received, length, others, cut",
    [
        ([answer(23, GOOD)] * 3, 69, 23, 0, []),
        ([answer(23)] * 3, 69, 23, 0, []),  # the bodies came after the headers
        ([answer(23, GOOD), answer(23, GOOD[:9])], 32, 23, 1, [1]),
        ([answer(23, GOOD[:9]), answer(23, GOOD)], 32, 9, 1, [0]),
        ([answer(23)] * 4, 78, 23, 1, [1]),
        ([answer(23)] * 4, 36, 9, 0, [0, 1, 2, 3]),
        ([answer(23)] * 4, 64, 9, 2, [0, 1]),
        # Bodies of several lengths: all that were not seen whole.
        ([answer(23, GOOD), answer(40), answer(50)], 100, 23, 2, [1, 2]),
        # Cut by a reset, which ab does not count as a body of another length.
        ([answer(23, GOOD), answer(23, GOOD[:9])], 32, 23, 0, [1]),
    ],
)
def test_bodies_cut_off_are_found_by_what_was_seen_and_how_much_came(
    tmp_path, chunks, received, length, others, cut
):
    report = printed_by_ab(tmp_path, *chunks, received=received, length=length, others=others)
    failed = [i for i, response in enumerate(report.responses) if response.failure == "cut off"]
    assert failed == cut and report.succeeded == len(chunks) - len(cut)


def test_a_body_that_imitates_abs_report_spoils_the_run(tmp_path):
    body = b"\nLOG: header received:\n" + answer(23, GOOD)
    report = printed_by_ab(
        tmp_path, answer(len(body), body), received=len(body), length=len(body), others=0
    )
    assert report.gave_up and "imitates" in report.problems[-1]


@pytest.mark.parametrize("value", ["9" * 5000, "²", "-1", "1.5", ""])
def test_a_number_that_is_none_is_unknown(value):
    assert ab.Response(200, {"x-generated-tokens": value}).number("x-generated-tokens") is None


@pytest.mark.parametrize(
    "text",
    ["tgi_request_generated_tokens_sum NaN\n", "tgi_request_generated_tokens_sum +Inf\n", "x{"],
)
def test_a_counter_that_is_no_number_is_unknown(monkeypatch, text):
    monkeypatch.setattr(server, "fetch", lambda url: (200, {}, text.encode()))
    assert server.generated_tokens_so_far("http://x/generate") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[[]]",
        "5",
        '{"choices": 5}',
        '{"choices": [5]}',
        '{"generated_text": 5}',
        "[" * 10**5,
    ],
)
def test_an_answer_without_text_is_said_in_one_line(monkeypatch, text):
    monkeypatch.setattr(server, "fetch", lambda url, body, timeout_s: (200, {}, text.encode()))
    with pytest.raises(UserError, match="without generated text"):
        server.probe("http://x/generate", b"", 1.0)
