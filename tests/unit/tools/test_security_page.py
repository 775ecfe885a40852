"""tools/security_page.py: a control without a test, and a test that is not there, are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.security_page import PAGE, ROOT, faults

TEST = "tests/unit/test_x.py"
PAGE_OF_ONE = f"""\
# Security

## Threats and controls

### Somebody comes

- **They are asked.** By name and
  by number. `{TEST}::test_they_are`

## Left to others

- Doors.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / TEST).parent.mkdir(parents=True)
    (tmp_path / TEST).write_text("async def test_they_are() -> None: ...\ndef helper() -> None: ...\n")
    (tmp_path / PAGE).parent.mkdir()
    (tmp_path / PAGE).write_text(PAGE_OF_ONE)
    return tmp_path


def change(root: Path, old: str, new: str) -> list[str]:
    """What is told when the page says something else."""
    assert old in PAGE_OF_ONE
    (root / PAGE).write_text(PAGE_OF_ONE.replace(old, new))
    return list(faults(root))


def test_a_page_whose_tests_are_there_is_kept(root: Path) -> None:
    assert list(faults(root)) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("::test_they_are", "::test_they_were", f"{PAGE}: {TEST} has no test_they_were"),
        ("::test_they_are", "::helper", f"{PAGE}: {TEST} has no helper"),
        (TEST, "tests/unit/test_y.py", f"{PAGE}: tests/unit/test_y.py is not there"),
        ("::test_they_are", "", f"{PAGE}: {TEST} is named without a test of it: {TEST}::test_…"),
        (
            f" `{TEST}::test_they_are`",
            "",
            f"{PAGE}: no test is named for this control: **They are asked.** By name and by number.",
        ),
        ("## Threats and controls", "## Threats", f'{PAGE}: has no controls under "## Threats and controls"'),
    ],
)
def test_what_is_not_kept_is_told(root: Path, old: str, new: str, told: str) -> None:
    assert told in change(root, old, new)


def test_a_page_that_is_gone_is_told(root: Path) -> None:
    (root / PAGE).unlink()
    assert list(faults(root)) == [f"{PAGE}: is not there"]


def test_ours_is_kept() -> None:
    assert list(faults(ROOT)) == []
