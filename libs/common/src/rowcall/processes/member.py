"""One of several processes of a program, as it sees itself: which one it is, and its line to the one that started it.

Asked for by the `main` of a service before anything else. The line is one end of a pair of sockets, inherited. On it the
member says, once, that it is ready, then perhaps what it does, and hears one thing only, the end of the line: it shall drain. A supervisor that is
killed ends the line too, so it leaves no members behind, on any system and whatever they are doing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Final, Self

_VARIABLE: Final = "_ROWCALL_PROCESS"
"""Not one of the settings, which begin with ROWCALL_: only a supervisor sets it."""

READY: Final = b"ready"
"""What a member says on its line first."""


@dataclass(frozen=True, slots=True)
class Member:
    """This process, started by a supervisor."""

    number: int
    """Which one it is, from 1. Whoever comes in place of one that died has its number. 0: it was started by the only one."""
    told: str
    """What it is to know: a gateway's address, whose suspects it is to run. May be empty."""
    _line: socket.socket

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self | None:
        """The member that this process is; None if it was not started by a supervisor.

        Takes what says so out of the environment: programs that this process starts are no members.
        """
        text = environment.pop(_VARIABLE, None)
        if text is None:
            return None
        found = json.loads(text)
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=found["line"])
        line.set_inheritable(False)
        return cls(found["number"], found["told"], line)

    def ready(self) -> None:
        """Tells the supervisor that this process serves."""
        with contextlib.suppress(OSError):  # it is gone; the end of the line says so too
            self._line.send(READY)

    def tell(self, what: str) -> None:
        """Says in one line what this process does now: whoever started it knows it when this process has died.

        Waits for nobody: what finds no room is not said.
        """
        with contextlib.suppress(OSError):
            self._line.send(f"{what}\n".encode(), socket.MSG_DONTWAIT)

    def on_end(self, ended: Callable[[], None]) -> None:
        """Has `ended` called once, in a thread, when the line ends, which it may have done already."""

        def listen() -> None:
            # Nothing is ever said to a member: what can be read is the end. An event loop may be too busy to hear it.
            with contextlib.suppress(OSError):
                self._line.recv(1)
            ended()

        threading.Thread(target=listen, name="rowcall-member", daemon=True).start()


def introduced(number: int, told: str, line: socket.socket) -> dict[str, str]:
    """The environment that makes a process that inherits this end of its line a member."""
    return {**os.environ, _VARIABLE: json.dumps({"number": number, "told": told, "line": line.fileno()})}
