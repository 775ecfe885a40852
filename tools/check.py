"""Runs the checks of the source, each under its name, all of them even if one fails (`make check`).

Every check is a command with its own output; nothing here judges the source itself. The rules are in
pyproject.toml, buf.yaml and .squawk.toml; the checks that no tool has are the modules beside this one.
"""

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
OUR_PROTOS = ("protos/rowcall", "examples/documents/protos/documents")
MEMBERS = (
    "libs/common",
    "libs/cli",
    "services/gateway",
    "services/worker",
    "services/standalone",
    "examples/documents",
)

# The first line of a migration that the runner applies outside a transaction; the others get one each.
NO_TRANSACTION = "-- rowcall: no-transaction"

# The commands write to the same output: ours must be there before theirs.
say = functools.partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    """What --only and `make check-NAME` call it."""
    about: str
    """What it makes sure of, in a line."""
    run: Callable[[], bool]
    """Runs it; true if the source passes."""


def passes(*command: str | Path, folder: str = ".") -> bool:
    """Runs one command in a folder of the repository; its output is shown as it is."""
    return subprocess.run(command, cwd=ROOT / folder, check=False).returncode == 0


def all_pass(results: Iterable[bool]) -> bool:
    """True if every one passes; unlike all(), the rest runs after a failure."""
    return False not in list(results)


def present(pattern: str) -> list[str]:
    """The files that match, from the root; says so and returns nothing when none does."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
    if not found:
        say(f"no file matches {pattern}")
    return found


def proto_paths() -> list[str]:
    """Buf's --path arguments for the protos that are ours."""
    return [argument for path in OUR_PROTOS if (ROOT / path).is_dir() for argument in ("--path", path)]


def breaking() -> bool:
    """Compares the protos with those of the last release."""
    tags = subprocess.run(
        ["git", "tag", "--list", "v[0-9]*", "--merged", "HEAD", "--sort=-version:refname"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    if not tags:
        say("no release is tagged yet: there is nothing to break")
        return True
    say(f"against {tags[0]}")
    return passes(BIN / "buf", "breaking", "--against", f".git#tag={tags[0]}", *proto_paths())


def dependencies() -> bool:
    """Holds what is required against what is used: of each distribution, and of the workspace's groups."""
    distributions = all_pass(passes(BIN / "deptry", "--no-ansi", "src", folder=member) for member in MEMBERS)
    return all_pass((distributions, passes(sys.executable, "tools/unused_dependencies.py")))


def migrations() -> bool:
    """Lints the migrations for what locks or loses; the rules and the reasons for exceptions are in .squawk.toml."""
    files = present("libs/common/src/rowcall/migrations/**/*.sql")
    alone = [file for file in files if (ROOT / file).read_text("utf-8").startswith(NO_TRANSACTION)]
    together = [file for file in files if file not in alone]
    squawk = (BIN / "squawk", "--config", ".squawk.toml")
    return bool(files) and all_pass(
        passes(*squawk, *options, *group)
        for options, group in ((("--assume-in-transaction",), together), ((), alone))
        if group
    )


def dockerfiles() -> bool:
    """Lints the services' Dockerfiles."""
    files = [*present("services/*/Dockerfile"), *present("libs/*/Dockerfile")]
    return bool(files) and passes(BIN / "hadolint", *files)


def compose() -> bool:
    """Holds docker-compose.yml against the Compose specification's schema."""
    files = present("docker-compose.yml")
    return bool(files) and passes(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)


CHECKS = (
    Check(
        "lock", "uv.lock matches the manifests", lambda: passes(ROOT / ".tools/uv/bin/uv", "lock", "--check", "--quiet")
    ),
    Check("ruff", "the Python linter", lambda: passes(BIN / "ruff", "check", "--quiet")),
    Check("format", "the Python formatter", lambda: passes(BIN / "ruff", "format", "--check", "--quiet")),
    Check("mypy", "types, strictly", lambda: passes(BIN / "mypy", "--no-error-summary")),
    Check("imports", "which package may import which", lambda: passes(BIN / "lint-imports")),
    Check(
        "dependencies",
        "each distribution declares what it imports, and no more; every requirement of the workspace's groups is used",
        dependencies,
    ),
    Check(
        "rooms",
        "each room says what is in it, and little lies loose",
        lambda: passes(sys.executable, "tools/rooms.py"),
    ),
    Check(
        "sql",
        "only rowcall.queue.postgres, .sharding and .migrations hold SQL; the conformance suite knows no implementation",
        lambda: passes(sys.executable, "tools/sql_places.py"),
    ),
    Check("proto-lint", "buf's STANDARD rules", lambda: passes(BIN / "buf", "lint")),
    Check(
        "proto-format",
        "buf's format",
        lambda: passes(BIN / "buf", "format", "--diff", "--exit-code", *proto_paths()),
    ),
    Check("proto-breaking", "wire and JSON stay compatible with the last release", breaking),
    Check(
        "generated",
        "the checked-in Python is what the protos say",
        lambda: passes(sys.executable, "tools/generate.py", "--check"),
    ),
    Check(
        "dashboards",
        "the checked-in dashboards are what deploy/grafana/dashboards.toml says",
        lambda: passes(sys.executable, "-m", "tools.dashboards", "--check"),
    ),
    Check(
        "log-schema",
        "docs/log-line.schema.json has the fields that log lines may have, and is a schema",
        lambda: all_pass(
            (
                passes(sys.executable, "-m", "tools.log_schema", "--check"),
                passes(BIN / "check-jsonschema", "--check-metaschema", "docs/log-line.schema.json"),
            )
        ),
    ),
    Check("migrations", "the migrations neither lock nor lose", migrations),
    Check("dockerfiles", "the services' Dockerfiles", dockerfiles),
    Check("compose", "docker-compose.yml is valid Compose", compose),
    Check(
        "security",
        "every control of docs/security.md names a test that is there",
        lambda: passes(sys.executable, "tools/security_page.py"),
    ),
    Check(
        "secrets",
        "nothing that would be committed looks like a key, a token or a password of a service",
        lambda: passes(sys.executable, "tools/secret_scan.py"),
    ),
    Check(
        "audit",
        "no requirement has a known fault that a newer version mends, where PyPI can be asked",
        lambda: passes(sys.executable, "tools/audit.py"),
    ),
)


def run(checks: Sequence[Check]) -> list[str]:
    """Runs the checks in turn and returns the names of those that failed."""
    failed: list[str] = []
    for check in checks:
        say(f"== {check.name}: {check.about}")
        started = time.monotonic()
        try:
            passed = check.run()
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"{check.name} could not be run: {error}")
            passed = False
        say(f"   {'passed' if passed else 'FAILED'} in {time.monotonic() - started:.1f} s")
        if not passed:
            failed.append(check.name)
    return failed


def main() -> int:
    """Parses the arguments, runs the chosen checks, sums up; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/check.py",
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="Example: python tools/check.py --only ruff --only mypy",
    )
    parser.add_argument("--only", metavar="NAME", action="append", choices=[c.name for c in CHECKS], help="repeatable")
    parser.add_argument("--list", action="store_true", help="name the checks and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for check in CHECKS:
            say(f"{check.name:16}{check.about}")
        return 0
    chosen = [check for check in CHECKS if not arguments.only or check.name in arguments.only]
    failed = run(chosen)
    say()
    if failed:
        say(f"check: FAILED: {', '.join(failed)} ({len(chosen) - len(failed)} of {len(chosen)} passed)")
        return 1
    say(f"check: all {len(chosen)} passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
