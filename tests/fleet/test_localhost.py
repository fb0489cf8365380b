"""One machine, this one, and a real workload: the demo's LLM."""

from conftest import REPO
from fleet_machines import Fleet

from harness import record

MODEL = "smollm2-135m-instruct-ov"
# The checkout on the machine borrows this one's environments.
PREPARE = "for folder in harness llm-workload; do ln -sfn {}/$folder/.venv $folder/.venv; done"
STUDY = (
    'harness/.venv/bin/python -m harness.study --results_dir "$RESULTS_DIR" --min_duration 0.1 '
    f"--quiet_limit 0 --repeats 2 --job 'llm llm-workload infer.py --model_name={MODEL} "
    "--skip_limits --num_iters 2 --warmup 1 --max_new_tokens 8'"
)


def test_a_fleet_of_this_machine_measures_the_llm_with_the_models_that_it_was_given(tmp_path):
    fleet = Fleet(
        tmp_path,
        {"localhost": {"ansible_connection": "local", "study_dir": str(tmp_path / "machine")}},
        study_models=[f"llm-workload/{MODEL}", "llm-workload/of-another-study"],
        study_prepare_command=PREPARE.format(REPO),
        study_command=STUDY,
        study_sut="m7i.48xlarge",
    )
    status, output = fleet.run()
    assert status == 0, output
    folder = fleet.results / "study"
    runs = [record.read(path) for path in (folder / "localhost").glob("llm_*.json")]
    assert [run["status"] for run in runs] == ["complete"] * 2
    assert {run["model"]["name"] for run in runs} == {MODEL}
    (model,) = (tmp_path / "machine/kit/llm-workload").glob("*-ov")
    assert not model.is_symlink() and (model / "openvino_model.bin").exists()
    report = (folder / "report.html").read_text()
    assert "localhost" in report and "m7i.48xlarge" in report
    assert f"Report: {folder}/report.html" in output
