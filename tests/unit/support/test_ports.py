"""tests/support/ports.py: a port that is free stays so, until whoever asked for it listens."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import ports


def test_it_is_none_of_those_that_outgoing_connections_are_given() -> None:
    lowest, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert ports.free_port(3) + 3 <= int(lowest)


def test_none_behind_it_is_taken_either(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.free_port(2)
    offered = [port]

    def choice(of: range) -> int:
        return offered.pop() if offered else secrets.choice(of)

    monkeypatch.setattr(ports, "secrets", SimpleNamespace(choice=choice))
    with socket.create_server(("127.0.0.1", port + 1)):
        assert ports.free_port(2) not in (port, port + 1)
    assert offered == []
