"""Takes each guard out in turn, and shows that the tests named for it notice (`make guards`).

A guard is a condition, a lock, an order that nothing would miss on an ordinary day. guards.toml lists them: the text,
what to put in its place, and the tests that must fail then. Everything happens in copies of the checkout, which itself is
never touched. The exit status is 1 if a guard was missed by one of its tests, or its text is no longer there.
"""

import argparse
import functools
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tools" / "guards.toml"
SOURCES = (
    "libs/common/src",
    "libs/cli/src",
    "services/gateway/src",
    "services/worker/src",
    "services/standalone/src",
    "examples/documents/src",
)
TEST_SECONDS = 90
"""For one test; without its guard one may wait for what never comes."""

say = functools.partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard."""

    name: str
    """What the table and --only call it."""
    file: str
    """Where it is, from the root."""
    take: tuple[str, ...]
    """Its text, exactly; each somewhere in the file, once. Several where one of them alone would do."""
    put: tuple[str, ...]
    """What is there without it, in the same order."""
    tests: tuple[str, ...]
    """Each of these fails without it: paths of tests, of parametrised ones without their parameters."""


class Unusable(Exception):
    """A guard cannot be tried as it is listed."""


def listed(path: Path) -> list[Guard]:
    """The guards of the list. Raises TypeError or KeyError for an entry that has too much or too little."""
    guards = [
        Guard(
            **{
                **entry,
                "take": _several(entry["take"]),
                "put": _several(entry.get("put", "")),
                "tests": tuple(entry["tests"]),
            }
        )
        for entry in tomllib.loads(path.read_text())["guard"]
    ]
    names = [guard.name for guard in guards]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SystemExit(f"guards: listed twice: {', '.join(sorted(twice))}")
    return guards


def _several(text: str | list[str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the checkout as it is, with what is not committed yet."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    with tempfile.TemporaryDirectory(prefix="rowcall-guards-") as directory:
        copy = Path(directory)
        for name in filter(None, os.fsdecode(names).split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        yield copy


def run(copy: Path, tests: Sequence[str]) -> Mapping[str, str]:
    """Runs tests in a copy: "passed", "failed" or "broken" for each, the worst of a parametrised one's cases."""
    report = copy / "guards-report.xml"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(copy / source) for source in SOURCES),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}",
         f"--junitxml={report}", *tests],
        cwd=copy, env=environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if not report.exists():
        return dict.fromkeys(tests, "broken")
    cases: dict[str, set[str]] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        path = case.get("classname", "").replace(".", "/") + ".py"
        found = cases.setdefault(f"{path}::{case.get('name', '')}", set())
        for kind, end in (("error", "broken"), ("failure", "failed"), ("skipped", "broken")):
            if case.find(kind) is not None:
                found.add(end)
    ends: dict[str, set[str]] = {test: set() for test in tests}
    for name, found in cases.items():
        # What has failed may leave something behind that breaks its end too.
        end = "failed" if "failed" in found else "broken" if found else "passed"
        ends.setdefault(name.partition("[")[0], set()).add(end)
    order = ("broken", "failed", "passed")
    return {test: next((end for end in order if end in ends[test]), "broken") for test in tests}


def tried(copy: Path, guard: Guard) -> Mapping[str, str]:
    """What its tests come to without it. Raises Unusable."""
    file = copy / guard.file
    if not file.is_file():
        raise Unusable(f"there is no {guard.file}")
    text = without = file.read_text()
    for take, put in zip(guard.take, guard.put, strict=True):
        if text.count(take) != 1:
            raise Unusable(f"its text is in {guard.file} {text.count(take)} times, not once: {take.strip()!r}")
        without = without.replace(take, put)
    file.write_text(without)
    try:
        return run(copy, guard.tests)
    finally:
        file.write_text(text)


def shown(guard: Guard, ends: Mapping[str, str] | Unusable) -> bool:
    """Prints what became of a guard, a line for each of its tests; whether it is noticed by all of them."""
    if isinstance(ends, Unusable):
        say(f"{'UNUSABLE':10}{guard.name}: {ends}")
        return False
    for test, end in ends.items():
        word = {"failed": "noticed", "passed": "MISSED", "broken": "BROKEN"}[end]
        say(f"{word:10}{guard.name:58}{test.rpartition('::')[2]}")
    return set(ends.values()) == {"failed"}


def main() -> int:
    """Takes out those that were asked for; 1 if one is not noticed."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.guards",
        description=__doc__,
        epilog='Example: python -m tools.guards --only "lease" --jobs 2',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", metavar="TEXT", help="only guards whose name has this in it")
    parser.add_argument(
        "--after", metavar="NAME", help="only those that are listed behind this one: to go on with a run that was ended"
    )
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="how many at a time")
    parser.add_argument("--list", action="store_true", help="name the guards and end")
    arguments = parser.parse_args()
    every = listed(LIST)
    names = [guard.name for guard in every]
    if arguments.after is not None and arguments.after not in names:
        parser.error(f"there is no guard {arguments.after!r}; --list names them")
    begin = 0 if arguments.after is None else names.index(arguments.after) + 1
    guards = [
        guard for guard in every[begin:] if not arguments.only or any(each in guard.name for each in arguments.only)
    ]
    if arguments.list or not guards:
        say("\n".join(guard.name for guard in guards) or "guards: no guard has such a name")
        return 0 if guards else 1
    began = time.monotonic()
    with ExitStack() as stack:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for _ in range(arguments.jobs):
            copies.put(stack.enter_context(copied()))

        def attempt(guard: Guard) -> Mapping[str, str] | Unusable:
            copy = copies.get()
            try:
                return tried(copy, guard)
            except Unusable as error:
                return error
            finally:
                copies.put(copy)

        whole = copies.get()
        # With all guards in place its tests pass, or their failing would show nothing.
        tests = sorted({test for guard in guards for test in guard.tests})
        say(f"first the {len(tests)} tests with every guard in its place; then the {len(guards)} guards, one by one")
        before = run(whole, tests)
        say(f"done after {(time.monotonic() - began) / 60:.1f} minutes")
        copies.put(whole)
        for test, end in before.items():
            if end != "passed":
                say(f"{'BROKEN':10}{'with every guard in its place':58}{test}")
        with ThreadPoolExecutor(arguments.jobs) as pool:
            ends = pool.map(attempt, guards)
            noticed = [shown(guard, each) for guard, each in zip(guards, ends, strict=True)]
    minutes = (time.monotonic() - began) / 60
    say(f"\n{noticed.count(True)} of {len(guards)} guards are noticed when they are taken out; {minutes:.1f} minutes")
    return 0 if all(noticed) and set(before.values()) == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
