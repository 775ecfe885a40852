"""Runs the long forms of the tests, one after another (`make test-long`): what `make test` has reduced, whole.

Each is a target of the Makefile and shows its own progress; a table of all at the end; the exit status is 1 if one failed.
"""

import argparse
import functools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

FORMS: Final = {
    "chaos": "what breaks things, with 100,000 calls under hundreds of faults",
    "proofs": "fairness, held snapshots, a day dropped",
    "guards": "each guard taken out, and its tests seen to fail",
    "test-postgres": "Postgres 15, 16 and 18, without hints, through PgBouncer",
}
"""Targets of the Makefile, and what they are about."""

# make writes to the same output: ours must be there before its.
say = functools.partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a form."""

    name: str
    code: int
    """The exit status of make."""
    seconds: float

    @property
    def row(self) -> str:
        """Its line of the table."""
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"  {self.name:<14} {'passed' if self.code == 0 else 'FAILED':<7} {minutes:>4}:{seconds:02}"


def run(name: str) -> Result:
    """Runs one form; its output is shown as it comes."""
    say(f"test-long: {name}: {FORMS[name]}")
    began = time.monotonic()
    # Without the variables of the make that runs this: its ONLY names forms, not what a form would make of it.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    command = ["make", "--no-print-directory", name]
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    return Result(name, code, time.monotonic() - began)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.long_forms", description=__doc__, epilog="Example: make test-long ONLY=chaos,guards"
    )
    parser.add_argument("--only", default=",".join(FORMS), help=f"some of {', '.join(FORMS)}, with commas between")
    names = parser.parse_args(arguments).only.split(",")
    unknown = [name for name in names if name not in FORMS]
    if unknown:
        parser.error(f"there is no form {unknown[0]!r}; the forms are {', '.join(FORMS)}")
    results = [run(name) for name in names]
    say("\ntest-long: minutes:seconds")
    for each in results:
        say(each.row)
    return int(any(each.code for each in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
