"""Looks for secrets in what is, or would be, committed (`make check`, as "secrets").

Kingfisher knows what keys and tokens of some hundred services look like, and private keys; nobody is asked whether one works. A finding
that is no secret is listed in secrets.toml, by its file and the rule that found it, with the reason.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LIST = ROOT / "tools" / "secrets.toml"
CACHE = ROOT / ".tools" / "kingfisher"
"""Its rules, compiled: 15 s of processor time, once."""
FOUND = (0, 200)
"""Exit codes: nothing was found; something was."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What looks like a secret."""

    file: str
    """From the root."""
    line: int
    rule: str
    """Which rule found it."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What looks like a secret, and is none."""

    file: str
    rule: str
    reason: str


def allowed(path: Path) -> list[Allowed]:
    """What is listed. Raises TypeError or KeyError for an entry that has too much or too little."""
    found = [Allowed(**entry) for entry in tomllib.loads(path.read_text("utf-8")).get("allowed", [])]
    for each in found:
        if not each.reason.strip():
            raise TypeError(f"{each.file}: say a reason")
    return found


def committed(root: Path) -> list[str]:
    """The files that git has, and those that it would take."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True,
    ).stdout  # fmt: skip
    return sorted(name for name in os.fsdecode(names).split("\0") if name and (root / name).is_file())


def findings(root: Path, files: Sequence[str]) -> Iterator[Finding]:
    """What looks like a secret in files. Raises CalledProcessError when it could not be looked for."""
    if not files:
        return
    ended = subprocess.run(
        [BIN / "kingfisher", "scan", "--git-history", "none", "--no-validate", "--no-update-check", "--redact", "--quiet",
         "--no-dedup", "--rule-cache-dir", CACHE, "--format", "json", *files],
        cwd=root, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if ended.returncode not in FOUND:
        raise subprocess.CalledProcessError(ended.returncode, "kingfisher", ended.stdout, ended.stderr)
    for each in json.loads(ended.stdout)["findings"]:
        place = Path(each["finding"]["path"])
        file = place.resolve().relative_to(root.resolve()) if place.is_absolute() else place
        yield Finding(file.as_posix(), int(each["finding"]["line"]), each["rule"]["id"])


def judged(found: Iterable[Finding], listed: Sequence[Allowed]) -> list[str]:
    """One line for each secret, and for each entry of the list that is about nothing any more."""
    lines, used = [], set()
    for each in found:
        entry = next((one for one in listed if (one.file, one.rule) == (each.file, each.rule)), None)
        if entry is None:
            lines.append(f"{each.file}:{each.line}: looks like a secret ({each.rule})")
        else:
            used.add(entry)
    lines += [
        f"tools/secrets.toml allows {one.rule} in {one.file}, where there is none" for one in listed if one not in used
    ]
    return lines


def main() -> int:
    """Prints what is found; returns the exit status."""
    files = committed(ROOT)
    lines = judged(findings(ROOT, files), allowed(LIST))
    for line in lines:
        print(line)
    if lines:
        print(
            "a secret that was committed is known to whoever has the repository: revoke it, then take it out. One that is none "
            "is listed in tools/secrets.toml, with the reason"
        )
    print(f"{len(files)} files were looked through")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
