"""Ports of 127.0.0.1 that nobody has, for whoever must know its port before it listens, or comes back to it after a while."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack
from typing import Final

_PORTS: Final = range(15000, 32000)
"""Below those that Linux and macOS give to outgoing connections: of these, one that was free is anybody's a moment later."""


def free_port(count: int = 1) -> int:
    """A port that nobody listens on, nor on the `count - 1` behind it."""
    while True:
        port = secrets.choice(_PORTS)
        with ExitStack() as stack:
            try:
                for each in range(port, port + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", each)))
            except OSError:
                continue
            return port
