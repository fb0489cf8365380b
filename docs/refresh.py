"""Renew every block of output in the documentation, by the commands named there, and the example's
report with its picture.

  harness/.venv/bin/python docs/refresh.py            # what reads records: seconds
  harness/.venv/bin/python docs/refresh.py --measure  # also what measures this machine: minutes

A comment `<!-- output: COMMAND -->` (or `measured: COMMAND`) stands above the block that holds what
COMMAND, run in the repository's root, prints.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis import pages

BLOCK = re.compile(
    r"(<!-- (output|measured): (.+?) -->\n```\n).*?(^```$)", re.DOTALL | re.MULTILINE
)
EXAMPLES = ROOT / "examples"
REPORT = Path("examples/report.html")
PRICES = ("--sut_dir", "examples/prices", "--baseline", "edge")  # made up
DEMAND = ("--demand", "users=900,cameras=8", "--share")  # cloud has half of its machine
PICTURE = ROOT / "docs/report.png"


def output(command: str) -> str:
    """What a command prints, with python3 of this environment. Raises CalledProcessError."""
    command = command.replace("harness/.venv/bin/python", sys.executable)
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip("\n") + "\n"


def refreshed(text: str, kinds: tuple[str, ...]) -> str:
    """A page with the blocks of these kinds renewed."""

    def renew(match: re.Match) -> str:
        head, kind, command, end = match.groups()
        return head + output(command) + end if kind in kinds else match[0]

    return BLOCK.sub(renew, text)


def make_example() -> None:
    """The example's report, and a picture of its first screen."""
    records = sorted(EXAMPLES.glob("*/*.json"))
    sides = sorted({path.parent.relative_to(ROOT).as_posix() for path in records})
    is_sized = any("-capacity_" in path.name for path in records)
    options = [*PRICES, *(DEMAND if is_sized else ()), "--html", REPORT, "--overwrite"]
    compare = ["harness/.venv/bin/python", "-m", "analysis.compare", *sides, *map(str, options)]
    output(shlex.join(compare))
    browser = pages.find_browser()
    if not browser:
        sys.exit("error: the picture takes a browser: sudo apt install chromium")
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--hide-scrollbars"),
            *("--window-size=1000,760", f"--screenshot={PICTURE}", (ROOT / REPORT).as_uri()),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="also run what measures")
    kinds = ("output", "measured") if parser.parse_args().measure else ("output",)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page.write_text(refreshed(page.read_text(), kinds))
    make_example()


if __name__ == "__main__":
    main()
