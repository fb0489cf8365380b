"""Models on disk: what identifies one, and exporting it whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from harness.cli import UserError

STAMP = "export.json"


def shown(path: Path) -> Path:
    """Relative to the current folder where it lies in there."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except (OSError, ValueError):
        return path


def beside(script: str, name: str) -> Path:
    """The path of a default: beside the script, whatever the current folder."""
    return shown(Path(script).resolve().parent / name)


def sha256(*paths: Path) -> str:
    """Hash of these files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def check_ir(*xml_paths: Path, hint: str) -> None:
    """Raise UserError, ending in `hint`, unless each .xml is there with its .bin beside it."""
    for xml in xml_paths:
        if xml.suffix != ".xml":
            raise UserError(f"{xml} is not an OpenVINO model: name its .xml file; {hint}")
        for path in (xml, xml.with_suffix(".bin")):
            if not path.is_file():
                raise UserError(f"no model file {path}: {hint}")


def describe(name: str, folder: Path, xml_paths: Sequence[Path], weight_format: str) -> dict:
    """The record's model. sha256 is of the weights (.bin): names in the .xml vary by export."""
    weights = [xml.with_suffix(".bin") for xml in xml_paths]
    stamp = read_stamp(folder) or {}
    return {
        "name": name,
        "source": stamp.get("source"),
        "weight_format": weight_format,
        "bytes": sum(path.stat().st_size for path in weights),
        "sha256": sha256(*weights),
        "files": [str(path.name) for path in xml_paths],
        "export": stamp,
    }


def one_line(model: dict) -> str:
    source = f" from {model['source']}" if model["source"] else ""
    size = f"{model['weight_format']} weights, {model['bytes'] / 1e6:.1f} MB"
    return f"{model['name']}{source}: {size}, sha256 {model['sha256'][:12]}"


def stamp(source: str, packages: Sequence[str], **parameters) -> dict:
    """What an exported folder was made from and with; equal stamps mean equal exports."""
    return {
        "source": source,
        **parameters,
        "packages": {name: metadata.version(name) for name in packages},
    }


def read_stamp(folder: Path) -> dict | None:
    try:
        return json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return None


def exported_already(folder: Path, export_stamp: dict) -> bool:
    """Whether `folder` holds what an export with this stamp would make; says so where it does."""
    there = read_stamp(folder)
    if there is None or {**there, **export_stamp} != there:  # it may tell more: what came out
        return False
    print(f"{folder}: exported already, with the same weights and packages")
    return True


@contextmanager
def exporting(folder: Path, export_stamp: dict) -> Iterator[Path]:
    """A new folder to export into; it takes `folder`'s place, stamped, when the block succeeds.

    Raises UserError where `folder` exists and was not made by an export.
    """
    if (
        folder.exists()
        and read_stamp(folder) is None
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise UserError(
            f"{folder} exists and was not made by export.py: remove it, or choose another --output"
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        (partial / STAMP).write_text(json.dumps(export_stamp, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder}: {error.strerror or error}"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
