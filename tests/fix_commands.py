"""Fixtures: the `rowcall` command, in this process, as a process of its own, and kept running as `rowcall dev` is."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rowcall.embedded.binaries import ENVIRONMENT_VARIABLE
from rowcall_cli.main import main

ROWCALL = Path(sys.executable).with_name("rowcall")
READY_SECONDS = 60.0
END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout, read as JSON."""
        return json.loads(self.out)


class Running:
    """A command that runs until it is told to end, such as `rowcall dev`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._err: list[str] = []
        self._err_ended = False
        self._heard = threading.Condition()
        # A pipe that nobody reads fills up and stops the process.
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()

    @property
    def err(self) -> str:
        """What it has said on stderr so far."""
        return "".join(self._err)

    def says(self, part: str) -> str:
        """Wait until a line of its stderr holds this, and return the line; fails if it ends without, or takes too long."""
        with self._heard:
            found = self._heard.wait_for(
                lambda: next((line for line in self._err if part in line), None) or self._err_ended, READY_SECONDS
            )
        assert isinstance(found, str), f"it did not say {part!r}:\n{self.err}"
        return found

    def first_line(self) -> str:
        """The first line of its stdout, once it is there; "" if it ended without one."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        try:
            return self.process.stdout.readline()
        finally:
            watchdog.cancel()

    def address(self) -> str:
        """Where it says that it is ready."""
        line = self.first_line()
        prefix = "rowcall: ready on "
        assert line.startswith(prefix), f"{line!r}\n{self.err}"
        return line.removeprefix(prefix).strip()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for its end; returns its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns its exit code."""
        code = self.process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        return code

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self._err.append(line)
                self._heard.notify_all()
        with self._heard:
            self._err_ended = True
            self._heard.notify_all()


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of ours, and with wide, colourless output. A Postgres that the run
    was told to use stays: `rowcall dev` opens data that the run's own has made."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == ENVIRONMENT_VARIABLE or not name.startswith("ROWCALL_")
    }
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1", **changes}


@pytest.fixture
def rowcall(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs `rowcall ARGUMENTS` in this process, by its entry point: a process of its own takes a second to load."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in os.environ:
                patch.delenv(name)
            for name, value in environment(variables).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["rowcall", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            try:
                code = main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        return Ran(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def rowcall_process() -> Callable[..., Ran]:
    """Runs `rowcall ARGUMENTS` to its end as a process of its own: what `dev` and `demo` need."""

    def run(*arguments: str, cwd: Path | None = None, **variables: str) -> Ran:
        ended = subprocess.run(
            [ROWCALL, *arguments],
            capture_output=True,
            check=False,
            cwd=cwd,
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=100,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    return run


@contextmanager
def commands_running() -> Iterator[Callable[..., Running]]:
    """Starts `rowcall ARGUMENTS` and leaves it running; what still runs at the end is killed."""
    with ExitStack() as stack:

        def start(
            *arguments: str, cwd: Path | None = None, program: Sequence[str | Path] = (ROWCALL,), **variables: str
        ) -> Running:
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=cwd,
                env=environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Running(process)

        yield start


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    """Starts `rowcall ARGUMENTS` and leaves it running; what still runs after the test is killed."""
    with commands_running() as start:
        yield start
