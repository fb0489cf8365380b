"""Verdicts are right as often as they say, and what can't be compared is not."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, assert_one_line
from simulated import changed, record, write

from harness import compare, ratio


def run(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness.compare", *map(str, args)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


def told(*args) -> dict:
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def noisy(generator, median: float, n: int, spread: float = 0.015) -> list[float]:
    """Samples as a quiet machine gives them: log-normal, and one in twenty slowed down by something else."""
    slowed = np.where(generator.random(n) < 0.05, generator.uniform(0.8, 1, n), 1)
    return (median * np.exp(spread * generator.standard_normal(n)) * slowed).tolist()


def test_of_1000_comparisons_95_in_100_are_right_about_3_percent_and_5_at_most_see_what_is_not_there():
    generator = np.random.default_rng(1)
    right = false = 0
    for _ in range(1000):
        base, same, faster = (noisy(generator, median, 30) for median in (100, 100, 103))
        right += ratio.compare([base], [faster], "higher").verdict == "better"
        false += ratio.compare([base], [same], "higher").verdict != "no difference shown"
    assert right >= 950 and false <= 50


def test_with_repeated_runs_too_what_is_not_there_is_seen_5_times_in_100_at_most():
    """Runs that differ by 1 % from one another, which samples of a single run can't tell."""
    generator = np.random.default_rng(2)
    false = 0
    for _ in range(400):
        sides = [[noisy(generator, 100 * np.exp(0.01 * generator.standard_normal()), 10) for _ in range(5)] for _ in range(2)]
        false += ratio.compare(*sides, "higher").verdict != "no difference shown"
    assert false <= 20


def test_medians_are_resampled_as_by_drawing_the_samples_themselves():
    generator = np.random.default_rng(3)
    for n in (6, 7, 40):
        samples = generator.normal(size=n)
        drawn = np.median(samples[generator.integers(0, n, (100_000, n))], axis=1)
        quick = ratio._medians(samples, n, 100_000, generator)
        at = [0.025, 0.25, 0.5, 0.75, 0.975]
        assert np.quantile(quick, at) == pytest.approx(np.quantile(drawn, at), abs=0.05)


@pytest.mark.parametrize("runs", [1, 5])
def test_identical_sides_give_a_ratio_of_1_inside_its_interval(runs):
    same = [noisy(np.random.default_rng(i), 100, 10) for i in range(runs)]
    found = ratio.compare(same, same, "higher")
    assert found.ratio == 1 and found.low <= 1 <= found.high and found.verdict == "no difference shown"


@pytest.mark.parametrize("better, side, verdict", [("higher", 2.0, "better"), ("higher", 0.5, "worse"), ("lower", 0.5, "better")])
def test_what_is_better_depends_on_the_metric(better, side, verdict):
    assert ratio.compare([[1.0] * 6], [[side] * 6], better).verdict == verdict


def test_too_few_samples_and_a_baseline_of_0_give_no_interval():
    assert ratio.compare([[1.0] * 5], [[2.0] * 5], "higher").verdict == "too few samples"
    assert ratio.compare([[1.0]] * 6, [[2.0]] * 6, "higher").verdict == "better"  # six runs of one sample
    assert ratio.compare([[0.0] * 6], [[0.0] * 6], "lower").ratio is None


def test_records_of_two_folders_are_two_sides(tmp_path):
    edge = write(tmp_path / "edge", *(record([120 + i for i in range(8)], machine="PowerEdge R760xa") for _ in range(4)))
    cloud = write(tmp_path / "cloud", *(record([100 + i for i in range(8)], machine="m7i.48xlarge") for _ in range(4)))
    found = told(*edge, *cloud, "--baseline", "m7i.48xlarge")
    (comparison,) = found["comparisons"]
    assert (comparison["baseline"], comparison["side"], comparison["runs"]) == ("cloud", "edge", [4, 4])
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(123.5 / 103.5)
    assert comparison["ratios"]["tokens_per_second"]["verdict"] == "better"
    assert comparison["differences"]["machine"][0].startswith("m7i.48xlarge")
    assert (
        "edge is better than cloud, 1.193 times the tokens per second (95 % CI"
        in run(*edge, *cloud, "--baseline", "cloud").stdout
    )


def test_records_of_one_folder_are_sides_by_machine(tmp_path):
    paths = write(tmp_path, record([1.0] * 6, machine="a"), record([2.0] * 6, machine="b"))
    assert set(told(*paths)["sides"]) == {"a", "b"}


@pytest.mark.parametrize(
    "where, value, words",
    [
        ("placement.precision_used", "bf16", "precision f32 against bf16"),
        ("model.sha256", "c" * 64, "model aaaaaaaaaaaa against cccccccccccc"),
        ("model.weight_format", "int4", "weight format int8 against int4"),
        ("parameters.runtime", "genai", "runtime optimum-intel against genai"),
        ("parameters.device", "GPU", "device CPU against GPU"),
    ],
)
def test_what_makes_a_ratio_unfair_is_said_instead_of_a_ratio(tmp_path, where, value, words):
    base = record([100.0] * 8)
    paths = write(tmp_path / "a", base) + write(tmp_path / "b", changed(record([200.0] * 8), where, value))
    (comparison,) = told(*paths)["comparisons"]
    assert comparison["unfair"] == [words] and comparison["ratios"] == {}
    printed = run(*paths).stdout
    assert "can't be compared fairly" in printed and "2.0" not in printed


def test_other_work_is_not_compared_at_all(tmp_path):
    paths = write(tmp_path / "a", record([1.0] * 6)) + write(tmp_path / "b", record([1.0] * 6, max_new_tokens=7))
    assert told(*paths)["comparisons"] == [] and "Nothing to compare" in run(*paths).stdout


def test_other_versions_threads_and_kernels_are_shown_beside_the_ratio(tmp_path):
    other = changed(
        changed(record([1.0] * 6, threads=8), "system.os.kernel", "5.15"), "system.software.packages", {"openvino": "2025.0"}
    )
    (comparison,) = told(*write(tmp_path / "a", record([1.0] * 6)), *write(tmp_path / "b", other))["comparisons"]
    assert comparison["differences"] == {"threads": ["16", "8"], "kernel": ["6.1", "5.15"], "openvino": ["2026.4.1", "2025.0"]}


def test_runs_with_other_threads_are_no_repetitions_the_best_stand_for_the_side(tmp_path):
    side = [record([rate] * 6, threads=threads) for threads, rate in ((8, 90.0), (16, 120.0), (32, 110.0))]
    (comparison,) = told(*write(tmp_path / "a", record([100.0] * 6)), *write(tmp_path / "b", *side))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(1.2) and comparison["runs"] == [1, 1]
    assert any("taken at its best, 16 threads" in note for note in comparison["notes"])


def test_a_run_with_weights_in_huge_pages_is_no_repetition(tmp_path):
    def run(rate: float, tunables: str) -> dict:
        return changed(record([rate] * 6), "system.memory.glibc_tunables", tunables)

    side = run(100.0, "none"), run(120.0, "glibc.malloc.hugetlb=1")
    (comparison,) = told(*write(tmp_path / "a", run(100.0, "none")), *write(tmp_path / "b", *side))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(1.2) and comparison["runs"] == [1, 1]
    assert comparison["differences"]["memory tuned"] == ["none", "glibc.malloc.hugetlb=1"]


def test_a_batch_is_a_way_of_working_except_for_an_llm_where_it_is_more_work(tmp_path):
    paths = write(tmp_path / "a", record([10.0] * 6, workload="audio")) + write(
        tmp_path / "b", record([15.0] * 6, workload="audio", batch_size=8, num_streams=2)
    )
    (comparison,) = told(*paths)["comparisons"]
    assert comparison["ratios"]["rtfx"]["ratio"] == pytest.approx(1.5) and comparison["differences"]["batch size"] == ["1", "8"]
    paths = write(tmp_path / "c", record([10.0] * 6)) + write(tmp_path / "d", record([15.0] * 6, batch_size=8))
    assert told(*paths)["comparisons"] == []


@pytest.mark.parametrize(
    "name, values, told_as",
    [
        ("KV_CACHE_PRECISION", ("f16", "u8"), "KV cache f16 against u8"),
        ("DYNAMIC_QUANTIZATION_GROUP_SIZE", (0, 32), "dynamic quantization group 0 against 32"),
    ],
)
def test_an_llm_computed_in_another_precision_is_not_compared(tmp_path, name, values, told_as):
    a, b = (changed(record([1.0] * 6), "placement.openvino_properties", {"model": {name: value}}) for value in values)
    assert told(*write(tmp_path / "a", a), *write(tmp_path / "b", b))["comparisons"][0]["unfair"] == [told_as]


def test_levels_of_concurrency_are_compared_each_with_its_own(tmp_path):
    a, b = ([record([rate * c] * 6, workload="gpu-tgi", concurrency=c) for c in (1, 4)] for rate in (1.0, 2.0))
    found = told(*write(tmp_path / "a", *a), *write(tmp_path / "b", *b))["comparisons"]
    assert sorted(c["label"] for c in found) == ["LLM server, concurrency 1", "LLM server, concurrency 4"]
    assert all(c["ratios"]["requests_per_second"]["ratio"] == pytest.approx(2) for c in found)


def test_warnings_of_the_runs_are_carried_along(tmp_path):
    warned = [record([1.0] * 6, trouble=[f"the hypervisor took {i}.5% of the CPU time for others (steal)"]) for i in range(3)]
    (comparison,) = told(*write(tmp_path / "a", record([1.0] * 6)), *write(tmp_path / "b", *warned))["comparisons"]
    assert [n for n in comparison["notes"] if "hypervisor" in n][0].endswith("(and the like in 2 more runs)")


def test_a_side_of_several_machines_is_told_to_be_one(tmp_path):
    mixed = write(tmp_path / "b", record([1.0] * 6, machine="x"), record([1.0] * 6, machine="y"))
    (comparison,) = told(*write(tmp_path / "a", record([1.0] * 6)), *mixed)["comparisons"]
    assert any(note.startswith("b: runs of 2 machines are taken together") for note in comparison["notes"])


def test_what_is_no_record_is_named_and_skipped(tmp_path):
    good = write(tmp_path / "a", record([1.0] * 6)) + write(tmp_path / "b", record([2.0] * 6))
    odd = {"cut.json": json.dumps(record([1.0]))[:300], "empty.json": "", "foreign.json": '{"hello": 1}',
           "newer.json": json.dumps({**record([1.0]), "schema_version": 2}), "failed.json": json.dumps(record([1.0], status="failed"))}  # fmt: skip
    for name, content in odd.items():
        (tmp_path / "b" / name).write_text(content)
    done = run(*good, *(tmp_path / "b" / name for name in odd), tmp_path / "b/missing.json", good[0])
    assert done.returncode == 0 and "2.000 times" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == len(odd) + 2
    for name, words in {"cut": "cut off", "empty": "no JSON", "foreign": "not a record", "newer": "newer than this kit's", "failed": "failed",
                        "missing": "No such file"}.items():  # fmt: skip
        assert any(f"{name}.json" in line and words in line for line in lines), (name, lines)
    assert any("the same run as another file" in line for line in lines)


def test_nothing_but_damaged_records_or_a_baseline_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "x.json").write_text("{")
    assert_one_line(run(tmp_path / "x.json"), "no record to compare")
    paths = write(tmp_path / "a", record([1.0] * 6))
    assert_one_line(run(*paths, "--baseline", "m5.large"), "m5.large", "m6i.8xlarge")
    assert_one_line(run(*paths, "--html", tmp_path / "nowhere/report.html"), "cannot write")
    assert_one_line(run(*paths, "--power_w", "m6i.8xlarge=much"), "not a number above 0")
    assert_one_line(run(*paths, "--sut", "m6i.8xlarge=R9"), "has no R9.toml")


def test_csv_and_markdown_hold_every_ratio(tmp_path):
    paths = write(tmp_path / "a", record([1.0] * 6, latency_s=[0.5] * 6)) + write(
        tmp_path / "b", record([2.0] * 6, latency_s=[0.2] * 6)
    )
    rows = list(csv.DictReader(io.StringIO(run(*paths, "--csv").stdout)))
    assert {row["metric"]: float(row["ratio"]) for row in rows} == pytest.approx(
        {"tokens_per_second": 2.0, "inference_time_s": 0.4}
    )
    assert {row["verdict"] for row in rows} == {"better"}
    done = run(*paths, "--markdown", tmp_path / "r.md")
    assert done.returncode == 0 and "| LLM | tokens per second | b |" in (tmp_path / "r.md").read_text()


def test_10000_records_are_compared_in_10_seconds_and_500_mb(tmp_path):
    generator = np.random.default_rng(4)
    made = json.dumps(record(noisy(generator, 100, 10), latency_s=noisy(generator, 1, 10)))
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for i in range(5000):
            (tmp_path / side / f"{i}.json").write_text(made.replace(json.loads(made)["id"], f"{side}{i}"))
    code = f"""
import resource, sys, time
from pathlib import Path
from harness import compare, report
sys.argv = ["compare", *map(str, Path({str(tmp_path)!r}).glob("*/*.json"))]
began = time.perf_counter()
text = report.text(compare.build(compare.parse_args()))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
assert "no difference shown" in text
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    seconds, mib = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {mib:.0f} MiB")
    assert seconds < 30 and mib < 500  # 7 s on two cores, one of them busy


def test_thinning_keeps_the_median(tmp_path):
    samples = np.random.default_rng(5).normal(100, 2, 9000).tolist()
    runs, _ = compare.read_runs(write(tmp_path, record(samples)))
    assert np.median(runs[0].samples["tokens_per_second"]) == pytest.approx(np.median(samples), rel=0.002)
