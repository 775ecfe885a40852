"""An issuer's keys: read ahead of time, kept through an outage, and asked for no more often than is good for the issuer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall_gateway.edge.credentials import sources
from rowcall_gateway.edge.credentials.jwks import Key
from rowcall_gateway.edge.credentials.sources import COOLDOWN, UNKNOWN_FOR, KeySource
from tests.support.tokens import TokenIssuer
from tests.support.waiting import until


class Endpoint:
    """Where keys are; it can be away, and be held."""

    def __init__(self, issuer: TokenIssuer) -> None:
        self.issuer = issuer
        self.asked = 0
        self.away: str | None = None
        self.answer: bytes | None = None
        self.let = asyncio.Event()
        self.let.set()

    async def read(self) -> bytes:
        self.asked += 1
        await self.let.wait()
        if self.away is not None:
            raise ConnectionRefusedError(self.away)
        return self.issuer.jwks() if self.answer is None else self.answer


class Watched:
    """A source with its endpoint and a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.issuer = TokenIssuer()
        self.endpoint = Endpoint(self.issuer)
        self.gone: list[frozenset[str]] = []
        self.source = KeySource(
            "idp", self.endpoint, ["RS256"], refresh=300, keep=3600, gone=self.gone.append, clock=lambda: self.now
        )

    async def ask(self, kid: str | None) -> Sequence[Key]:
        return self.source.known(kid, "RS256") or await self.source.ask(kid, "RS256")

    async def refused(self, kid: str | None) -> RowcallError:
        with pytest.raises(RowcallError) as raised:
            await self.ask(kid)
        return raised.value


@pytest.fixture
async def watched() -> Watched:
    made = Watched()
    assert await made.source.fetch()
    return made


async def test_a_known_key_asks_nobody(watched: Watched) -> None:
    for _ in range(100):
        assert await watched.ask("one")
    assert watched.endpoint.asked == 1


async def test_a_new_key_is_asked_for_at_once(watched: Watched) -> None:
    watched.issuer.rotate("two")
    assert await watched.ask("two")
    assert watched.endpoint.asked == 2
    assert len(watched.gone) == 1, "and the old one is taken back"
    assert not watched.source.known("one", "RS256")


async def test_ten_thousand_unknown_keys_are_one_fetch_a_cooldown(watched: Watched) -> None:
    for number in range(5000):
        assert reason_name((await watched.refused(f"a{number}")).reason) == "TOKEN_INVALID"
    assert watched.endpoint.asked == 2
    watched.now += COOLDOWN
    for number in range(5000):
        await watched.refused(f"b{number}")
    assert watched.endpoint.asked == 3
    assert await watched.ask("one"), "and good tokens are good all the while"


async def test_a_key_that_was_not_there_is_not_asked_for_again_soon(watched: Watched) -> None:
    await watched.refused("eve")
    asked = watched.endpoint.asked
    while watched.now < 1000 + UNKNOWN_FOR:
        await watched.refused("eve")
        watched.now += COOLDOWN
    assert watched.endpoint.asked == asked
    await watched.refused("eve")
    assert watched.endpoint.asked == asked + 1


async def test_what_is_remembered_of_unknown_keys_is_bounded(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_UNKNOWN", 3)
    for number in range(5):
        await watched.refused(f"k{number}")
        watched.now += COOLDOWN
    asked = watched.endpoint.asked
    await watched.refused("k4")
    assert watched.endpoint.asked == asked
    await watched.refused("k0")
    assert watched.endpoint.asked == asked + 1, "forgotten, so it is asked for again"


async def test_who_meets_the_cooldown_is_told_when_to_come_again(watched: Watched) -> None:
    first = await watched.refused("eve")
    assert first.retry_after is None, "it was looked for and is not there"
    watched.now += 10
    later = await watched.refused("new")
    assert later.retry_after is not None
    assert later.retry_after.total_seconds() == pytest.approx(COOLDOWN - 10)


async def test_however_many_wait_there_is_one_fetch(watched: Watched) -> None:
    watched.issuer.rotate("two")
    watched.endpoint.let.clear()
    asking = [asyncio.create_task(watched.ask("two")) for _ in range(500)]
    await until(lambda: watched.endpoint.asked == 2)
    asking[0].cancel()
    await asyncio.sleep(0)
    watched.endpoint.let.set()
    found = await asyncio.gather(*asking[1:])
    assert all(found), "also where the one that began it is gone"
    assert watched.endpoint.asked == 2


async def test_how_many_wait_is_bounded(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_WAITING", 10)
    watched.endpoint.let.clear()
    waiting = [asyncio.create_task(watched.refused(f"k{number}")) for number in range(10)]
    await until(lambda: watched.endpoint.asked == 2)
    assert reason_name((await watched.refused("one too many")).reason) == "TOKEN_INVALID", "at once"
    watched.endpoint.let.set()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("answer", [None, b"<html>", b'{"keys": []}'])
async def test_an_outage_keeps_the_last_good_keys(watched: Watched, answer: bytes | None) -> None:
    watched.endpoint.away = "refused" if answer is None else None
    watched.endpoint.answer = answer
    for _ in range(11):
        watched.now += 300
        assert not await watched.source.fetch()
        assert await watched.ask("one")
    assert watched.gone == []
    watched.endpoint.away = watched.endpoint.answer = None
    assert await watched.source.fetch()


async def test_keys_that_are_too_old_are_not_used(watched: Watched) -> None:
    watched.endpoint.away = "refused"
    watched.now += 3600
    assert await watched.ask("one")
    watched.now += 1
    assert reason_name((await watched.refused("one")).reason) == "KEYS_UNAVAILABLE"
    assert len(watched.gone) == 1, "nor is what they signed remembered"
    watched.endpoint.away = None
    assert await watched.source.fetch()
    assert await watched.ask("one"), "the same document is read anew"


async def test_before_the_first_keys_callers_are_told_to_come_again() -> None:
    watched = Watched()
    watched.endpoint.away = "refused"
    assert reason_name((await watched.refused("one")).reason) == "KEYS_UNAVAILABLE"
    asked = watched.endpoint.asked
    for number in range(100):
        refused = await watched.refused(f"k{number}")
        assert reason_name(refused.reason) == "KEYS_UNAVAILABLE"
        assert refused.retry_after is not None
    assert watched.endpoint.asked == asked, "it is not calls that ask again"


async def test_a_failed_fetch_for_an_unknown_key_is_not_held_against_the_key(watched: Watched) -> None:
    watched.endpoint.away = "refused"
    await watched.refused("two")
    watched.endpoint.away = None
    watched.issuer.rotate("two")
    watched.now += COOLDOWN
    assert await watched.ask("two")


async def test_it_reads_them_by_itself_and_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr("rowcall_gateway.edge.credentials.sources.asyncio.sleep", sleep)
    watched.endpoint.away = "refused"
    running = asyncio.create_task(watched.source.run())
    while len(pauses) < 7:
        await real(0)
    assert pauses[:7] == [1, 2, 4, 8, 16, 30, 30], "while there are none, soon and then less often"
    watched.endpoint.away = None
    while pauses[-1] <= COOLDOWN:
        await real(0)
    assert 240 <= pauses[-1] <= 300
    watched.endpoint.away = "refused"
    while pauses[-1] != COOLDOWN:
        await real(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
