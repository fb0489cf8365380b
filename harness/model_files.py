"""Models on disk: what identifies one, whether it is whole, exporting it whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from harness import cli
from harness.cli import UserError

STAMP = "export.json"
VERSIONS = ("packages", "layout")  # in a stamp: what it was made with, not what it is
OUTCOME = ("files", "results")  # in a stamp: what came out
PARTIAL = ".partial"
MARK = ".export"  # in a temporary folder: an export made it, and locks this file while it runs


def shown(path: Path) -> Path:
    """Relative to the current folder where it lies in there."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except (OSError, ValueError):
        return path


def beside(script: str, name: str) -> Path:
    """The path of a default: beside the script, whatever the current folder."""
    return shown(Path(script).resolve().parent / name)


def where(path: Path, otherwise: str) -> str:
    """What to say of a missing path: that it is beside the script, else `otherwise`."""
    there = Path(sys.argv[0]).resolve().parent / path
    return f"it lies beside the script: {there}" if there.exists() else otherwise


def next_command(script: str, *arguments: str) -> str:
    """The last line of an export: the infer.py command to run next."""
    return f"Next: python3 {shlex.join([str(beside(script, 'infer.py')), *arguments])}"


def why_refused(error: Exception, trust: str = "") -> str:
    """Why torch did not load a .pt with weights_only=True; `trust`: what to do all the same."""
    found = re.search(r"GLOBAL (\S+)", f"{error} {error.__cause__}")
    if not found:
        return "is damaged, or no checkpoint"
    return f"holds {found[1]}, which could run any code{trust}"


def sha256(*paths: Path) -> str:
    """Hash of these files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def check_ir(*xml_paths: Path, hint: str) -> None:
    """Raise UserError, ending in `hint`, unless each .xml is there with its .bin, as exported."""
    for xml in xml_paths:
        if xml.suffix != ".xml":
            raise UserError(f"{xml} is not an OpenVINO model: name its .xml file; {hint}")
        for path in (xml, xml.with_suffix(".bin")):
            if not path.is_file():
                raise UserError(f"no model file {path}: {where(path, hint)}")
            exported = (read_stamp(xml.parent) or {}).get("files", {})
            size = path.stat().st_size
            if size != exported.get(path.name, size):
                was = f"{size} bytes, {exported[path.name]} when it was exported"
                raise UserError(f"{path} is damaged ({was}): {hint}")


def cannot_load(path: Path, error: Exception) -> UserError:
    """What OpenVINO says of a model it does not load, and what to do."""
    why = cli.one_line(error)
    is_property = "propert" in str(error).lower()  # or in a source file that OpenVINO names
    hint = "--ov_config, --threads" if is_property else "export it again: export.py --overwrite"
    return UserError(f"cannot load {path}: {why} ({hint})")


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
        "export": {key: value for key, value in stamp.items() if key != "files"},
    }


def one_line(model: dict) -> str:
    source = f" from {model['source']}" if model["source"] else ""
    size = f"{model['weight_format']} weights, {model['bytes'] / 1e6:.1f} MB"
    return f"{model['name']}{source}: {size}, sha256 {model['sha256'][:12]}"


def stamp(source: str, packages: Sequence[str], **parameters) -> dict:
    """What an exported folder is made from and with; equal stamps mean equal exports."""
    return {
        "source": source,
        **parameters,
        "packages": {name: metadata.version(name) for name in packages},
    }


def read_stamp(folder: Path) -> dict | None:
    """None where there is none. Raises UserError where it is damaged."""
    path = folder / STAMP
    if not path.exists():
        return None
    try:
        there = json.loads(path.read_text() if path.is_file() else "")
        json.dumps(there, allow_nan=False)
        if isinstance(there["source"], str) and isinstance(there.get("files", {}), dict):
            return there
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UserError(f"{path} is damaged: remove the folder, and export the model again")


def is_to_be_made(
    folder: Path, export_stamp: dict, *, is_named: bool, overwrite: bool, is_known: bool = True
) -> bool:
    """Whether an export with this stamp is still to be made; says why where the folder is there.

    is_named : the user named the folder, so no other model in it is replaced without `overwrite`.
    is_known : the stamp has the source's hash; else an equal stamp does not mean an equal source.

    Raises UserError where the folder holds another model, or was not made by an export.
    """
    _check_ours(folder)
    there = read_stamp(folder)
    if there is None:
        return True
    keys = (there.keys() | export_stamp.keys()) - {*VERSIONS, *OUTCOME}
    different = sorted(key for key in keys if there.get(key) != export_stamp.get(key))
    if different:
        holds = _holds(there, different)
        if is_named and not overwrite:
            raise UserError(
                f"{folder} holds {holds}: choose another --output, remove it, or add --overwrite"
            )
        print(f"{folder}: replacing {holds}")
    elif "files" not in there or any(there.get(key) != export_stamp.get(key) for key in VERSIONS):
        print(f"{folder}: exporting again, as it was made by other versions")
    elif not _is_whole(folder, there["files"]):
        print(f"{folder}: exporting again, as its files are damaged")
    elif is_known and not overwrite:
        print(f"{folder}: exported already, with the same weights and packages")
        return False
    return True


def _holds(there: dict, different: Sequence[str]) -> str:
    """A model as its stamp has it, with those of its settings that are `different`."""
    shown_keys = [key for key in different if key != "source" and not key.endswith("sha256")]
    settings = ", ".join(f"{key} {there.get(key)}" for key in shown_keys)
    other = "another " if "source" not in different and not settings else ""
    return f"{other}{there['source']}" + (f" ({settings})" if settings else "")


def _is_whole(folder: Path, sizes: dict[str, int]) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _check_ours(folder: Path) -> None:
    """Raise UserError where there is something that no export made."""
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty and read_stamp(folder) is None:
        raise UserError(
            f"{folder} exists and was not made by export.py: remove it, or choose another --output"
        )


@contextmanager
def exporting(folder: Path, export_stamp: dict) -> Iterator[Path]:
    """A new folder to export into; it takes `folder`'s place, stamped, when the block succeeds.

    Until then it is in a temporary folder beside it, which the next export removes where this one
    is killed. Raises UserError where `folder` exists and was not made by an export.
    """
    _check_ours(folder)
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        with _temporary_folder(folder) as temporary:
            new = temporary / "new"
            new.mkdir()
            yield new
            files = {path.name: path.stat().st_size for path in new.iterdir() if path.is_file()}
            stamped = {**export_stamp, "files": dict(sorted(files.items()))}
            (new / STAMP).write_text(json.dumps(stamped, indent=1) + "\n")
            if folder.exists():
                os.rename(folder, temporary / "old")
            os.rename(new, folder)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder}: {error.strerror or error}"
        ) from None


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, marked and locked, and removed afterwards."""
    made = tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PARTIAL, dir=folder.parent)
    try:
        with open(Path(made, "mark"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(
                lock.name, Path(made, MARK)
            )  # from now on, who finds it unlocked may remove it
            yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of exports that were killed: marked, and locked by none."""
    for mark in parent.glob(f".*{PARTIAL}/{MARK}"):
        try:
            with open(mark) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(mark.parent, ignore_errors=True)
        except OSError:  # another export is at work there
            pass
