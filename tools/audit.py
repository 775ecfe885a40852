"""Looks up the locked requirements among the faults that are known (`make check`, as "audit").

pip-audit asks PyPI for what it knows of each version of uv.lock. Where PyPI cannot be asked, that is said loudly and is no failure:
a machine without a network can check everything else. A fault that a newer version mends fails the check, unless it is listed in
audit.toml with the reason why it does not concern us, and until when that is believed. One that nothing mends yet is told.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LIST = ROOT / "tools" / "audit.toml"
SECONDS = 180
"""For all of them. PyPI answers for one in a fraction of a second."""
ANSWER_SECONDS = 10
"""For each connection: what is not answered by then is taken for no network."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is known of a requirement."""

    name: str
    version: str
    ids: frozenset[str]
    """Its names: PYSEC-…, CVE-…, GHSA-…"""
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        mended = f"mended in {', '.join(self.fixed_in)}" if self.fixed_in else "no version mends it yet"
        return f"{self.name} {self.version}: {', '.join(sorted(self.ids))}; {mended}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A fault that does not concern us."""

    id: str
    reason: str
    until: date
    """From the day after on it is a fault like any other."""


def accepted(path: Path) -> list[Accepted]:
    """What is listed. Raises TypeError or KeyError for an entry that has too much or too little."""
    found = [Accepted(**entry) for entry in tomllib.loads(path.read_text("utf-8")).get("accepted", [])]
    for each in found:
        if not each.reason.strip() or not isinstance(each.until, date):
            raise TypeError(f"{each.id}: say a reason, and a date")
    return found


def faults(report: Mapping[str, Any]) -> Iterator[Fault]:
    """The faults in what pip-audit has found (its format "json")."""
    for dependency in report["dependencies"]:
        for fault in dependency.get("vulns", ()):
            yield Fault(
                dependency["name"],
                dependency["version"],
                frozenset({fault["id"], *fault["aliases"]}),
                tuple(fault["fix_versions"]),
            )


def judged(found: Sequence[Fault], listed: Sequence[Accepted], today: date) -> tuple[bool, list[str]]:
    """Whether the check passes, and what it says."""
    passes, lines = True, []
    for fault in found:
        entry = next((each for each in listed if each.id in fault.ids), None)
        if entry is not None and entry.until >= today:
            lines.append(f"known {fault}; until {entry.until}: {entry.reason}")
        elif fault.fixed_in:
            passes = False
            over = "" if entry is None else f"; audit.toml accepted it until {entry.until}"
            lines.append(
                f"FAULT {fault}{over}: raise it (make lock), or list it in tools/audit.toml with a reason and a date"
            )
        else:
            lines.append(f"told  {fault}")
    ids = {name for fault in found for name in fault.ids}
    for each in listed:
        if each.id not in ids:
            passes = False
            lines.append(f"tools/audit.toml lists {each.id}, which no requirement has: take it out")
    return passes, lines


def locked() -> str:
    """All that uv.lock has for us, as a file of requirements."""
    return subprocess.run(
        [ROOT / ".tools/uv/bin/uv", "export", "--frozen", "--all-packages", "--all-groups", "--all-extras",
         "--no-emit-workspace", "--no-hashes", "--no-header", "--no-annotate", "--quiet"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def asked(requirements: str) -> tuple[Mapping[str, Any] | None, str]:
    """What pip-audit has found; None where it could not ask, and the last that it said of that."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "requirements.txt"
        file.write_text(requirements, "utf-8")
        try:
            ended = subprocess.run(
                [BIN / "pip-audit", "--requirement", file, "--no-deps", "--disable-pip", "--format", "json",
                 "--aliases", "on", "--progress-spinner", "off", "--timeout", str(ANSWER_SECONDS)],
                cwd=ROOT, check=False, capture_output=True, text=True, timeout=SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None, f"no answer within {SECONDS} s"
    try:
        report: Mapping[str, Any] = json.loads(ended.stdout)
    except ValueError:
        return None, (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    return report, ""


def main() -> int:
    """Asks, says what is known, returns the exit status."""
    listed = accepted(LIST)
    report, why = asked(locked())
    if report is None:
        print(f"NOT AUDITED: what is known of our requirements could not be looked up: {why}")
        return 0
    passes, lines = judged(list(faults(report)), listed, datetime.now(UTC).date())
    for line in lines:
        print(line)
    print(f"{len(report['dependencies'])} requirements were looked up")
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
