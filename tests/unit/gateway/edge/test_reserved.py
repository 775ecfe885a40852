"""The port that several gateways share: kept while none of them listens, for nobody else, and given back."""

from __future__ import annotations

import socket

import pytest

from rowcall.address import Address
from rowcall_gateway.edge.reserved import bound, kept_for_sharing, reserved

ANY = Address("127.0.0.1", 0)


def listening(address: Address, *, shared: bool) -> socket.socket:
    """As gRPC listens."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        server.bind((address.host, address.port))
        server.listen()
    except OSError:
        server.close()
        raise
    return server


def test_it_is_for_those_that_share_it_and_no_others() -> None:
    with reserved(ANY) as address:
        assert address.port
        # Before any of ours listens.
        with pytest.raises(OSError, match="in use"), listening(address, shared=False):
            pass
        with pytest.raises(OSError, match="cannot listen on"), reserved(address):
            pass
        with listening(address, shared=True), listening(address, shared=True):
            with pytest.raises(OSError, match="in use"), listening(address, shared=False):
                pass
            with pytest.raises(OSError, match="cannot listen on"), reserved(address):
                pass
    listening(address, shared=False).close()


@pytest.mark.parametrize("shared", [True, False])
def test_it_is_refused_while_anybody_listens(*, shared: bool) -> None:
    with listening(ANY, shared=shared) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on .*:{port}:"), reserved(Address("127.0.0.1", port)):
            pass


def test_of_two_that_come_at_the_same_time_one_has_it() -> None:
    with (
        bound(socket.AF_INET, ("127.0.0.1", 0)) as first,
        bound(socket.AF_INET, first.getsockname()) as second,
        kept_for_sharing(first),
        pytest.raises(OSError, match="in use"),
        kept_for_sharing(second),
    ):
        pass


def test_connections_of_one_that_has_ended_are_no_hindrance() -> None:
    with listening(ANY, shared=False) as server:
        address = Address(*server.getsockname())
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            accepted.close()  # first: what is left of the connection, for a minute, is on the server's port
            assert client.recv(1) == b""
    with reserved(address) as kept:
        assert kept == address


def test_it_keeps_no_connections_from_those_that_listen() -> None:
    with reserved(ANY) as address, listening(address, shared=True) as server:
        for _ in range(20):
            with socket.create_connection((address.host, address.port), timeout=5):
                accepted, _ = server.accept()
                accepted.close()


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_an_address_that_is_not_this_machines_is_refused(host: str) -> None:
    with pytest.raises(OSError, match="cannot listen on"), reserved(Address(host, 0)):
        pass
