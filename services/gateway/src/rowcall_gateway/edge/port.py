"""The gateway's ports: with TLS or without, and who may have one without. Called by the server, and by the settings' checks."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from rowcall.address import Address, cannot_listen, is_loopback
from rowcall_gateway.edge.identity import IdentityMode

_NAPS: Final = 10
_NAP_SECONDS: Final = 0.05

_kept: Final[list[grpc.ServerCredentials]] = []
"""What ports were opened with, for as long as the process lives: gRPC's core asks them by a pointer of its own, as long as it has a
connection that came before the port was closed."""


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
        """What new connections get: the same object until there is another; called from whichever thread, and never fails."""


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


class _Exchange:
    """Gives gRPC a certificate when there is another, and only then.

    gRPC asks at each handshake, one thread after the other. As soon as it is given something it frees what it had, the same thing
    included, and does not look whether a thread that asked just before is about to begin its handshake with it
    (https://github.com/grpc/grpc/issues/36693): the process dies. Given anew at each handshake, it died within a thousand of them;
    given when it changed, within some hundred exchanges under load.
    """

    def __init__(self, certificate: Certified) -> None:
        self._certificate = certificate
        self.given = certificate.configuration()

    def next(self) -> grpc.ServerCertificateConfiguration | None:
        """What to take from now on; None: what there is stays."""
        current = self._certificate.configuration()
        if current is self.given:
            return None
        # Who asks meanwhile waits for this answer; who asked before needs microseconds for what could be freed. In naps, as a process
        # that is stopped or throttled lets one pass at most without having run.
        for _ in range(_NAPS):
            time.sleep(_NAP_SECONDS)
        self.given = current
        return current


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
        exchange = _Exchange(certificate)
        fetch: Any = exchange.next  # Its stubs do not know that None is an answer.
        credentials = grpc.dynamic_ssl_server_credentials(exchange.given, fetch, certificate.asks_callers)
        _kept.append(credentials)
        return server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise cannot_listen(address) from error
