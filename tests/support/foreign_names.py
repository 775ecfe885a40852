"""The names that operators know from elsewhere, as docs/metrics.md has them: each with what asks for it here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tests.support.places import ROOT

_SECTION: Final = re.compile(r"^## Names from elsewhere\n(.*?)(?:^## |\Z)", re.DOTALL | re.MULTILINE)
_ROW: Final = re.compile(r"^\| `?([\w ]+?)`? \| (.*) \|$", re.MULTILINE)
_QUERY: Final = re.compile(r"`([^`]*\([^`]*)`")
_HEAD: Final = "elsewhere"


def queries() -> Mapping[str, Sequence[str]]:
    """Of each name the queries of Prometheus that the page has."""
    [section] = _SECTION.findall((ROOT / "docs" / "metrics.md").read_text("utf-8"))
    return {
        name: [query.replace("\\|", "|") for query in _QUERY.findall(said)]
        for name, said in _ROW.findall(section)
        if name != _HEAD
    }
