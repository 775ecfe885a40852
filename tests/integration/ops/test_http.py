"""The operations port over real connections: good requests, garbage, too much of everything, and a port that is taken."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest
from structlog.testing import capture_logs

from rowcall.address import Address
from rowcall.ops import http
from rowcall.ops.http import CONNECTIONS, HEAD_BYTES, HttpPort, Page
from tests.support.waiting import until

HERE = "127.0.0.1"


def page(path: str) -> Page:
    if path == "/broken":
        raise RuntimeError("a page of 4111 1111")
    return Page(f"you asked for {path}\n", HTTPStatus.OK if path != "/no" else HTTPStatus.NOT_FOUND)


@pytest.fixture
async def port() -> AsyncIterator[HttpPort]:
    made = HttpPort(Address(HERE, 0), page)
    await made.start()
    yield made
    await made.stop()


async def exchange(port: HttpPort, request: bytes, *, end: bool = False) -> bytes:
    """All that is answered to these bytes."""
    reader, writer = await asyncio.open_connection(HERE, port.port)
    writer.write(request)
    if end:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_a_page_is_read_by_an_ordinary_client(port: HttpPort) -> None:
    def read() -> tuple[int, str, str]:
        with urllib.request.urlopen(f"http://{HERE}:{port.port}/some/page?debug=1", timeout=10) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()

    assert await asyncio.to_thread(read) == (200, "text/plain; charset=utf-8", "you asked for /some/page\n")


async def test_the_head_of_a_page_says_how_long_it_is_and_brings_none_of_it(port: HttpPort) -> None:
    answer = await exchange(port, b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status(answer), body) == (200, b"")
    assert b"Content-Length: 17" in head
    assert b"Connection: close" in head


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405, b"Allow: GET, HEAD"),
        (b"GET /no HTTP/1.1\r\n\r\n", 404, b"you asked for /no"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b"no request of HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"no request of HTTP/1.1"),
        (b"GET /x\r\n\r\n", 400, b"no request of HTTP/1.1"),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400, b"no request of HTTP/1.1"),
        (b"\r\n\r\n", 400, b"no request of HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 3 * HEAD_BYTES, 431, b"8192 bytes"),
        (b"GET /\xff\x00\xfe HTTP/1.1\r\n\r\n", 200, b"you asked for /"),
    ],
    ids=["method", "path", "tls", "http2", "http0.9", "proxy", "empty", "headers", "bytes"],
)
async def test_what_is_no_request_is_told_so(port: HttpPort, request_: bytes, code: int, said: bytes) -> None:
    answer = await exchange(port, request_)
    assert status(answer) == code
    assert said in answer
    assert b"Traceback" not in answer
    assert status(await exchange(port, b"GET /x HTTP/1.1\r\n\r\n")) == 200, "the next one is answered"


async def test_who_says_nothing_or_half_of_it_gets_no_answer(port: HttpPort) -> None:
    assert await exchange(port, b"", end=True) == b""
    assert await exchange(port, b"GET / HT", end=True) == b""


async def test_a_page_that_cannot_be_made_is_told_without_what_went_wrong(port: HttpPort) -> None:
    with capture_logs() as told:
        answer = await exchange(port, b"GET /broken HTTP/1.1\r\n\r\n")
    assert status(answer) == 500
    assert b"4111" not in answer
    assert [line["event"] for line in told] == ["a page of the operations port cannot be made"]


async def test_who_is_slow_is_let_go_and_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there may be say nothing: whoever comes then is refused, until they are given up."""
    monkeypatch.setattr(http, "PATIENCE", 1.0)
    port = HttpPort(Address(HERE, 0), page)
    await port.start()
    silent = [await asyncio.open_connection(HERE, port.port) for _ in range(CONNECTIONS)]
    try:

        async def refused() -> bool:
            try:
                return await exchange(port, b"GET /x HTTP/1.1\r\n\r\n") == b""
            except ConnectionError:
                return True

        assert await refused()
        assert await asyncio.wait_for(silent[0][0].read(), 20) == b""

        async def answered() -> bool:
            return not await refused()

        await until(answered)
    finally:
        for _, writer in silent:
            writer.close()
        await port.stop()


async def test_a_stop_waits_for_nobody(port: HttpPort) -> None:
    reader, writer = await asyncio.open_connection(HERE, port.port)
    writer.write(b"GET /x HTTP/1.1\r\n")
    assert status(await exchange(port, b"GET /x HTTP/1.1\r\n\r\n")) == 200, "the first one is being served too"
    await asyncio.wait_for(port.stop(), 2)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HERE, port.port)
    try:
        left = await asyncio.wait_for(reader.read(), 2)
    except ConnectionError:
        left = b""
    assert left == b""
    writer.close()


async def test_a_port_that_is_taken_is_named(port: HttpPort) -> None:
    with pytest.raises(OSError, match=f"cannot listen on {HERE}:{port.port}: is the address this machine's"):
        await HttpPort(Address(HERE, port.port), page).start()
