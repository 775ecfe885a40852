"""Programs in Go, built by the toolchain that is there from the modules that a go.sum names: neither is ever fetched anew."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

BUILD_SECONDS: Final = 900.0
"""That a build may take where nothing of it is cached."""

VARIABLES: Final[Mapping[str, str]] = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
"""What go is to be told whenever it is run."""


class NoGo(Exception):
    """There is no Go here, or one that is too old; says which, and what to install."""


def find_go(folder: Path) -> str:
    """The program go, of a release that the folder's go.mod takes.

    Raises:
        NoGo: There is none.
    """
    least = re.search(r"^go ([\d.]+)$", (folder / "go.mod").read_text(), re.MULTILINE)
    assert least is not None
    go = shutil.which("go")
    if go is None:
        raise NoGo(f"there is no go on PATH; install Go {least[1]} or later")
    command = [go, "env", "GOVERSION"]
    said = subprocess.run(command, env={**os.environ, **VARIABLES}, capture_output=True, text=True, check=True).stdout
    has = said.strip().removeprefix("go")
    if _numbers(has) < _numbers(least[1]):
        raise NoGo(f"{go} is Go {has}; install Go {least[1]} or later")
    return go


def build(folder: Path, program: Path, package: str = ".") -> None:
    """Builds a program. What was compiled once is in Go's own cache, and is not compiled again.

    Args:
        folder: With the go.mod and go.sum that pin it.
        program: Where to.
        package: Which of the modules' it is.

    Raises:
        NoGo: There is no Go here that the folder's go.mod takes.
    """
    subprocess.run(
        [find_go(folder), "build", "-o", program, package],
        cwd=folder,
        env={**os.environ, **VARIABLES},
        check=True,
        timeout=BUILD_SECONDS,
    )


def _numbers(version: str) -> tuple[int, ...]:
    """Of "1.26.8" or "1.27rc1": what is compared."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
