"""How large the tests that inject faults are, and what their dice are: read here, and nowhere else.

`make test` runs them in the quick form. ROWCALL_CHAOS=long, which `make chaos` sets, makes it the long one. Each run
prints its seed; ROWCALL_SEED repeats one.
"""

from __future__ import annotations

import os
import secrets
import sys
from typing import Final, TypeVar

T = TypeVar("T")

LONG: Final = os.environ.get("ROWCALL_CHAOS", "") == "long"
"""Whether tests run in their long form."""


def scaled(quick: T, long: T) -> T:
    """The one of two sizes that this run has."""
    return long if LONG else quick


def seed(name: str) -> int:
    """The seed of a test's random choices: ROWCALL_SEED, else a new one. Printed, and kept by pytest if the test fails.

    Args:
        name: Of the test, for the line that is printed.
    """
    given = os.environ.get("ROWCALL_SEED", "")
    chosen = int(given) if given else secrets.randbelow(1 << 32)
    tell(f"{name}: seed {chosen} (repeat with ROWCALL_SEED={chosen})")
    return chosen


def tell(line: str) -> None:
    """Prints a line of a test's report: its seed, how many faults it injected. Shown by `pytest -s`, and on failure."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
