"""What the documents point at is there: files that are linked to, headings in them, and decisions that are named by their number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documents import anchors

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
DECISIONS = {path.name[:4] for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}

_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
_DECISION = re.compile(r"docs/adr/([0-9]{4})")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_links_to_is_there(document: Path) -> None:
    for path, anchor in _LINK.findall(_CODE.sub("", document.read_text())):
        target = document if not path else (document.parent / path).resolve()
        assert target.exists(), path
        if anchor and target.suffix == ".md":
            assert anchor in set(anchors(target)), f"{path}#{anchor}"


def test_a_decision_that_is_named_is_there() -> None:
    named = [
        *DOCUMENTS,
        *(ROOT / "libs").rglob("*.sql"),
        *(ROOT / "libs").rglob("*.py"),
        *(ROOT / "services").rglob("*.py"),
    ]
    for path in named:
        for number in _DECISION.findall(path.read_text()):
            assert number in DECISIONS, f"{path.relative_to(ROOT)}: {number}"


def test_each_decision_is_listed_once_under_its_own_number() -> None:
    listed = re.findall(
        r"^\| \[([0-9]{4})\]\(([0-9]{4})-", (ROOT / "docs" / "adr" / "README.md").read_text(), re.MULTILINE
    )
    assert [number for number, _ in listed] == sorted(DECISIONS)
    for number, file in listed:
        assert number == file
        [path] = (ROOT / "docs" / "adr").glob(f"{number}-*.md")
        assert path.read_text().startswith(f"# {number} ")
