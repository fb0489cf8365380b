"""Run uv as pip is set up on this machine: uv_settings.py COMMAND...

uv doesn't read pip's settings: it is given those that say where packages come from, and it chooses
among all indexes, as pip does. Exit status 1, without running it, where pip has a setting that uv
has no word for: pip is to be used then.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

# pip's settings, and uv's environment variables; lists are separated by spaces unless said.
TAKEN = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",  # by commas
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "no-cache-dir": "UV_NO_CACHE",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "proxy": "ALL_PROXY",
}
OTHER_NAMES = {"default-timeout": "timeout", "pypi-url": "index-url"}
# These say nothing of where packages come from.
PASSED_OVER = {
    "break-system-packages",
    "cache-dir",
    "disable-pip-version-check",
    "no-color",
    "no-compile",
    "no-input",
    "no-warn-script-location",
    "progress-bar",
    "quiet",
    "retries",
    "root-user-action",
    "verbose",
}


def environment(settings: str) -> dict[str, str]:
    """uv's variables for what `pip config list` printed. Raises KeyError on another setting."""
    found: dict[str, dict[str, str]] = {}
    for line in settings.splitlines():
        where, _, value = line.partition("=")
        section, _, name = where.rpartition(".")
        if section in ("global", "install", ":env:"):
            found.setdefault(section, {})[OTHER_NAMES.get(name, name)] = ast.literal_eval(value)
    merged = {}
    for section in ("global", "install", ":env:"):  # the last one counts
        merged.update(found.get(section, {}))
    variables = {}
    for name, value in merged.items():
        if name not in PASSED_OVER:
            words = value.split()
            variables[TAKEN[name]] = ("," if name == "find-links" else " ").join(words)
    return variables


def main() -> int:
    listing = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(listing, capture_output=True, text=True)
    if listed.returncode:
        return 1
    try:
        given = environment(listed.stdout)
    except KeyError as setting:
        print(f"pip's setting {setting} is not known to uv", file=sys.stderr)
        return 1
    os.execvpe(sys.argv[1], sys.argv[1:], {**os.environ, "UV_NO_CONFIG": "1", **given})


if __name__ == "__main__":
    sys.exit(main())
