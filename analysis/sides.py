"""Sides of a comparison: the folders of the records, and in one folder their machines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import UserError

if TYPE_CHECKING:
    from analysis.records import Run


def name_sides(
    runs: Sequence[Run], pool: bool = False, given: Mapping[str, str] | None = None
) -> None:
    """Set every run's side: its folder where there are several, and its machine where there is one
    folder, or several machines in a folder. `pool`: all of a folder is one side. `given` are other
    names, by that of the folder; folders of one name are one side.

    A machine is what its one-line description says: two of the same kind are taken together.
    Raises UserError where `given` names another folder.
    """
    if not runs:
        return
    folders: dict[Path, list[Run]] = defaultdict(list)
    for run in runs:
        folders[run.path.resolve().parent].append(run)
    named = _folder_names(folders)
    if unknown := sorted(set(given or ()) - set(named.values())):
        raise UserError(f"--side {unknown[0]}: the folders are {', '.join(sorted(named.values()))}")
    is_one = len(folders) == 1
    names = {
        folder: (given or {}).get(name, "" if is_one else name) for folder, name in named.items()
    }
    for folder, inside in folders.items():
        machines: dict[str, list[Run]] = defaultdict(list)
        for run in inside:
            machines[str(run.context.get("machine"))].append(run)
        kinds = [each[0].machine for each in machines.values()]
        for described, each in machines.items():
            name = each[0].machine if kinds.count(each[0].machine) == 1 else described
            parts = [names[folder], name if not names[folder] or len(kinds) > 1 else ""]
            if pool:
                parts = [names[folder] or folder.name]
            for run in each:
                run.side = ": ".join(filter(None, parts))


def _folder_names(folders: Iterable[Path]) -> dict[Path, str]:
    """Each folder's name, or the part of its path nearest to it that no other has; else its path
    from where the paths part."""
    parts = {folder: folder.parts[::-1] for folder in folders}
    for depth in range(min(map(len, parts.values()))):
        names = {folder: each[depth] for folder, each in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    shared = 0
    while len({folder.parts[: shared + 1] for folder in parts}) == 1:
        shared += 1
    return {folder: "/".join(folder.parts[shared:]) or folder.name for folder in parts}
