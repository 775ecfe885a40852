"""Stops the server when its owner vanishes without stopping it: killed, or crashed.

A shell of a few hundred kilobytes waits at the end of a pipe whose other end only the owner holds. The kernel closes the
pipe with the owner, however that ends. Called by `server`.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass

from rowcall.embedded.account import Account

_SCRIPT = 'read -r _ || kill -s INT "$1"'
"""A line means the server was stopped; the end of the pipe without one means the owner is gone. SIGINT is Postgres's
fast shutdown."""


@dataclass(frozen=True, slots=True)
class Guardian:
    """Watches over one server."""

    _process: subprocess.Popen[bytes]

    def release(self) -> None:
        """End the watch: the server has stopped. May be called again."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):  # the guardian was killed
                pipe.write(b"stopped\n")
                pipe.flush()
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()


def watch(server_pid: int, account: Account) -> Guardian:
    """Start a guardian for the server with this process id, under the account that may signal it."""
    command = ["/bin/sh", "-c", _SCRIPT, "rowcall-postgres-guardian", str(server_pid)]
    return Guardian(account.spawn(command, stdin=subprocess.PIPE))
