"""The proxy that other tests break connections with does what they take it to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy
from tests.support.purpose_proxy import PurposeProxy
from tests.support.waiting import until


class Echo:
    """A server that sends back what it gets, and knows how many connections it has."""

    def __init__(self) -> None:
        self.visits = 0
        self.got = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        try:
            while data := await reader.read(1024):
                self.got += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.visits -= 1
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, Proxy]]:
    made = Echo()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        with Proxy(*server.sockets[0].getsockname()) as proxy:
            yield made, proxy
        await until(lambda: made.visits == 0)


async def test_what_is_sent_arrives_both_ways_and_is_counted(echo: tuple[Echo, Proxy]) -> None:
    server, proxy = echo
    reader, writer = await asyncio.open_connection(*proxy.address)
    writer.write(b"x" * 100_000)
    assert await reader.readexactly(100_000) == b"x" * 100_000
    assert (proxy.links, proxy.counts.accepted, proxy.counts.cut) == (1, 1, 0)
    assert (proxy.counts.upstream, proxy.counts.downstream) == (100_000, 100_000)
    writer.close()
    await until(lambda: server.visits == 0)  # the end passes as well
    await until(lambda: proxy.links == 0)


async def test_a_cut_is_seen_by_both_sides_and_new_connections_are_taken(echo: tuple[Echo, Proxy]) -> None:
    server, proxy = echo
    reader, writer = await asyncio.open_connection(*proxy.address)
    writer.write(b"1")
    await reader.readexactly(1)
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    await until(lambda: server.visits == 0)
    writer.close()
    reader, writer = await asyncio.open_connection(*proxy.address)
    writer.write(b"2")
    assert await reader.readexactly(1) == b"2"
    writer.close()


async def test_while_it_holds_there_is_silence_and_then_everything_arrives(echo: tuple[Echo, Proxy]) -> None:
    server, proxy = echo
    reader, writer = await asyncio.open_connection(*proxy.address)
    writer.write(b"1")
    await reader.readexactly(1)
    proxy.hold()
    writer.write(b"2")
    _, late_writer = await asyncio.open_connection(*proxy.address)
    late_writer.write(b"3")
    late_writer.write_eof()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    assert (server.visits, server.got) == (1, b"1"), "neither bytes nor connections came through"
    proxy.release()
    assert await reader.readexactly(1) == b"2"
    await until(lambda: b"3" in server.got)
    writer.close()
    late_writer.close()


async def test_the_end_of_a_connection_does_not_pass_while_it_holds(echo: tuple[Echo, Proxy]) -> None:
    server, proxy = echo
    reader, writer = await asyncio.open_connection(*proxy.address)
    writer.write(b"1")
    await reader.readexactly(1)
    proxy.hold()
    writer.close()
    # A round trip through the proxy's thread: it has read the end, and kept it.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(until(lambda: server.visits == 0), 0.1)
    proxy.release()
    await until(lambda: server.visits == 0)


async def test_a_server_that_is_not_there_ends_the_connection() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    with Proxy(*address) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        assert await reader.read(1) == b""
        assert proxy.counts.unreachable == 1
        writer.close()


class Session:
    """A connection as Postgres has them: at its beginning it asks for encryption, and then says what it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def passes(self, said: bytes = b"select") -> bool:
        """Whether it is answered."""
        try:
            self.writer.write(said)
            return await self._reader.read(len(said)) == said
        except OSError:
            return False

    async def says_who_it_is(self, name: bytes) -> bool:
        """Whether it is let in."""
        return await self.passes(b"\0\0\0\x08\x04\xd2\x16/") and await self.passes(
            b"user\0x\0application_name\0" + name + b"\0\0"
        )


async def test_connections_of_one_purpose_are_taken_away_and_others_pass(echo: tuple[Echo, Proxy]) -> None:
    _, server = echo
    with PurposeProxy(f"host=127.0.0.1 port={server.address[1]}", "activity") as proxy:
        spans, claims, late, again = [Session(*await asyncio.open_connection(*proxy.address)) for _ in range(4)]
        assert await spans.says_who_it_is(b"rowcall-worker activity")
        assert await claims.says_who_it_is(b"rowcall-worker claim")
        proxy.away = True
        assert not await spans.passes()
        assert await claims.passes()
        assert not await late.says_who_it_is(b"rowcall-gateway activity")
        assert proxy.counts.cut == 2
        proxy.away = False
        assert await again.says_who_it_is(b"rowcall-gateway activity")
        for each in (spans, claims, late, again):
            each.writer.close()
