"""The record: one JSON file a run, the only thing that passes from measuring to reporting.

Its form is record.schema.json. It is written whole or not at all, and never over another.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness import cli, files, measure, model as model_files, placement as place, system, trouble
from harness.cli import UserError

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("record.schema.json")


class RecordError(UserError):
    """A file that is not a record this version can read."""


def check_destination(args) -> None:
    """Raise UserError where the record could not be written: before measuring, so that no measurement is lost."""
    folder = (args.json.parent if args.json else args.results_dir).absolute()
    if args.json and args.json.exists():
        raise UserError(f"{args.json} exists and records are never overwritten: choose another --json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write the record to {folder}: {error.strerror} (--results_dir, --json)") from None


def introduce(model: dict, placement: dict, device: str, load_time_s: float, *, more: str = "") -> dict:
    """Print what is about to be measured, and on which machine, which is returned: system.describe().

    `model` and `placement` are the record's; `more` ends the line on placement.
    """
    machine = system.describe()
    print(f"Model: {model_files.one_line(model)}; loaded in {load_time_s:.1f} s")
    print(f"System: {system.one_line(machine)}")
    print(f"Placement: {place.one_line(placement, device)}{more}", flush=True)
    return machine


def build(
    workload: str,
    args,
    *,
    headline: str,
    metrics: dict[str, dict],
    samples: dict[str, list],
    model: dict,
    source: dict,
    machine: dict,
    placement: dict,
    watch: measure.Watch,
    output: dict,
    resolved: dict[str, Any] | None = None,
    server: dict | None = None,
    signs: list[str] | None = None,
) -> dict:
    """A run's record.

    Parameters
    ----------
    headline : the metric by which signs of trouble are judged.
    samples : every raw sample, by metric name.
    source : what the run was fed: name, sha256 and what else tells inputs apart.
    output : what was produced, and the check on it.
    machine : from introduce(), or system.describe().
    resolved : parameters that were found out rather than given.
    server : what was measured over the network: API, version, how it was started.
    signs : of trouble; those of trouble.signs_of_trouble unless given.
    """
    if signs is None:
        signs = trouble.signs_of_trouble(metrics[headline], watch.usage, placement, machine)
    return {
        "schema_version": SCHEMA_VERSION,
        "id": str(uuid.uuid4()),
        "workload": workload,
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "status": watch.status,
        "error": watch.error,
        "command": [cli.without_secrets(word) for word in (Path(sys.argv[0]).name, *sys.argv[1:])],
        "parameters": {key: _json(value) for key, value in {**vars(args), **(resolved or {})}.items()},
        "model": model,
        "input": source,
        "system": machine,
        "placement": placement,
        **({"server": server} if server else {}),
        "usage": watch.usage,
        "headline": headline,
        "metrics": metrics,
        "samples": samples,
        "output": output,
        "trouble": signs,
    }


def finish(record: dict, args) -> int:
    """Print the signs of trouble, write the record, and return the process's exit status."""
    for sign in record["trouble"]:
        print(f"warning: {sign}")
    print(f"Record: {save(record, args)}")
    if record["status"] == "interrupted":
        print("interrupted: the record holds what was measured until then", file=sys.stderr)
        return cli.EXIT_INTERRUPTED
    if record["status"] == "failed":
        print(f"error: {record['error']}", file=sys.stderr)
        return cli.EXIT_FAILED
    return cli.EXIT_OK


def save(record: dict, args) -> Path:
    """Write to --json or into --results_dir; where that has become impossible, to the temporary folder."""
    validate(record)
    stamp = datetime.fromisoformat(record["finished_at"]).strftime("%Y%m%dT%H%M%SZ")
    name = f"{record['workload']}_{stamp}_{record['id'][:8]}.json"
    try:
        return write(record, args.json or args.results_dir / name)
    except OSError as error:
        try:
            path = write(record, Path(tempfile.gettempdir()) / name)
        except OSError:
            print(json.dumps(record))
            raise UserError(f"no record could be written ({error.strerror}): it is printed above instead") from None
        print(f"warning: {args.json or args.results_dir}: {error.strerror}: the record went elsewhere", file=sys.stderr)
        return path


def write(record: dict, path: Path) -> Path:
    """Write a record under a name not yet taken: all of it, or, on an error, nothing.

    Raises OSError; FileExistsError where `path` exists.
    """
    path = path.absolute()
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files.write_whole(path, text.encode(), overwrite=False)
    return path


def read(path: Path) -> dict:
    """Read and check a record. Raises RecordError, one line, where it is none, damaged, or of a newer version."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise RecordError(f"{path}: not a record (no JSON, or cut off)") from None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise RecordError(f"{path}: of schema version {version}, newer than this kit's {SCHEMA_VERSION}: update the kit")
    try:
        validate(record)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    return record


def validate(record: Any) -> None:
    """Raise RecordError unless `record` has the form of record.schema.json."""
    import jsonschema_rs

    try:
        _validator().validate(record)
    except jsonschema_rs.ValidationError as error:
        where = ".".join(map(str, error.instance_path)) or "the whole"
        raise RecordError(f"not a record of version {SCHEMA_VERSION}: {where}: {error.message[:200]}") from None


@functools.cache
def _validator():
    import jsonschema_rs

    return jsonschema_rs.validator_for(json.loads(SCHEMA_PATH.read_text()))


def _json(value: Any) -> Any:
    return cli.without_secrets(str(value)) if isinstance(value, (Path, str)) else value
