"""How a command ends: the exit codes, and the error that carries one. Raised by the commands, caught by `main`."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the process's exit status means; the same for every command."""

    OK = 0
    """Done."""
    FAILED = 1
    """Refused, or it failed; the message says why."""
    USAGE = 2
    """The command line or a setting is wrong; nothing was done."""
    UNREACHABLE = 3
    """No gateway, or no database, answers there."""
    UNFINISHED = 4
    """The job goes on: it was not finished within the wait that was asked for; or more jobs match than were done."""
    INTERRUPTED = 130
    """Ended by Ctrl-C, as shells have it: 128 and the number of SIGINT."""


class CommandError(Exception):
    """A command could not do what it was asked to; the message says what was wrong and what to do."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
