"""Holds docs/security.md to the tests that it names (`make check`, as "security").

Each control, a bullet under "## Threats and controls", names the tests that fail without it, as `tests/…/test_x.py::test_name`.
A name that is not there is a control that nobody holds any more: a test that was renamed takes its row along.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/security.md"
SECTION = "Threats and controls"

_TEST = re.compile(r"`((?:tests|examples)/[\w/.-]+?\.py)(?:::(\w+))?`")
_BULLET = re.compile(r"^- (.*(?:\n {2,}.*)*)", re.MULTILINE)


@cache
def tests_in(path: Path) -> frozenset[str]:
    """The functions of a file that pytest would take for tests."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return frozenset(
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def section(text: str, name: str) -> str:
    """What stands under a heading of the second level; "" where there is none."""
    found = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else found[1]


def faults(root: Path) -> Iterator[str]:
    """One line for each name that is not there, and for each control without a test."""
    page = root / PAGE
    if not page.is_file():
        yield f"{PAGE}: is not there"
        return
    text = page.read_text("utf-8")
    for file, name in _TEST.findall(text):
        path = root / file
        if not path.is_file():
            yield f"{PAGE}: {file} is not there"
        elif not name:
            yield f"{PAGE}: {file} is named without a test of it: {file}::test_…"
        elif name not in tests_in(path):
            yield f"{PAGE}: {file} has no {name}"
    controls = _BULLET.findall(section(text, SECTION))
    if not controls:
        yield f'{PAGE}: has no controls under "## {SECTION}"'
    for control in controls:
        if not _TEST.search(control):
            yield f"{PAGE}: no test is named for this control: {' '.join(control.split())[:80]}"


def main() -> int:
    """Prints what is not kept; returns the exit status."""
    found = list(faults(ROOT))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
