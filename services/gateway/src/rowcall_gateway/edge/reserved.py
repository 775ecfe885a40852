"""The port that several gateway processes of one command share, kept by their supervisor. Called by `main`.

SO_REUSEPORT lets them all listen on it, and would let in anybody else of the same account who asks for it: another command
by mistake, which would take calls away in silence. So the port is taken as one gateway alone takes it, and only then shared.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rowcall.address import Address, cannot_listen


@contextmanager
def reserved(address: Address) -> Iterator[Address]:
    """Keeps an address for processes that share their port, without listening; yields it with the port that it has.

    Raises:
        OSError: The address is not this machine's, or somebody else's.
    """
    try:
        kept = _reserve(address)
    except OSError as error:
        raise cannot_listen(address) from error
    with kept:
        yield Address(address.host, kept.getsockname()[1])


def _reserve(address: Address) -> socket.socket:
    """On the first of the host's addresses that can be had; gRPC finds the others."""
    refusals = []
    for family, _, _, _, place in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        try:
            with bound(family, place) as alone:
                return kept_for_sharing(alone)
        except OSError as error:
            refusals.append(error)
    raise refusals[0]


def bound(family: int, place: tuple[object, ...]) -> socket.socket:
    """The first half: a socket at an address as every server has it, which several may have that do not listen yet.

    Raises:
        OSError: Somebody listens there, or keeps it for others.
    """
    alone = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of one that has ended are no hindrance.
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(place)
    except BaseException:
        alone.close()
        raise
    return alone


def kept_for_sharing(alone: socket.socket) -> socket.socket:
    """The second half: a socket that keeps the other one's address for who shares it.

    Raises:
        OSError: Another was faster.
    """
    # Without SO_REUSEPORT only one can.
    alone.listen(1)
    alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept = socket.socket(alone.family, socket.SOCK_STREAM)
    try:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(alone.getsockname())
        # From here on only who shares may listen, even while no process of ours does.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        kept.close()
        raise
    return kept
