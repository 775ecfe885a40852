"""The gateway's ports: with TLS or without, and who may have one without. Called by the server, and by the settings' checks."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio

from rowcall_gateway.edge.address import Address, cannot_listen, is_loopback
from rowcall_gateway.edge.identity import IdentityMode


class Plaintext(enum.StrEnum):
    """Where a port without TLS may be, in modes in which callers send tokens."""

    LOOPBACK = "loopback"
    """On a loopback address."""
    BEHIND_PROXY = "behind-proxy"
    """Anywhere: a proxy in front of it ends TLS, and nobody else reaches it."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where what TLS is spoken with is. PEM each."""

    cert: Path
    """The gateway's certificate, and behind it whatever leads from it to who is trusted."""
    key: Path
    """Its key."""
    client_ca: Path | None
    """Who may have signed callers' certificates, which are then asked for; None: they are not."""


class Certified(Protocol):
    """What TLS is spoken with: `rowcall_gateway.edge.tls`."""

    @property
    def asks_callers(self) -> bool:
        """Whether callers must have certificates too."""

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """What new connections get; called from whichever thread, and never fails."""


def check_plaintext(identity: IdentityMode, plaintext: Plaintext, host: str) -> None:
    """Refuses to take tokens over a network on which others could read them.

    Args:
        identity: How callers are known.
        plaintext: What was said of a port without TLS.
        host: Where such a port is to be.

    Raises:
        ValueError: With what to do about it, to be read after the setting's name.
    """
    if identity.takes_tokens and plaintext is Plaintext.LOOPBACK and not is_loopback(host):
        raise ValueError(
            f"is {plaintext.value}, and ROWCALL_LISTEN names {host!r}: without TLS everybody on the way could read callers' tokens, and call "
            f"with them. Set ROWCALL_TLS_CERT and ROWCALL_TLS_KEY; or ROWCALL_PLAINTEXT={Plaintext.BEHIND_PROXY.value}, where a proxy "
            "in front ends TLS and nobody else reaches the port"
        )


def open_port(server: grpc.aio.Server, address: Address, certificate: Certified | None) -> int:
    """Has a server listen; returns the port that it has.

    Args:
        server: Not started yet.
        address: Where.
        certificate: What TLS is spoken with, exchanged under way; None: none is spoken.

    Raises:
        OSError: The address cannot be listened on.
    """
    try:
        if certificate is None:
            return server.add_insecure_port(str(address))
        # gRPC asks at each handshake, and takes what it gets for that one.
        credentials = grpc.dynamic_ssl_server_credentials(
            certificate.configuration(), certificate.configuration, certificate.asks_callers
        )
        return server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise cannot_listen(address) from error
