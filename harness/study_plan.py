"""A study: what it repeats, its plan as study.json, and which of its runs are done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness import files, record
from harness.cli import UserError

PLAN = "study.json"
MIN_DURATION_S = 60.0  # of a run that counts as evidence


@dataclass(frozen=True)
class Job:
    """A command of a workload's folder."""

    name: str  # the workload, as its records have it
    folder: str
    command: list[str]  # the script and its arguments
    is_repeated: bool
    # Of a job that is run once, where no earlier record tells; another guess is the same job.
    assumed_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Plan:
    """What study.json holds."""

    id: str
    repeats: int
    min_duration_s: float  # of each repeated run
    detect: float | None  # the relative difference that the repeats were chosen for
    jobs: list[Job]
    until_width: float | None = None  # repeats go on to this, see harness.until; `repeats` at most


@dataclass(frozen=True)
class Step:
    """One run of a job; `number` counts from 1."""

    job: Job
    number: int


def steps(plan: Plan) -> list[Step]:
    """All runs in order: the repeated jobs in turn, then the others once."""
    rounds = range(1, plan.repeats + 1)
    repeated = [Step(job, n) for n in rounds for job in plan.jobs if job.is_repeated]
    return repeated + [Step(job, 1) for job in plan.jobs if not job.is_repeated]


def label(plan: Plan, step: Step) -> str:
    """What a run's record has as its parameter `study`."""
    return f"{plan.id}/{step.job.name}/{step.number}"


def done(plan: Plan, records: Sequence[dict]) -> dict[str, dict]:
    """By label, the complete records of a study."""
    labels = {label(plan, step) for step in steps(plan)}
    found = {each["parameters"].get("study"): each for each in records}
    return {name: each for name, each in found.items() if name in labels}


def runs_of(job: Job, known: Mapping[str, dict]) -> list[dict]:
    """A job's records, of those that done() found."""
    return [each for name, each in known.items() if name.split("/")[1] == job.name]


def read_records(folders: Sequence[Path]) -> list[dict]:
    """The complete records with a primary metric, oldest first; other files are left out."""
    found = {}
    for path in (path for folder in folders for path in folder.glob("*.json")):
        try:
            each = record.read(path)
        except record.RecordError:
            continue
        if each["status"] == "complete" and each["primary"]:
            found[each["id"]] = {**each, "path": path}
    return sorted(found.values(), key=lambda each: each["finished_at"])


def read_plan(folder: Path) -> Plan | None:
    """The plan in a results folder. Raises UserError where it is damaged."""
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        found = json.loads(files.read_text(path, "the study's plan"))
        return Plan(**{**found, "jobs": [Job(**each) for each in found["jobs"]]})
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{path} is damaged: remove it to begin a new study, or name another RESULTS_DIR"
        ) from None


def write_plan(plan: Plan, folder: Path) -> None:
    text = json.dumps(asdict(plan), indent=1) + "\n"
    files.write_whole(folder / PLAN, text.encode(), overwrite=True)
