"""Verdicts are right as often as they say, and what can't be compared is not."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, assert_one_line
from simulated import MACHINE, changed, record, write

from analysis import ratio, records


def run(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "analysis.compare", *map(str, args)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


def compared(*args) -> dict:
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sides(folder, a, b) -> list:
    """The records a and b (or lists of them) in folders of these names."""
    a, b = ([each] if isinstance(each, dict) else each for each in (a, b))
    return [*write(folder / "a", *a), *write(folder / "b", *b)]


def noisy(generator, median: float, n: int, spread: float = 0.015) -> list[float]:
    """Samples of a quiet machine: log-normal, one in twenty slowed down by something else."""
    slowed = np.where(generator.random(n) < 0.05, generator.uniform(0.8, 1, n), 1)
    return (median * np.exp(spread * generator.standard_normal(n)) * slowed).tolist()


def test_of_1000_comparisons_95_percent_see_3_percent_and_5_at_most_what_is_not_there():
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

    def run_of_its_own() -> list[float]:
        return noisy(generator, 100 * np.exp(0.01 * generator.standard_normal()), 10)

    false = 0
    for _ in range(400):
        both = [[run_of_its_own() for _ in range(5)] for _ in range(2)]
        false += ratio.compare(*both, "higher").verdict != "no difference shown"
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
    assert found.ratio == 1 and found.ci95[0] <= 1 <= found.ci95[1]
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize(
    "better, side, verdict",
    [("higher", 2.0, "better"), ("higher", 0.5, "worse"), ("lower", 0.5, "better")],
)
def test_what_is_better_depends_on_the_metric(better, side, verdict):
    assert ratio.compare([[1.0] * 6], [[side] * 6], better).verdict == verdict


def test_too_few_samples_and_a_baseline_of_0_give_no_interval():
    assert ratio.compare([[1.0] * 5], [[2.0] * 5], "higher").verdict == "too few samples"
    six_runs_of_one_sample = [[1.0]] * 6, [[2.0]] * 6
    assert ratio.compare(*six_runs_of_one_sample, "higher").verdict == "better"
    found = ratio.compare([[0.0] * 6], [[0.0] * 6], "lower")
    assert found.ratio is None and found.verdict == "no ratio: the baseline is 0"


def test_records_of_two_folders_are_two_sides(tmp_path):
    samples = [i for i in range(8)]
    edge = [record([120 + i for i in samples], machine="PowerEdge R760xa") for _ in range(4)]
    cloud = [record([100 + i for i in samples], machine="m7i.48xlarge") for _ in range(4)]
    write(tmp_path / "edge", *edge)
    write(tmp_path / "cloud", *cloud)
    folders = tmp_path / "edge", tmp_path / "cloud"
    found = compared(*folders, "--baseline", "m7i.48xlarge")
    (comparison,) = found["comparisons"]
    assert (comparison["baseline"], comparison["side"]) == ("cloud", "edge")
    assert comparison["runs"] == [4, 4]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(123.5 / 103.5)
    assert comparison["ratios"]["tokens_per_second"]["verdict"] == "better"
    assert comparison["differences"]["machine"][0].startswith("m7i.48xlarge")
    printed = run(*sorted((tmp_path / "edge").iterdir()), folders[1], "--baseline", "cloud").stdout
    assert "edge is better than cloud, 1.193 times the throughput (95 % CI" in printed


def test_records_of_one_folder_are_sides_by_machine(tmp_path):
    write(tmp_path, record([1.0] * 6, machine="a"), record([2.0] * 6, machine="b"))
    assert set(compared(tmp_path)["sides"]) == {"a", "b"}


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("precision", "bf16", "precision f32 against bf16"),
        ("model", "c" * 12, "model aaaaaaaaaaaa against cccccccccccc"),
        ("weight format", "int4", "weight format int8 against int4"),
        ("runtime", "genai", "runtime not given against genai"),
        ("device", "GPU", "device CPU against GPU"),
        ("KV cache", "u8", "KV cache not given against u8"),
        ("dynamic quantization group", 0, "dynamic quantization group not given against 0"),
    ],
)
def test_what_makes_a_ratio_unfair_is_said_instead_of_a_ratio(tmp_path, name, value, words):
    other = changed(record([200.0] * 8), f"comparable_by/{name}", value)
    paths = sides(tmp_path, record([100.0] * 8), other)
    (comparison,) = compared(*paths)["comparisons"]
    assert comparison["unfair"] == [words] and comparison["ratios"] == {}
    printed = run(*paths).stdout
    assert "can't be compared fairly" in printed and "2.0" not in printed


def test_null_false_and_absent_are_the_same(tmp_path):
    other = record([2.0] * 6, stream=False, chat=None)
    other = changed(other, "comparable_by/runtime", None)
    (comparison,) = compared(*sides(tmp_path, record([1.0] * 6), other))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == 2


@pytest.mark.parametrize("entry", [{"max new tokens": 7}, {"batch size": 8}, {"beam size": 0}])
def test_other_work_is_not_compared_at_all(tmp_path, entry):
    paths = sides(tmp_path, record([1.0] * 6), record([1.0] * 6, **entry))
    assert compared(*paths)["comparisons"] == [] and "Nothing to compare" in run(*paths).stdout


def test_other_versions_threads_and_kernels_are_shown_beside_the_ratio(tmp_path):
    other = changed(record([1.0] * 6, threads=8), "context/kernel", "5.15")
    other = changed(other, "context/openvino", "2025.0")
    (comparison,) = compared(*sides(tmp_path, record([1.0] * 6), other))["comparisons"]
    assert comparison["differences"] == {
        "kernel": ["6.1", "5.15"],
        "openvino": ["2026.4.1", "2025.0"],
        "threads": ["16", "8"],
    }


def test_runs_with_other_threads_are_no_repetitions_the_best_stand_for_the_side(tmp_path):
    side = [record([r] * 6, threads=n) for n, r in ((8, 90.0), (16, 120.0), (32, 110.0))]
    (comparison,) = compared(*sides(tmp_path, record([100.0] * 6), side))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(1.2)
    assert comparison["runs"] == [1, 1]
    assert any("taken at its best, threads 16" in note for note in comparison["notes"])


@pytest.mark.parametrize(
    "name, value", [("memory tuned", "glibc.malloc.hugetlb=1"), ("batch size", 8)]
)
def test_another_way_of_using_the_machine_is_no_repetition(tmp_path, name, value):
    side = [record([100.0] * 6), record([120.0] * 6, configuration={name: value})]
    (comparison,) = compared(*sides(tmp_path, record([100.0] * 6), side))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(1.2)
    assert comparison["runs"] == [1, 1]
    assert comparison["differences"][name] == ["not given", str(value)]


def test_levels_of_concurrency_are_compared_each_with_its_own(tmp_path):
    a, b = (
        [record([rate * c] * 6, workload="gpu-tgi", concurrency=c) for c in (1, 4)]
        for rate in (1.0, 2.0)
    )
    found = compared(*sides(tmp_path, a, b))["comparisons"]
    assert [c["label"] for c in found] == ["LLM server, concurrency 1", "LLM server, concurrency 4"]
    ratios = [c["ratios"]["requests_per_second"]["ratio"] for c in found]
    assert ratios == pytest.approx([2, 2])


def test_a_record_that_only_lists_others_is_left_out_silently(tmp_path):
    paths = sides(tmp_path, record([1.0] * 6), record([2.0] * 6))
    sweep = write(tmp_path / "b", changed(record([9.0] * 6), "primary", None))
    done = run(*paths, *sweep)
    assert done.returncode == 0 and done.stderr == "" and "2.000 times" in done.stdout


def test_the_primary_metric_decides_whatever_else_has_an_interval(tmp_path):
    """One sample of throughput, and many of latency within that one iteration."""
    a, b = (
        record([rate], workload="gpu-tgi", latency_s=[[0.5 / rate + i / 1e4 for i in range(50)]])
        for rate in (1.0, 2.0)
    )
    printed = run(*sides(tmp_path, a, b)).stdout
    assert "too few samples to tell b against a apart in throughput" in printed
    assert "b is better than a" not in printed


def test_an_iteration_is_one_sample_however_many_it_holds(tmp_path):
    paths = write(tmp_path, record([1.0] * 6, latency_s=[[1.0, 2.0, 9.0]] * 6))
    (read,), _ = records.read_runs(paths)
    assert read.samples["request_latency_s"].tolist() == [2.0] * 6
    assert read.metrics["request_latency_s"].n == 18


def test_warnings_of_the_runs_are_carried_along(tmp_path):
    steal = "the hypervisor took {}.5% of the CPU time for others (steal)"
    warned = [record([1.0] * 6, warnings=[steal.format(i)]) for i in range(3)]
    (comparison,) = compared(*sides(tmp_path, record([1.0] * 6), warned))["comparisons"]
    (note,) = [note for note in comparison["notes"] if "hypervisor" in note]
    assert note.endswith("(and the like in 2 more runs)")


def test_a_side_of_several_machines_is_said_to_be_one(tmp_path):
    mixed = [record([1.0] * 6, machine=machine) for machine in "xy"]
    (comparison,) = compared(*sides(tmp_path, record([1.0] * 6), mixed))["comparisons"]
    both = f"{MACHINE.format('x')} / {MACHINE.format('y')}"
    assert f"b: runs of 2 machines are taken together: {both}" in comparison["notes"]


def test_what_is_no_record_is_named_and_skipped(tmp_path):
    good = sides(tmp_path, record([1.0] * 6), record([2.0] * 6))
    odd = {
        "cut": (json.dumps(record([1.0]))[:300], "cut off"),
        "empty": ("", "no JSON"),
        "foreign": ('{"hello": 1}', "not a record"),
        "newer": (json.dumps({**record([1.0]), "schema_version": 3}), "newer than this kit's"),
        "failed": (json.dumps(record([1.0], status="failed")), "failed"),
    }
    for name, (content, _) in odd.items():
        (tmp_path / f"b/{name}.json").write_text(content)
    done = run(tmp_path / "a", tmp_path / "b", tmp_path / "b/missing.json", good[0])
    assert done.returncode == 0 and "2.000 times" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == len(odd) + 2
    for name, (_, words) in {**odd, "missing": ("", "No such file")}.items():
        assert any(f"{name}.json" in line and words in line for line in lines), (name, lines)
    assert any("the same run as another file" in line for line in lines)


def test_nothing_but_damaged_records_or_a_baseline_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "x.json").write_text("{")
    assert_one_line(run(tmp_path / "x.json"), "no record to compare")
    (tmp_path / "none").mkdir()
    assert_one_line(run(tmp_path / "none"), "no record (*.json) in this folder")
    paths = write(tmp_path / "a", record([1.0] * 6))
    assert_one_line(run(*paths, "--baseline", "m5.large"), "m5.large", "m6i.8xlarge")
    assert_one_line(run(*paths, "--html", tmp_path / "x.json/report.html"), "cannot write")
    assert_one_line(run(*paths, "--power_w", "m7=1"), "m7 is no side", "m6i.8xlarge")
    assert_one_line(run(*paths, "--sut", "m6i.8xlarge=R9"), "no R9.toml")
    wrong = run(*paths, "--power_w", "m6i.8xlarge=much")
    assert wrong.returncode == 2 and "m6i.8xlarge=much" in wrong.stderr


def test_csv_and_markdown_hold_every_ratio(tmp_path):
    a, b = record([1.0] * 6, latency_s=[0.5] * 6), record([2.0] * 6, latency_s=[0.2] * 6)
    paths = sides(tmp_path, a, b)
    rows = list(csv.DictReader(io.StringIO(run(*paths, "--csv").stdout)))
    ratios = {row["metric"]: float(row["ratio"]) for row in rows}
    assert ratios == pytest.approx({"tokens_per_second": 2.0, "request_latency_s": 0.4})
    assert {row["verdict"] for row in rows} == {"better"} and rows[0]["ci95_low"] == "2.0"
    done = run(*paths, "--markdown", tmp_path / "r.md")
    assert done.returncode == 0 and "| LLM | Throughput | b |" in (tmp_path / "r.md").read_text()


def test_records_of_version_1_are_compared_as_version_1_did():
    found = compared(REPO / "examples/threads-1", REPO / "examples/threads-2")
    (comparison,) = found["comparisons"]
    assert comparison["ratios"]["tokens_per_second"] == {
        "baseline": 36.86264106306048,
        "side": 40.65394982825201,
        "ratio": 1.1028496237886425,
        "ci95": [0.9246914037761796, 1.4681126207349102],
        "better": "higher",
        "verdict": "no difference shown",
    }
    assert comparison["differences"] == {"threads": ["1", "2"]} and comparison["runs"] == [4, 4]


def test_10000_records_are_compared_in_10_seconds_and_500_mb(tmp_path):
    generator = np.random.default_rng(4)
    made = record(noisy(generator, 100, 10), latency_s=noisy(generator, 1, 10))
    content = json.dumps(made)
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for i in range(5000):
            (tmp_path / f"{side}/{i}.json").write_text(content.replace(made["id"], f"{side}{i}"))
    code = f"""
import resource, sys, time
from analysis import compare, report
sys.argv = ["compare", {str(tmp_path / "a")!r}, {str(tmp_path / "b")!r}]
began = time.perf_counter()
text = report.text(compare.build(compare.parse_args()))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
assert "no difference shown" in text
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    seconds, mib = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {mib:.0f} MiB")
    assert seconds < 30 and mib < 500  # 7 s on two cores, one of them busy


def test_thinning_keeps_the_median(tmp_path):
    samples = np.random.default_rng(5).normal(100, 2, 9000).tolist()
    (read,), _ = records.read_runs(write(tmp_path, record(samples)))
    middle = np.median(read.samples["tokens_per_second"])
    assert middle == pytest.approx(np.median(samples), rel=0.002)
    assert len(read.samples["tokens_per_second"]) <= records.MAX_ITERATIONS
