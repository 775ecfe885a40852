"""Every program of ours that is not installed as a command tells how it is used, with an example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
PROGRAMS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for folder in ("tools", "tests/bench")
    for path in (ROOT / folder).rglob("*.py")
    if ".venv" not in path.parts and "ArgumentParser(" in path.read_text()
)


def test_they_are_found() -> None:
    assert {"tests.bench", "tools.check", "tools.guards", "tools.postgres_suite"} <= set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_has_an_example(program: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Example: " in ran.stdout
