"""A member as the one that started it sees it: a process, and the other end of its line.

Called by `supervisor`, and by a worker that has another process run its suspects.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, Self
from weakref import WeakSet

from rowcall.processes.member import READY, introduced

_HEARD: Final = 1 << 16
"""Bytes of what a member says that are taken at once."""

_children: Final[WeakSet[Child]] = WeakSet()


def own_command() -> list[str]:
    """The command that executes this program anew, as it was started, with the interpreter's own flags: `python -m …`,
    or the script that an installer made."""
    return [sys.executable, *sys.orig_argv[1:]]


def kill_children() -> None:
    """Ends at once what this process has started; for one that itself ends without delay."""
    for child in list(_children):
        child.kill()


class Child:
    """A process that was started. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, line: socket.socket, *, leads: bool) -> None:
        self._process = process
        self._line = line
        self._leads = leads
        self._ended = asyncio.ensure_future(process.wait())
        self._said = b""
        _children.add(self)

    @classmethod
    async def start(cls, command: Sequence[str], *, number: int, told: str, leads: bool = True) -> Self:
        """Executes the program as that member; what it writes goes where ours goes.

        Args:
            command: The program and its arguments.
            number: Its `Member.number`.
            told: Its `Member.told`.
            leads: It has a session of its own: Ctrl-C in the terminal reaches us alone, who pass it on once. False: it is
                in our group, and ends with that.

        Raises:
            OSError: The system starts no further process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    env=introduced(number, told, theirs),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=leads,
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(0)
        return cls(process, ours, leads=leads)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self) -> bool:
        """Waits until it serves; False if it ends before."""
        hearing = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(self._line, len(READY)))
        try:
            await asyncio.wait({hearing, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            return hearing.done() and hearing.exception() is None and hearing.result() == READY
        finally:
            hearing.cancel()

    async def ended(self) -> int:
        """Waits for its end; its exit code, or less than 0: minus the number of the signal that ended it."""
        code = await asyncio.shield(self._ended)
        _children.discard(self)
        if self._line.fileno() >= 0:
            self._hear()
            asyncio.get_running_loop().remove_reader(self._line)
            self._line.close()
        return code

    def listen(self) -> None:
        """Hears from now on what it tells of itself; once it is ready."""
        asyncio.get_running_loop().add_reader(self._line, self._hear)

    @property
    def said(self) -> str:
        """The last that was heard of what it does; "" if nothing."""
        *lines, _ = self._said.split(b"\n")
        return lines[-1].decode() if lines else ""

    def drain(self) -> None:
        """Lets it end in order."""
        with contextlib.suppress(OSError):  # it has ended
            self._line.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Ends it at once; and with it what it has started, if it leads a session of its own."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._leads:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _hear(self) -> None:
        """Takes what it has said since; of that the last line counts."""
        try:
            while heard := self._line.recv(_HEARD):
                self._said = b"\n".join((self._said + heard).rsplit(b"\n", 2)[-2:])
        except BlockingIOError:
            return
        except OSError:
            pass
        # It hears and says nothing more; its end is waited for elsewhere.
        asyncio.get_running_loop().remove_reader(self._line)
