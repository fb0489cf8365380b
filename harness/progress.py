"""What a person sees while something takes long: a line on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from tqdm import tqdm

tqdm.monitor_interval = 0  # its thread would wake up while the program measures
LAST_LINES = 15  # of what was hidden, shown when it fails


def bar(label: str, total: float | None = None, unit: str = "it") -> tqdm:
    """A progress bar on stderr, gone when it is closed."""
    return tqdm(desc=label, total=total, unit=unit, leave=False, disable=None, dynamic_ncols=True)


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Show `label ...` while the block runs."""
    with tqdm(desc=f"{label} ...", bar_format="{desc}", leave=False, disable=None):
        yield


@contextlib.contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Hide what libraries print and warn of in the block; its last lines are shown if it fails."""
    if verbose:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    own = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        try:
            os.dup2(hidden.fileno(), 1)
            os.dup2(hidden.fileno(), 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                sys.stdout.flush()
                hidden.seek(0)
                lines = hidden.read().splitlines(keepends=True)
                os.write(own[1], b"".join(lines[-LAST_LINES:]))
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for saved, stream in zip(own, (1, 2)):
                os.dup2(saved, stream)
                os.close(saved)
