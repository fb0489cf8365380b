"""A page in headless Chromium: what a script in it finds."""

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from analysis.pages import find_browser

CHROMIUM = find_browser()
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
LIGHT, DARK = "1", "0"  # of Blink's preferredColorScheme

# The page lies in a frame, as a window of Chromium is at least 500 pixels wide.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><title>frame</title>
<iframe id="f" src="page.html" width="{width}" height="{height}" style="border:0"></iframe>
<p id="found"></p><script>
const say = (found) => {{
  document.getElementById("found").textContent = JSON.stringify({{ found }});
}};
document.getElementById("f").onload = async () => {{
  const window = document.getElementById("f").contentWindow;
  try {{
    say(await (async (window, document) => {{ {script} }})(window, window.document));
  }} catch (error) {{
    say(`${{error}} ${{error.stack}}`);
  }}
}};
</script>"""
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def browse(*options: str) -> str:
    command = [CHROMIUM, *QUIET, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def found_in(
    page: str, script: str, folder: Path, width=1280, height=800, theme=LIGHT, more=""
) -> object:
    """What `script`, the body of a function of (window, document), returns for a page.

    `more` is another script that is put into the page, whose own policy would not let it run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if more:
        page = re.sub(r"<meta http-equiv=.*?>", "", page, count=1, flags=re.DOTALL)
        page = page.replace("</body>", f"<script>{more}</script></body>")
    (folder / "page.html").write_text(page)
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, height=height, script=script))
    options = ["--virtual-time-budget=20000", "--allow-file-access-from-files", "--dump-dom"]
    options += [f"--user-data-dir={folder / 'profile'}"]
    options += [f"--blink-settings=preferredColorScheme={theme}", frame.as_uri()]
    text = re.search(r'<p id="found">(.*?)</p>', browse(*options), re.DOTALL)[1]
    return json.loads(html.unescape(text))["found"]
