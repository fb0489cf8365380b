"""Unpack a machine's records on the control machine: unpack.py ARCHIVE FOLDER

Only plain files and folders are taken, and none outside FOLDER, whatever the archive holds. What is
in FOLDER and not in the archive stays.
"""

import sys
import tarfile
from pathlib import Path


def main() -> None:
    archive, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        members = [each for each in tar if each.isreg() or each.isdir()]
        tar.extractall(folder, members, filter="data")


if __name__ == "__main__":
    main()
