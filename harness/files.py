"""Files: read as text, written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from harness.cli import UserError

# In the metadata of the videos and pictures that the kit makes, uncompressed.
MARK = "written by the Edge v/s Cloud Performance Testing kit"
MARK_WITHIN = 1 << 16  # bytes of a file's beginning or end
MAX_TEXT_BYTES = 16 << 20


def read_text(path: Path, option: str) -> str:
    """A UTF-8 file that the user named with `option`. Raises UserError where it can't be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or device may never end
            raise UserError(f"{path} is not a regular file ({option})")
        if status.st_size > MAX_TEXT_BYTES:
            size, most = status.st_size / 2**20, MAX_TEXT_BYTES >> 20
            raise UserError(f"{path} has {size:.0f} MiB; at most {most} MiB are read ({option})")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror} ({option})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file ({option})") from None


def check_new(path: Path, option: str, overwrite: bool = False) -> None:
    """Raise UserError, before anything is measured, where `path` exists or can't be written.

    `option` is the one that names it. With `overwrite` a regular file may be replaced.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file ({option})")
    if path.exists() and path.is_file() and not overwrite:
        raise UserError(f"{option} {path} exists: choose another name, or add --overwrite")
    folder = path.absolute().parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror} ({option})") from None


def output_path(given: Path | None, default: str, option: str, overwrite: bool) -> Path:
    """Where to write: to `given`, which must not exist, else to `default` in the current folder.

    As nobody named the default, it may replace a file that has the kit's MARK. Raises UserError as
    check_new() does.
    """
    path = given or Path(default)
    check_new(path, option, overwrite or (given is None and has_mark(path)))
    return path


def has_mark(path: Path) -> bool:
    """Whether it is a regular file that the kit made."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            beginning = file.read(MARK_WITHIN)
            file.seek(max(0, path.stat().st_size - MARK_WITHIN))
            return MARK.encode() in beginning or MARK.encode() in file.read()
    except OSError:
        return False


def write_whole(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Write all of it, or, on an error, nothing.

    Raises OSError; FileExistsError where `path` exists and may not be overwritten.
    """
    if overwrite:
        if path.exists() and not path.is_file():  # a pipe or device: nothing may take its place
            path.write_bytes(content)
            return
        path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        (os.replace if overwrite else os.link)(
            temporary, path
        )  # unlike a rename, a link refuses to replace
    finally:
        Path(temporary).unlink(missing_ok=True)
