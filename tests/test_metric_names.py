"""Every metric that the documentation names is one that a service has."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def test_the_documentation_names_no_metric_that_is_not_there() -> None:
    code = "".join(path.read_text() for path in (ROOT / "agents").rglob("*.py"))
    made = {f"lucid_{name}" for name in re.findall(r"_(?:counter|gauge)\(\s*\"(\w+)\"", code)}
    made |= set(re.findall(r"\"(lucid_\w+)\"", code))
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"`(lucid_\w+)", page.read_text())
    }
    assert ("reliability.md", "lucid_overtaken_offsets") in named
    for page, name in named:
        plain = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
        assert {name, plain} & made, f"{page} names {name}"
