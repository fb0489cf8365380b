"""The systems under test as sut/*.toml describe them: read, and checked against sut/schema.json."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from harness import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parent.parent / "sut"
SCHEMA = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))


def read(path: Path, text: str | None = None) -> dict:
    """A system's facts, checked: from its file, or from the `text` that it is to hold.

    Raises cli.UserError, one line, where that is damaged or incomplete.
    """
    import jsonschema_rs

    try:
        text = path.read_text(encoding="utf-8") if text is None else text
        system = tomllib.loads(text, parse_float=_finite)
    except OSError as error:
        raise cli.UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise cli.UserError(f"{path}: not TOML: {cli.one_line(error)}") from None
    try:
        as_json = json.loads(json.dumps(system, default=str))  # dates as text
        jsonschema_rs.validate(SCHEMA, as_json, validate_formats=True)
    except jsonschema_rs.ValidationError as error:
        where = "".join(f"{part}." for part in error.instance_path).rstrip(".")
        raise cli.UserError(f"{path}: {where and where + ': '}{error.message[:200]}") from None
    if system["system"]["name"] != path.stem:
        name = system["system"]["name"]
        raise cli.UserError(f"{path}: system.name is {name!r}: name the file after it")
    try:
        str(system).encode("latin-1")
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise cli.UserError(f"{path}: the PDF's fonts have no {character!r}") from None
    return system


def read_all(folder: Path, texts: dict[Path, str] | None = None) -> list[dict]:
    """All systems of a folder, each followed by those it is compared with.

    `texts` are those of files that are not written yet. Raises cli.UserError as read() does, and
    where a system is compared with one that is not there.
    """
    texts = texts or {}
    paths = sorted({*folder.glob("*.toml"), *texts}, key=lambda path: path.name)
    if not paths:
        raise cli.UserError(f"{folder}: no systems: it needs one TOML per system (--sut_dir)")
    systems = {path.stem: read(path, texts.get(path)) for path in paths}
    ordered: dict[str, dict] = {}

    def place(name: str) -> None:
        if name in ordered:
            return
        ordered[name] = systems[name]
        for pair in systems[name]["system"].get("comparable_to", []):
            if pair["name"] not in systems.keys() - {name}:
                path = folder / f"{name}.toml"
                raise cli.UserError(f"{path}: comparable_to {pair['name']!r}: no other system here")
            place(pair["name"])

    for name in systems:
        place(name)
    return list(ordered.values())


def required() -> list[str]:
    """The facts that every TOML needs, as "table.key"."""
    tables = SCHEMA["properties"]
    return [f"{table}.{key}" for table in SCHEMA["required"] for key in tables[table]["required"]]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a quantity")
    return value
