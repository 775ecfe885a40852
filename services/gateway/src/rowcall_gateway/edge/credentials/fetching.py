"""Where keys come from: an https URL or a file, read within bounds of size and time, without holding up the event loop.

Called by `sources`. The URL is asked by the standard library in a thread of its own: a request in minutes needs no client with
pools, and a client that is asynchronous would not know of this loop's deadline what a closed socket knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

from rowcall.apart import in_thread

MAX_BYTES: Final = 256 * 1024
"""A set of keys is some kilobytes; more is something else."""

FETCH_SECONDS: Final = 5.0
"""For all of a fetch, however its bytes trickle."""

_CHUNK: Final = 16 * 1024


class Place(Protocol):
    """Where an issuer's keys are."""

    async def read(self) -> bytes:
        """What is there.

        Raises:
            OSError: It cannot be had, and why; nothing of what was answered.
        """


class KeyFile:
    """A file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def read(self) -> bytes:
        """See Place.read."""
        return await in_thread(_read_file, self._file)


class KeyUrl:
    """A URL, through the proxy that the environment names, if it does."""

    def __init__(self, url: str, *, ca: Path | None = None, seconds: float = FETCH_SECONDS) -> None:
        """
        Args:
            url: http or https.
            ca: What signs the server's certificate, beside or instead of what the system knows: a PEM file.
            seconds: For all of a fetch.
        """
        self._url = urlsplit(url)
        self._ca = ca
        self._seconds = seconds
        self._abandoned: threading.Thread | None = None

    async def read(self) -> bytes:
        """See Place.read."""
        if self._abandoned is not None and self._abandoned.is_alive():
            raise TimeoutError("the last attempt has not ended yet")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[bytes] = loop.create_future()
        request = _Request(self._url, self._ca, self._seconds)

        def run() -> None:
            try:
                data = request.run()
            except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                told = _told(error)
                _tell(loop, ended, lambda: ended.set_exception(told))
            else:
                _tell(loop, ended, lambda: ended.set_result(data))

        # Not the loop's executor: it has few threads, others wait for them, and the process would wait for them at its end.
        thread = threading.Thread(target=run, name="fetching keys", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._seconds):
                return await ended
        except TimeoutError as error:
            raise TimeoutError(f"no whole answer within {self._seconds:g} s") from error
        finally:
            request.cut()
            self._abandoned = thread


class _Request:
    """One request, in its thread."""

    def __init__(self, url: SplitResult, ca: Path | None, seconds: float) -> None:
        self._url = url
        self._ca = ca
        self._seconds = seconds
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None

    def run(self) -> bytes:
        """The answer's body. Raises OSError."""
        connection = self._connection = self._connect()
        try:
            connection.connect()
            # An answer that ends with its connection takes the socket over from it.
            self._socket = connection.sock
            path = self._url.path or "/"
            query = f"?{self._url.query}" if self._url.query else ""
            connection.request(
                "GET",
                path + query,
                headers={"Accept": "application/jwk-set+json, application/json", "User-Agent": "rowcall-gateway"},
            )
            with connection.getresponse() as response:
                if 300 <= response.status < 400:
                    raise OSError(f"answered {response.status}, and redirects are not followed: name where it leads to")
                if response.status != 200:
                    raise OSError(f"answered {response.status}")
                if (response.length or 0) > MAX_BYTES:
                    raise OSError(f"the answer has {response.length} bytes; {MAX_BYTES} are read")
                return _read_all(response)
        finally:
            connection.close()

    def cut(self) -> None:
        """Ends it from outside, wherever it is; a thread that is at the socket comes back at once."""
        connection = self._connection
        sock = self._socket or (None if connection is None else connection.sock)
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        secure = self._url.scheme == "https"
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(self._url.scheme)
        if proxy is None:
            return self._connection_to(host, port, secure=secure)
        through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        connection = self._connection_to(through.hostname or "", through.port, secure=secure)
        connection.set_tunnel(host, port or (443 if secure else 80))
        return connection

    def _connection_to(self, host: str, port: int | None, *, secure: bool) -> http.client.HTTPConnection:
        if not secure:
            return http.client.HTTPConnection(host, port, timeout=self._seconds)
        trust = ssl.create_default_context(cafile=None if self._ca is None else str(self._ca))
        trust.minimum_version = ssl.TLSVersion.TLSv1_2
        return http.client.HTTPSConnection(host, port, timeout=self._seconds, context=trust)


def _read_all(response: http.client.HTTPResponse) -> bytes:
    parts, size = [], 0
    while part := response.read1(_CHUNK):
        size += len(part)
        if size > MAX_BYTES:
            raise OSError(f"the answer has more than {MAX_BYTES} bytes")
        parts.append(part)
    if response.length:
        raise OSError("the answer ended in the middle")
    return b"".join(parts)


def _read_file(file: Path) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(f"has more than {MAX_BYTES} bytes")
    return data


def _told(error: BaseException) -> OSError:
    if isinstance(error, OSError):
        return error
    # What http.client finds wrong with an answer quotes it.
    return OSError(f"no answer that can be read ({type(error).__name__})")


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[bytes], tell: Callable[[], None]) -> None:
    def at_the_loop() -> None:
        if not ended.done():
            tell()

    # The process may be at its end, and nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(at_the_loop)
