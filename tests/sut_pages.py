"""SUT.pdf's pages, and whether all that a TOML holds is on one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pypdf import PdfReader

if sys.version_info >= (3, 11):
    import tomllib as tomllib
else:
    pass


def pages(pdf: Path) -> dict[str, str]:
    """Each page's text, spaces made one, by what its footer names."""
    texts: dict[str, str] = {}
    for page in PdfReader(pdf).pages:
        text = " ".join(page.extract_text().split())
        name = match[1] if (match := re.search(r"(\S+)\.toml \d+ / \d+$", text)) else "comparison"
        texts[name] = texts.get(name, "") + text
    return texts


def assert_all_on_its_page(system: dict, page: str) -> None:
    for fact in leaves(system):
        found = [
            re.search(rf"(?<![\w.,]){re.escape(text)}(?![\w]|[.,]\d)", page)
            for text in spellings(fact)
        ]
        assert any(found), f"{fact} is not on the page of {system['system']['name']}"


def leaves(value: object) -> list:
    """Every value of a TOML that is not a table or a list."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def spellings(value: object) -> set[str]:
    """How a page may show a value."""
    if not isinstance(value, (int, float)):
        return {str(value)}
    return {f"{value}", f"{value:,.2f}", f"{value / 1024:g} TB"}
