"""TLS before a Postgres that has none, as a proxy of a cloud provider has it, or somebody who is not meant to be there.

The Postgres of the tests is built without TLS. What a service's side of it must do, its libpq does against this as against a server
that has its own: the server's certificate is checked, a client's is shown, and what comes out at the other end is a real Postgres.
A server's own TLS is in `tls_postgres`, for machines that have such a one.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg.conninfo import make_conninfo

from tests.support.pki import Authority, Issued
from tests.support.proxy import address_of

_SSL, _GSS = 80877103, 80877104
"""Where a version would stand in a connection's first message."""
_CHUNK = 65536
_LOOK_EVERY = 0.2
"""Seconds after which a connection's thread looks whether all is over."""
_END_SECONDS = 10.0


class TlsFront:
    """Listens on 127.0.0.1, agrees on TLS as Postgres does, and passes the rest on. A thread for each connection."""

    def __init__(self, dsn: str, directory: Path, shown: Issued | None, *, clients: Authority | None = None) -> None:
        """
        Args:
            dsn: Leads to the server.
            directory: For the files that Python's TLS wants.
            shown: The certificate it shows; None: it says that it speaks no TLS.
            clients: Who must have signed a client's certificate; None: none is asked for.
        """
        self.agreed = 0
        """Connections that TLS was agreed on for, with whatever certificate was asked for."""
        self.plain = 0
        """Connections that went on without TLS."""
        self.subjects: list[str] = []
        """The common names of the clients' certificates, one a connection that showed one."""
        self._target = address_of(dsn)
        self._directory = directory
        self._clients = clients
        self._context = None if shown is None else self._made(shown)
        self._over = threading.Event()
        self._visits: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, name="TLS front", daemon=True)

    def before(self, dsn: str, **parameters: str) -> str:
        """A connection string that leads to the server, changed to lead here, to the host "localhost"."""
        return make_conninfo(dsn, host="localhost", hostaddr="127.0.0.1", port=self._port, **parameters)

    def exchange(self, shown: Issued) -> None:
        """Shows another certificate to who connects from now on."""
        self._context = self._made(shown)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in (self._thread, *self._visits):
            thread.join(_END_SECONDS)
        self._listener.close()

    def _made(self, shown: Issued) -> ssl.SSLContext:
        file = self._directory / "shown.pem"
        file.write_bytes(shown.cert_pem + shown.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        if self._clients is not None:
            context.load_verify_locations(cadata=self._clients.pem.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _listen(self) -> None:
        while not self._over.is_set():
            if select.select([self._listener], [], [], _LOOK_EVERY)[0]:
                client, _ = self._listener.accept()
                visit = threading.Thread(target=self._visit, args=(client,), daemon=True)
                self._visits.append(visit)
                visit.start()

    def _visit(self, client: socket.socket) -> None:
        # A client that does not like what it is shown just goes; one that is not liked is told so by OpenSSL.
        with ExitStack() as stack, suppress(OSError):
            stack.callback(client.close)
            client.settimeout(_END_SECONDS)
            first, agreed = _whole(client, 8), False
            while struct.unpack("!II", first)[1] in (_SSL, _GSS):
                agrees = struct.unpack("!II", first)[1] == _SSL and self._context is not None
                client.sendall(b"S" if agrees else b"N")
                if agrees and self._context is not None:
                    client = self._context.wrap_socket(client, server_side=True)
                    stack.callback(client.close)
                    agreed = True
                    self._note(client)
                first = _whole(client, 8)
            self.plain += not agreed
            back = stack.enter_context(socket.create_connection(self._target, _END_SECONDS))
            back.sendall(first)
            self._pass(client, back)

    def _pass(self, client: socket.socket, back: socket.socket) -> None:
        while not self._over.is_set():
            waiting = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if waiting else select.select([client, back], [], [], _LOOK_EVERY)[0]
            for source in ready:
                data = source.recv(_CHUNK)
                if not data:
                    return
                (back if source is client else client).sendall(data)

    def _note(self, client: ssl.SSLSocket) -> None:
        self.agreed += 1
        shown: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = client.getpeercert() or {}  # type: ignore[assignment]
        self.subjects += [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]


def _whole(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise ConnectionError("it has gone")
        data += more
    return data
