"""The names of attributes, and the page that tells people of them."""

from __future__ import annotations

import re
from pathlib import Path

from rowcall.telemetry import conventions

PAGE = Path(__file__).parents[3] / "docs" / "tracing.md"
NAMES = {name: value for name, value in vars(conventions).items() if name.isupper()}


def test_the_page_has_every_attribute_and_no_other() -> None:
    section = PAGE.read_text().split("## Attributes\n", 1)[1].split("\n## ", 1)[0]
    listed = [
        name for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    ]
    assert sorted(listed) == sorted(NAMES.values())


def test_each_is_named_once() -> None:
    assert len(set(NAMES.values())) == len(NAMES)
