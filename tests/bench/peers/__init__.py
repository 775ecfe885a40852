"""Other queues, each in an environment of its own that is made below build/bench and pinned by a lock file beside its driver.

A driver is a program with the actions prepare, fill, drain, starts and stream; it runs in a process of its own, times itself,
counts its rows, and prints a JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.figures import BUILD
from tests.bench.stage import count
from tests.support.golang import VARIABLES, NoGo, find_go
from tests.support.places import ROOT

HERE: Final = Path(__file__).parent
PATIENCE: Final = 900.0
"""Seconds that a driver may take: with the most jobs, the slowest takes some three minutes."""


class NotHad(Exception):
    """A queue cannot be installed here; says why, and what to do."""


class NoToolchain(NotHad):
    """What a queue is built with is not on this machine, and Rowcall does without it: left out, and told, but no failure."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another queue."""

    name: str
    command: Callable[[], Sequence[str]]
    """How its driver is run, in its environment."""
    install: Callable[[], str]
    """Makes the environment; returns the queue's version. Raises NotHad."""

    async def prepare(self, dsn: str) -> None:
        """Makes its schema where it is not there."""
        await self._drive("prepare", dsn)

    async def fill(self, dsn: str, jobs: int) -> float:
        """Enqueues jobs that do nothing, with 200 bytes each, in bulk, eight batches at a time; seconds.

        Raises NotCounted if there are not as many rows more.
        """
        found = await self._drive("fill", dsn, jobs)
        count(f"{self.name}: rows in", jobs, found["rows"])
        return float(found["seconds"])

    async def drain(self, dsn: str, jobs: int) -> float:
        """Does all of them in one worker process; seconds from the first job's start until every row says done."""
        found: float = (await self._drive("drain", dsn, jobs))["seconds"]
        return found

    async def starts(self, dsn: str, jobs: int) -> list[float]:
        """Milliseconds from just before a job is enqueued to its first line in an idle worker process, one by one."""
        found: list[float] = (await self._drive("starts", dsn, jobs))["milliseconds"]
        return found

    async def stream(self, dsn: str, seconds: float) -> float:
        """Enqueues in bulk beside one worker, for so long, whenever few jobs wait; jobs a second, until all rows say done.

        Raises NotCounted if jobs enqueued, run and done are not the same number.
        """
        found = await self._drive("stream", dsn, round(seconds))
        count(f"{self.name}: jobs run", found["enqueued"], found["done"])
        count(f"{self.name}: jobs that are not done", 0, found["left"])
        return float(found["done"] / found["seconds"])

    async def _drive(self, action: str, dsn: str, amount: int = 0) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *self.command(),
            action,
            dsn,
            str(amount),
            cwd=_home(self.name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # With what it starts itself, to be ended with it.
            start_new_session=True,
        )
        try:
            out, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
        except TimeoutError:
            raise RuntimeError(f"{self.name}, {action}: was not done after {PATIENCE:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise RuntimeError(f"{self.name}, {action}: ended with {process.returncode}: {errors.decode()[-2000:]}")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


def _home(name: str) -> Path:
    """Where a peer's environment is made."""
    return BUILD / "bench" / name


def _npm(name: str, package: str, folder: str) -> Peer:
    home = _home(name)

    def install() -> str:
        npm = shutil.which("npm")
        if npm is None:
            raise NotHad("there is no npm on PATH; install Node.js 20 or later")
        _copy(folder, home, "package.json", "package-lock.json")
        _run([npm, "ci", "--no-audit", "--no-fund"], home)
        version: str = json.loads((home / "node_modules" / package / "package.json").read_text())["version"]
        return version

    return Peer(name, lambda: ["node", str(HERE / folder / "drive.mjs")], install)


def _go(name: str, folder: str, module: str) -> Peer:
    home = _home(name)

    def install() -> str:
        try:
            go = find_go(HERE / folder)
        except NoGo as error:
            raise NoToolchain(str(error)) from error
        _copy(folder, home, "go.mod", "go.sum", "drive.go")
        _run([go, "build", "-o", "drive", "."], home, **VARIABLES)
        return _run([go, "list", "-m", "-f", "{{.Version}}", module], home, **VARIABLES).strip().removeprefix("v")

    return Peer(name, lambda: [str(home / "drive")], install)


def _uv(name: str, folder: str, distribution: str = "") -> Peer:
    home = _home(name)

    def install() -> str:
        own = ROOT / ".tools/uv/bin/uv"
        uv = str(own) if own.exists() else shutil.which("uv")
        if uv is None:
            raise NotHad("there is no uv: run make setup")
        _copy(folder, home, "pyproject.toml", "uv.lock")
        _run([uv, "sync", "--quiet", "--frozen"], home)
        code = f"import importlib.metadata; print(importlib.metadata.version({distribution or name!r}))"
        return _run([str(home / ".venv/bin/python"), "-c", code], home).strip()

    return Peer(name, lambda: [str(home / ".venv/bin/python"), str(HERE / folder / "drive.py")], install)


def _copy(folder: str, home: Path, *names: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    for each in names:
        shutil.copyfile(HERE / folder / each, home / each)


def _run(command: Sequence[str], folder: Path, **variables: str) -> str:
    # The workspace's own environment must not be taken for the peer's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_PROJECT", "VIRTUAL"))}
    environment.update(variables)
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NotHad(f"{' '.join(command[:3])} in {folder} failed: {(ran.stderr or ran.stdout).strip()[-500:]}")
    return ran.stdout


PEERS: Final = (
    _npm("graphile-worker", "graphile-worker", "graphile_worker"),
    _uv("pgqueuer", "pgqueuer"),
    _uv("procrastinate", "procrastinate"),
    _uv("awa", "awa", "awa-pg"),
    _go("river", "river", "github.com/riverqueue/river"),
)
