"""The record: one JSON file per run, the only thing that passes from measuring to analysis.

Its form is record.schema.json. It describes itself: what the work was, what must be equal for a
fair comparison, which metric decides, and in what unit the work is priced. It is written whole or
not at all, and never over another.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from harness import files, record_v1
from harness.cli import UserError
from harness.metrics import METRICS

SCHEMA_VERSION = 2
SCHEMA_PATH = Path(__file__).with_name("record.schema.json")


class RecordError(UserError):
    """A file that is not a record this version can read."""


def write(record: dict, path: Path) -> Path:
    """Write a record under a name not yet taken: all of it, or, on an error, nothing.

    Raises OSError; FileExistsError where `path` exists.
    """
    path = path.absolute()
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files.write_whole(path, text.encode(), overwrite=False)
    return path


def read(path: Path) -> dict:
    """A record, checked; one of version 1 is converted.

    Raises RecordError, one line, where it is none, damaged, or of a newer version.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise RecordError(f"{path}: not a record (no JSON, or cut off)") from None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: of schema version {version}, newer than this kit's {SCHEMA_VERSION}: "
            "update the kit"
        )
    try:
        if version == 1:
            record = record_v1.convert(record)
        validate(record)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise RecordError(f"{path}: not a record of version {version}") from None
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
        message = f"not a record of version {SCHEMA_VERSION}: {where}: {error.message[:200]}"
        raise RecordError(message) from None
    primary = record["primary"]
    if primary is not None and primary not in record["metrics"]:
        raise RecordError(f"not a record: its primary metric {primary} is not among its metrics")


@functools.cache
def _validator():
    import jsonschema_rs

    return jsonschema_rs.validator_for(json.loads(SCHEMA_PATH.read_text()))


def sanitized(record: dict) -> dict:
    return record


def number(value: float, unit: str) -> str:
    """To four digits, as amount() shows it: bytes in GiB, shares in percent."""
    if unit == "bytes":
        return f"{value / 2**30:.2f}"
    value = 100 * value if is_share(unit) else value
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def amount(value: float, unit: str) -> str:
    """A value with its unit: '0.874 s', '1.24 GiB', '97.9 %', '36.1 % of peak'."""
    if is_share(unit):
        return f"{number(value, unit)} %" + (f" {unit}" if unit.startswith("of ") else "")
    return f"{number(value, unit)} {'GiB' if unit == 'bytes' else unit}"


def is_share(unit: str) -> bool:
    return unit == "share" or unit.startswith(("of ", "errors per "))


def describe(metric: dict) -> str:
    """A metric's value and how sure it is: '0.874 s   (median of 10; 95 % CI 0.869–0.881)'."""
    unit = metric["unit"]
    parts = [f"median of {metric['n']}"] if metric["n"] > 1 else []
    if metric["ci95"]:
        parts.append("95 % CI {}–{}".format(*(number(bound, unit) for bound in metric["ci95"])))
    elif metric["n"] > 1:
        parts.append(f"range {number(metric['min'], unit)}–{number(metric['max'], unit)}")
    if "p95" in metric:
        parts.append(f"p95 {number(metric['p95'], unit)}")
    return amount(metric["median"], unit) + (f"   ({'; '.join(parts)})" if parts else "")


def text_lines(record: dict) -> list[str]:
    """A run's summary for the terminal: metrics, the workload's details, warnings."""
    printed = {name: metric for name, metric in record["metrics"].items() if _is_printed(name)}
    lines = [f"{metric['label']}: {describe(metric)}" for metric in printed.values()]
    lines += [*record["details"], ""]
    return lines + [f"warning: {warning}" for warning in record["warnings"]]


def _is_printed(name: str) -> bool:
    return name not in METRICS or METRICS[name].printed
