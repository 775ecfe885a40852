"""The address `rowcall dev` listens on: a loopback one, and free. Called by `commands` and `dev`."""

from __future__ import annotations

import socket

from rowcall.address import Address, is_loopback
from rowcall.ops.settings import parse_ops_address
from rowcall_gateway.edge.identity import IdentityMode, check_address
from rowcall_standalone.errors import StandaloneError


def parse(text: str) -> Address:
    """Read HOST:PORT.

    Raises ValueError when it is none, or when others than this machine could reach it: the tenant is whatever the caller
    says, so whoever reaches the port is everybody.
    """
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise ValueError(f"{text!r} {error}") from error
    try:
        check_address(IdentityMode.INSECURE_DEV, address.host)
    except ValueError:
        raise ValueError(
            f"{address.host} is not a loopback address. This system believes every caller the tenant it names, so only "
            f"this machine may reach it: listen on 127.0.0.1:{address.port}, and reach it from elsewhere through a tunnel "
            f"(ssh -L {address.port}:127.0.0.1:{address.port} …)"
        ) from None
    return address


def parse_ops(text: str) -> Address:
    """Read [HOST:]PORT, of a loopback address: nothing of this system is for others.

    Raises ValueError when it is none.
    """
    try:
        address = parse_ops_address(text)
    except ValueError as error:
        raise ValueError(f"{text!r} {error}") from error
    if not is_loopback(address.host):
        raise ValueError(f"{address.host} is not a loopback address; a port alone is one of 127.0.0.1")
    return address


def refuse_taken(address: Address) -> None:
    """Look whether the port is free, before anything else is started.

    Raises StandaloneError when it is not.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT is no hindrance
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            raise StandaloneError(
                f"Cannot listen on {address}: {error.strerror}. Stop the process that has the port, or choose another with "
                "--listen."
            ) from error
