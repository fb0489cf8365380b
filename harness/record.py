"""The record: one JSON file per run, the only thing that passes from measuring to analysis.

Its form is record.schema.json. It describes itself: what the work was, what must be equal for a
fair comparison, which metric decides, and in what unit the work is priced. It is written whole or
not at all, and never over another.
"""

from __future__ import annotations

import functools
import json
import math
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness import files, record_v1, stats
from harness.cli import UserError
from harness.metrics import METRICS, Metric

SCHEMA_VERSION = 2
SCHEMA_PATH = Path(__file__).with_name("record.schema.json")
MAX_BYTES = 256 * 2**20  # of a file that is read
MAX_DEPTH = 100  # of what a workload adds
# Rounding puts the KL divergence of two equal models a little below 0.
NEVER_NEGATIVE = {metric.unit for metric in METRICS.values()} - {"nats/token"}


class RecordError(UserError):
    """A file that is not a record this version can read."""


def write(record: dict, path: Path) -> Path:
    """Write a record under a name not yet taken: all of it, or, on an error, nothing.

    Raises OSError; FileExistsError where `path` exists.
    """
    path = path.absolute()
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Bytes of a file's name that are not UTF-8 reach Python as surrogates: shown as \\udcff.
    text = re.sub("[\ud800-\udfff]", lambda found: f"\\\\u{ord(found[0]):04x}", text)
    files.write_whole(path, text.encode(), overwrite=False)
    return path


def sanitized(record: dict) -> dict:
    """A copy that write() takes whatever was measured, so that no run is lost for its content.

    Numbers that no measurement can give (NaN, infinite, a negative counter or time) become null,
    their metrics are summarized from the other samples, and a warning names them. Text becomes
    UTF-8, and what JSON does not have (a path, a number of numpy) text or a number. A record that
    does not validate even so is marked as invalid, with the reason.
    """
    found: list[str] = []
    quiet: list[str] = []  # what is said of metrics and samples is said of the metric
    record = {
        key: _jsonable(
            value,
            (key,),
            (quiet if key in ("metrics", "samples") else found).append,
            _is_counter if key == "usage" else math.isfinite,
        )
        for key, value in record.items()
    }
    try:
        found += _sanitize_metrics(record)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        found.append(f"metrics and samples do not belong together: {error}")
    found = list(dict.fromkeys(found))
    record["warnings"] = [*(record.get("warnings") or []), *found]
    try:
        validate({**record, "validity": {"valid": False, "reasons": []}})
    except RecordError as error:
        found.append(str(error))
    if found or not isinstance(record.get("validity"), dict):
        reasons = (record.get("validity") or {}).get("reasons", [])
        record["validity"] = {"valid": False, "reasons": [*reasons, *found]}
    return record


def _jsonable(
    value: Any,
    place: tuple[str, ...],
    warn: Callable[[str], None],
    is_possible: Callable[[float], bool],
) -> Any:
    """A copy of only what JSON has; numbers that are not possible as None."""
    if len(place) > MAX_DEPTH:
        return f"<{type(value).__name__}>"
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        try:
            possible = is_possible(value)
        except OverflowError:  # an integer larger than any float
            possible, value = False, "too large"
        if not possible:
            warn(f"{'.'.join(place)}: {value} is no possible value: null in the record")
        return value if possible else None
    if isinstance(value, dict):
        named = {_text(key): each for key, each in value.items()}
        return {k: _jsonable(v, (*place, k), warn, is_possible) for k, v in named.items()}
    if isinstance(value, list) and all(type(v) is float and is_possible(v) for v in value):
        return value.copy()  # the samples of an iteration, of which there may be many
    if isinstance(value, (list, tuple, set, frozenset)):
        return [
            _jsonable(each, (*place, str(index)), warn, is_possible)
            for index, each in enumerate(value)
        ]
    return _text(value)


def _text(value: Any) -> str:
    return str(value).encode(errors="backslashreplace").decode()


def _is_counter(value: float) -> bool:
    return 0 <= value <= stats.LARGEST


def _sanitize_metrics(record: dict) -> list[str]:
    """Summarize anew what has impossible samples, as the rest has it; one warning each."""
    found = []
    metrics, samples = record["metrics"], record["samples"]
    for name, iterations in samples.items():
        metric = metrics.get(name)
        samples[name] = [[v if _is_possible(v, metric) else None for v in i] for i in iterations]
        rest = stats.usable(samples[name])
        total, left = (sum(map(len, each)) for each in (iterations, rest))
        if left < total:
            found.append(f"{name}: {total - left} of {total} samples are no possible values: null")
        if metric and not rest:
            del metrics[name]
        elif metric and (left < total or not all(_is_possible(v, metric) for v in _values(metric))):
            about = (metric[key] for key in ("unit", "better", "label", "definition"))
            metrics[name] = stats.summarize(Metric(name, *about), rest)
    record["work"] = [each for each in record["work"] if each["metric"] in metrics]
    return found


def _is_possible(value: float | None, metric: dict | None) -> bool:
    """Whether a metric can have this value: no time, rate or count that is good or bad is < 0."""
    if value is None or not stats.is_number(value):
        return False
    return value >= 0 or not (metric and metric["better"] and metric["unit"] in NEVER_NEGATIVE)


def _values(metric: dict) -> Iterable[float | None]:
    """Its summary's values in its unit."""
    yield from (metric[name] for name in ("median", "mean", "min", "max"))
    yield from metric["ci95"] or ()
    yield from (metric[name] for name in stats.PERCENTILES if name in metric)


def read(path: Path) -> dict:
    """A record, checked; one of version 1 is converted.

    Raises RecordError, one line, where it is none, damaged, or of a newer version.
    """
    try:
        record = json.loads(_content(Path(path)), parse_constant=_no_number)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
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
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise RecordError(f"{path}: not a record of version {version}") from None
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    return record


def _content(path: Path) -> str:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait, and /dev/zero has no end
        raise RecordError(f"{path}: not a regular file")
    if status.st_size > MAX_BYTES:
        raise RecordError(f"{path}: {status.st_size / 2**20:,.0f} MiB are too large for a record")
    with path.open("rb") as file:
        return file.read(MAX_BYTES).decode()


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def validate(record: Any) -> None:
    """Raise RecordError unless `record` is what record.schema.json describes, its primary metric
    is among its metrics, and no time, rate or count in it is negative."""
    import jsonschema_rs

    try:
        _validator().validate(record)
    except jsonschema_rs.ValidationError as error:
        where = ".".join(map(str, error.instance_path))[:200] or "the whole"
        message = f"not a record of version {SCHEMA_VERSION}: {where}: {error.message[:200]}"
        raise RecordError(message) from None
    primary = record["primary"]
    if primary is not None and primary not in record["metrics"]:
        raise RecordError(f"not a record: its primary metric {primary} is not among its metrics")
    for name, metric in record["metrics"].items():
        raw = (value for each in record["samples"].get(name, ()) for value in each)
        for value in (*_values(metric), *(v for v in raw if v is not None)):
            if not _is_possible(value, metric):
                raise RecordError(f"{name}: {value:g} {metric['unit']} is no possible value")


@functools.cache
def _validator():
    import jsonschema_rs

    return jsonschema_rs.validator_for(json.loads(SCHEMA_PATH.read_text()))


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
