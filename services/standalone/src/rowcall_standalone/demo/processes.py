"""Gateway and worker as what they are in production: processes of their own, told by environment. Called by `run`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from rowcall_standalone.errors import StandaloneError

_OURS = ("ROWCALL_", "DOCUMENTS_DSN", "OTEL_")
"""Variables that are not passed on: another system's settings have no business in the demo's."""
_STOP_SECONDS = 20.0
_LOG_TAIL_LINES = 15
_GUARDIAN = 'read -r _ || kill -TERM "$1"'
"""Waits at the end of a pipe that only the demo holds: if the demo is killed, its services get their SIGTERM."""


class Service:
    """A running process of the demo. Made by `start`."""

    def __init__(
        self, program: str, log: Path, process: asyncio.subprocess.Process, guardian: asyncio.subprocess.Process
    ) -> None:
        self.program = program
        """The program's name."""
        self.log = log
        """Where its log lines go."""
        self._process = process
        self._guardian = guardian

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self) -> str:
        """The first line of its stdout, which our programs print when they answer.

        Raises StandaloneError when it ends before.
        """
        if self._process.stdout is None:
            raise AssertionError("started with a pipe")
        line = await self._process.stdout.readline()
        if not line:
            raise await self.died()
        return line.decode("utf-8", "replace").strip()

    async def died(self) -> StandaloneError:
        """Wait for its end, which nobody asked for, and say what it said last."""
        code = await self._process.wait()
        lines = (await asyncio.to_thread(self.log.read_text, "utf-8", "replace")).splitlines()[-_LOG_TAIL_LINES:]
        tail = "\n".join(f"    {line}" for line in lines) or "    (empty)"
        return StandaloneError(f"{self.program} ended with exit code {code}. The end of its log, {self.log}:\n{tail}")

    async def stop(self) -> None:
        """End it as an operator would, by SIGTERM. One that does not heed it is killed."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._guardian.stdin is not None:
            self._guardian.stdin.write(b"stopped\n")
            self._guardian.stdin.close()
        await self._guardian.wait()


async def start(program: str, *arguments: str, settings: Mapping[str, str], log: Path) -> Service:
    """Start one of our programs with the settings, and nothing of ours from this process's own environment.

    Raises StandaloneError when it is not installed.
    """
    found = _find(program)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # A session of its own: Ctrl-C in the terminal reaches the demo alone, which ends its services in order.
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            found,
            *arguments,
            env={**environment, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    guardian = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        _GUARDIAN,
        "rowcall-demo-guardian",
        str(process.pid),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    return Service(program, log, process, guardian)


def _find(program: str) -> str:
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.is_file() else shutil.which(program)
    if found is None:
        raise StandaloneError(
            f"The program {program} is not installed beside {sys.executable}: install its distribution."
        )
    return found
