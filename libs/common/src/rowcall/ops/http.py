"""HTTP for pages that are made at once, out of memory: GET and HEAD, one request a connection.

Of HTTP/1.1 just as much as Prometheus, probes and a browser need, over asyncio: a library for whole HTTP would be the largest thing in
a worker, and its features what must be switched off (docs/adr/0039). Whatever comes is bounded: the head of a request, the time until
it is there and until its answer is taken, and how many connections there are at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import structlog

from rowcall.address import Address, cannot_listen

HEAD_BYTES: Final = 8 * 1024
"""A request's line and headers, at most."""
PATIENCE: Final = 5.0
"""Seconds for a request to come, and as many for its answer to be taken."""
CONNECTIONS: Final = 32
"""At once; a further one is refused."""

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"

_METHODS: Final = ("GET", "HEAD")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT
    allow: str = ""
    """The methods that there are, where it is refused for its method."""


Pages = Callable[[str], Page]
"""Makes the page of a path, which begins with "/" and has no query. It must not wait."""


class HttpPort:
    """A port that answers with pages."""

    def __init__(self, address: Address, pages: Pages) -> None:
        self._address = address
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        """The one that it has, once it is started."""

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: The address cannot be listened on.
        """
        try:
            # Of two that share a port each would tell half of it.
            self._server = await asyncio.start_server(
                self._serve, self._address.host, self._address.port, limit=HEAD_BYTES, reuse_port=False
            )
        except OSError as error:
            raise cannot_listen(self._address) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops now: whoever is being answered is cut off."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            async with asyncio.timeout(PATIENCE):
                page, whole = await self._answer(reader)
            writer.write(_encoded(page, whole=whole))
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            # Who does not ask, or does not listen, needs no answer.
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Page, bool]:
        """The answer to a request, and whether with its body. Raises IncompleteReadError: none came."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _refusal(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request has more than {HEAD_BYTES} bytes of headers"
            ), True
        line = head.split(b"\r\n", 1)[0].decode("latin-1")
        parts = line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
            return _refusal(
                HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1.1; ask for a path: curl http://HOST:PORT/metrics"
            ), True
        method, path = parts[0], parts[1].partition("?")[0]
        if method not in _METHODS:
            allow = ", ".join(_METHODS)
            return Page(f"the method is not one of {allow}\n", HTTPStatus.METHOD_NOT_ALLOWED, allow=allow), True
        try:
            return self._pages(path), method == "GET"
        except Exception as error:  # noqa: BLE001  a page that cannot be made must not end the port
            _log.error("a page of the operations port cannot be made", exc_info=error)
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the page cannot be made; the log says why"), True


def _refusal(status: HTTPStatus, why: str) -> Page:
    return Page(f"{why}\n", status)


def _encoded(page: Page, *, whole: bool) -> bytes:
    body = page.body.encode()
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if page.allow:
        lines.append(f"Allow: {page.allow}")
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    return head + body if whole else head
