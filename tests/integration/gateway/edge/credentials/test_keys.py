"""An issuer's keys over real HTTP, while its endpoint is everything that endpoints are at times: no call with a good token fails."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall_gateway.edge.credentials import fetching
from rowcall_gateway.edge.credentials.fetching import KeyUrl
from tests.fix_gateway import Gateways, info_of
from tests.support.scale import scaled
from tests.support.tokens import KeyServer, TokenIssuer, bearer, encoded, rsa_key, serving_keys, write_issuers
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
UNKNOWN = scaled(2_000, 10_000)
"""Keys that nobody has."""


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    with serving_keys(TokenIssuer()) as server:
        yield server


class Known:
    """A gateway that asks the endpoint for keys every second, and a caller of it."""

    def __init__(self, keys: KeyServer, probe: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
        self.keys = keys
        self.probe = probe

    async def call(self, token: str) -> None:
        await self.probe.Run(RunRequest(), timeout=30, metadata=(*bearer(token), NOW))

    async def reason(self, token: str) -> str:
        """Why a call with this token is refused; empty if it is not. A gateway that is behind is called again, as it asks for."""
        while True:
            try:
                await self.call(token)
            except grpc.aio.AioRpcError as error:
                reason = info_of(error).reason
                if reason != "NOT_ADMITTED":
                    return reason
                await asyncio.sleep(0.3)
            else:
                return ""

    async def asked_again(self, times: int = 2) -> None:
        """Waits until the endpoint was asked so often from now on."""
        before = len(self.keys.asked)
        await until(lambda: len(self.keys.asked) >= before + times)


@pytest.fixture
async def known(gateways: Gateways, keys: KeyServer, tmp_path: Path) -> Known:
    file = write_issuers(tmp_path, keys.issuer.settings(keys.url, refresh="1s", leeway="0s"))
    gateway = await gateways.start(identity="jwt", issuers=file)
    return Known(keys, await gateways.probe(gateway))


async def test_a_new_key_is_taken_at_once_and_an_old_one_is_taken_back(known: Known) -> None:
    issuer = known.keys.issuer
    old = issuer.token()
    await known.call(old)
    issuer.rotate("two")
    await known.call(issuer.token())

    async def is_refused() -> bool:
        return await known.reason(old) == "TOKEN_INVALID"

    await until(is_refused)


async def test_keys_that_overlap_let_every_call_through(known: Known) -> None:
    """As issuers rotate: the new key is published first, then signs, then the old one goes."""
    issuer = known.keys.issuer
    issuer.keys = {"one": rsa_key("one"), "two": rsa_key("two")}
    await known.asked_again()
    ended = asyncio.Event()
    failed: list[str] = []

    async def calling(header: dict[str, str], key: str) -> None:
        while not ended.is_set():
            failed.extend(filter(None, [await known.reason(issuer.token(header=header, key=rsa_key(key)))]))

    callers = [asyncio.create_task(calling({"kid": "two"}, "two")) for _ in range(4)]
    issuer.keys = {"two": rsa_key("two")}
    await known.asked_again()
    ended.set()
    await asyncio.gather(*callers)
    assert failed == []


@pytest.mark.parametrize("how", ["failing", "html", "empty", "huge", "huge_untold", "redirecting"])
async def test_an_endpoint_that_is_broken_for_longer_than_a_tokens_life_stops_nobody(known: Known, how: str) -> None:
    issuer = known.keys.issuer
    known.keys.answer = getattr(known.keys, how)
    began = time.monotonic()
    taken = 0
    while time.monotonic() - began < 2.5 or len(known.keys.asked) < 3 or taken < 3:
        # A new token each time, of one second: none of them is remembered.
        expires = time.time() + 1
        reason = await known.reason(issuer.token(exp=expires))
        taken += not reason
        # On a busy machine its time may be over before the gateway reads it.
        assert reason in ("", "TOKEN_EXPIRED")
        assert not reason or time.time() >= expires
    known.keys.answer = known.keys.good
    issuer.keys = {"one": rsa_key("one"), "two": rsa_key("two")}
    await known.asked_again()
    await known.call(issuer.token(header={"kid": "two"}, key=rsa_key("two")))


async def test_an_endpoint_that_is_slow_holds_nobody_up(known: Known) -> None:
    known.keys.answer = known.keys.trickling
    await known.asked_again(1)
    began = time.monotonic()
    for _ in range(20):
        await known.call(known.keys.issuer.token())
    assert time.monotonic() - began < 4, "less than a fetch may take"


async def test_thousands_of_unknown_keys_are_one_fetch_and_stop_nobody(
    gateways: Gateways, keys: KeyServer, tmp_path: Path
) -> None:
    file = write_issuers(tmp_path, keys.issuer.settings(keys.url))
    probe = await gateways.probe(await gateways.start(identity="jwt", issuers=file))
    known = Known(keys, probe)
    eve, began, asked = rsa_key("eve"), time.monotonic(), len(keys.asked)
    _, claims, signature = keys.issuer.token(key=eve).split(".")
    good: list[str] = []
    reasons: set[str] = set()

    async def flood(numbers: Iterator[int]) -> None:
        # Until others were let in beside it, however busy the machine is.
        while (number := next(numbers)) < UNKNOWN or len(good) < 10:
            # Nobody gets as far as its signature.
            header = encoded(json.dumps(keys.issuer.header(kid=f"k{number}")).encode())
            reasons.add(await known.reason(f"{header}.{claims}.{signature}"))

    async def honest() -> None:
        while not done.is_set():
            good.append(await known.reason(keys.issuer.token()))

    done = asyncio.Event()
    caller = asyncio.create_task(honest())
    numbers = itertools.count()
    await asyncio.gather(*(flood(numbers) for _ in range(50)))
    done.set()
    await caller
    assert reasons == {"TOKEN_INVALID"}
    assert set(good) == {""}
    cooldowns = int((time.monotonic() - began) // 30) + 1
    assert len(keys.asked) - asked <= cooldowns


@contextmanager
def nothing_listens() -> Iterator[str]:
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{kept.getsockname()[1]}/keys"


async def test_a_gateway_starts_without_its_issuer_and_takes_its_tokens_when_it_is_there(
    gateways: Gateways, keys: KeyServer, tmp_path: Path
) -> None:
    keys.answer = keys.failing
    file = write_issuers(tmp_path, keys.issuer.settings(keys.url))
    known = Known(keys, await gateways.probe(await gateways.start(identity="jwt", issuers=file)))
    assert await known.reason(keys.issuer.token()) == "KEYS_UNAVAILABLE"
    keys.answer = keys.good

    async def is_taken() -> bool:
        return await known.reason(keys.issuer.token()) == ""

    await until(is_taken, seconds=40, every=0.1)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("failing", "answered 503"),
        ("redirecting", "redirects are not followed"),
        ("huge", "bytes; 262144 are read"),
        ("huge_untold", "more than 262144 bytes"),
        ("trickling", "no whole answer within 0.5 s"),
    ],
)
async def test_what_is_no_answer_is_an_error_within_its_bounds(keys: KeyServer, how: str, told: str) -> None:
    keys.answer = getattr(keys, how)
    began = time.monotonic()
    with pytest.raises(OSError, match=r".") as raised:
        await KeyUrl(keys.url, seconds=0.5).read()
    assert told in str(raised.value)
    assert time.monotonic() - began < 3


async def test_where_nobody_listens_is_an_error() -> None:
    with nothing_listens() as url, pytest.raises(OSError, match="refused"):
        await KeyUrl(url).read()


async def test_a_fetch_that_was_given_up_is_ended_and_the_next_one_is_good(keys: KeyServer) -> None:
    keys.answer = keys.trickling
    url = KeyUrl(keys.url, seconds=0.3)
    with pytest.raises(TimeoutError):
        await url.read()
    keys.answer = keys.good
    assert url._abandoned is not None
    await asyncio.to_thread(url._abandoned.join, 10)
    assert not url._abandoned.is_alive(), "its socket was closed under it"
    assert await url.read() == keys.issuer.jwks()


def test_a_fetch_ends_in_the_time_that_a_call_can_wait() -> None:
    assert fetching.FETCH_SECONDS <= 5
