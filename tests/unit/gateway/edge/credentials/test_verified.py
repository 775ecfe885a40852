"""Tokens that were good just now: bounded in number and time."""

from __future__ import annotations

from typing import Any

import pytest

from rowcall_gateway.edge.credentials.verified import KEPT_FOR, TokenProof, VerifiedTokens
from rowcall_gateway.edge.identity import Principal


def proof(**changes: Any) -> TokenProof:
    said: dict[str, Any] = {
        "issuer": "idp",
        "subject": "ada",
        "issued_at": 0.0,
        "ends_at": 10_000.0,
        "thumbprint": "t",
        "settings": 1,
        "standing": None,
        **changes,
    }
    return TokenProof(**said)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_is_remembered_for_five_minutes_and_no_longer(clock: Clock) -> None:
    kept = VerifiedTokens(clock=clock)
    kept.keep(b"a", Principal("acme"), proof())
    clock.now = KEPT_FOR - 1
    assert kept.get(b"a") is not None
    assert kept.get(b"b") is None
    clock.now = KEPT_FOR
    assert kept.get(b"a") is None
    assert KEPT_FOR <= 300


def test_never_beyond_its_own_end(clock: Clock) -> None:
    kept = VerifiedTokens(clock=clock)
    kept.keep(b"a", Principal("acme"), proof(ends_at=60.0))
    clock.now = 60
    assert kept.get(b"a") is None


def test_there_are_never_more_than_so_many(clock: Clock) -> None:
    kept = VerifiedTokens(size=3, clock=clock)
    for number in range(10):
        kept.keep(bytes([number]), Principal("acme"), proof())
    assert len(kept) == 3
    assert kept.get(bytes([9])) is not None
    assert kept.get(bytes([0])) is None


def test_what_is_meant_is_forgotten(clock: Clock) -> None:
    kept = VerifiedTokens(clock=clock)
    kept.keep(b"a", Principal("acme"), proof(thumbprint="old"))
    kept.keep(b"b", Principal("acme"), proof(thumbprint="new"))
    kept.drop(lambda each: each.thumbprint == "old")
    assert (kept.get(b"a"), kept.get(b"b") is None) == (None, False)
