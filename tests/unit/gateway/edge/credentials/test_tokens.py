"""Tokens: the good one is taken, and each that is wrong in one way is refused for that, whatever else is right with it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall_gateway.edge.credentials.issuers import ALGORITHMS, Issuer
from rowcall_gateway.edge.credentials.sources import KeySource
from rowcall_gateway.edge.credentials.tokens import Checked, check_token, read_token
from tests.support.tokens import (
    TokenIssuer,
    encoded,
    hmac_with_public_key,
    public,
    rsa_key,
    signed,
    unsigned,
)

NOW = 2_000_000_000.0


class Kept:
    """Keys that are there."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.asked = 0

    async def read(self) -> bytes:
        self.asked += 1
        return self.document


def at(issuer: TokenIssuer, **claims: Any) -> dict[str, Any]:
    """Claims of a token that is good at NOW."""
    return {"iat": NOW - 10, "exp": NOW + 600, **claims}


async def checked(
    text: str, issuer: TokenIssuer, *, now: float = NOW, document: bytes | None = None, **settings: Any
) -> Checked:
    """What becomes of a token."""
    trusted = Issuer.model_validate({**issuer.settings("keys.json"), **settings})
    place = Kept(issuer.jwks() if document is None else document)
    source = KeySource(
        trusted.issuer, place, trusted.algorithms, refresh=300, keep=3600, gone=lambda _: None, clock=lambda: 0.0
    )
    assert await source.fetch()
    return await check_token(read_token(text), trusted, source, clock=lambda: now)


async def refused(text: str, issuer: TokenIssuer, **how: Any) -> tuple[str, str]:
    """Why a token is: the reason, and of what kind the problem is."""
    with pytest.raises(RowcallError) as raised:
        await checked(text, issuer, **how)
    said = raised.value
    for secret in (part for part in text.split(".") if len(part) > 8):
        assert secret not in said.message, "nothing of a token is told"
    return reason_name(said.reason), said.metadata.get("problem", "")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_good_token_is_taken(algorithm: str) -> None:
    issuer = TokenIssuer(algorithm=algorithm)
    found = await checked(issuer.token(**at(issuer)), issuer)
    assert found.claims["tenant"] == "acme"
    assert (found.subject, found.issued_at, found.ends_at) == ("ada", NOW - 10, NOW + 600 + 30)


RS = TokenIssuer()

BAD: dict[str, tuple[Callable[[], str], str, str]] = {
    "expired": (lambda: RS.token(**at(RS, exp=NOW - 31)), "TOKEN_EXPIRED", ""),
    "not yet valid": (lambda: RS.token(**at(RS, nbf=NOW + 31)), "TOKEN_INVALID", "time"),
    "issued in the future": (lambda: RS.token(**at(RS, iat=NOW + 31)), "TOKEN_INVALID", "time"),
    "no end": (lambda: RS.token(**at(RS, exp=None)), "TOKEN_INVALID", "time"),
    "an end that is text": (lambda: RS.token(**at(RS, exp=str(NOW + 600))), "TOKEN_INVALID", "time"),
    "an end that is true": (lambda: RS.token(**at(RS, exp=True)), "TOKEN_INVALID", "time"),
    "an end beyond all time": (lambda: RS.token(**at(RS, exp=10**400)), "TOKEN_INVALID", "time"),
    "another audience": (lambda: RS.token(**at(RS, aud="billing")), "TOKEN_INVALID", "audience"),
    "no audience": (lambda: RS.token(**at(RS, aud=None)), "TOKEN_INVALID", "audience"),
    "audiences of another kind": (lambda: RS.token(**at(RS, aud={"rowcall": 1})), "TOKEN_INVALID", "audience"),
    "an audience that only begins so": (lambda: RS.token(**at(RS, aud="rowcall2")), "TOKEN_INVALID", "audience"),
    "no issuer": (lambda: RS.token(**at(RS, iss=None)), "TOKEN_INVALID", "issuer"),
    "a subject that is no text": (lambda: RS.token(**at(RS, sub=7)), "TOKEN_INVALID", "claims"),
    "another key": (lambda: RS.token(key=rsa_key("eve"), **at(RS)), "TOKEN_INVALID", "signature"),
    "a key that is not published": (
        lambda: RS.token(header={"kid": "eve"}, key=rsa_key("eve"), **at(RS)),
        "TOKEN_INVALID",
        "key",
    ),
    "alg none": (lambda: unsigned(RS, **at(RS)), "TOKEN_INVALID", "algorithm"),
    "alg None": (
        lambda: unsigned(RS, **at(RS)).replace(head(RS, alg="none"), head(RS, alg="nOnE")),
        "TOKEN_INVALID",
        "algorithm",
    ),
    "HS256 with the public key": (lambda: hmac_with_public_key(RS, **at(RS)), "TOKEN_INVALID", "algorithm"),
    "an algorithm that is not set": (lambda: RS.token(header={"alg": "RS512"}, **at(RS)), "TOKEN_INVALID", "algorithm"),
    "no algorithm": (lambda: RS.token(header={"alg": None}, **at(RS)), "TOKEN_INVALID", "format"),
    "a critical extension": (lambda: RS.token(header={"crit": ["exp"]}, **at(RS)), "TOKEN_INVALID", "format"),
    "a payload that is not encoded": (
        lambda: RS.token(header={"crit": ["b64"], "b64": False}, **at(RS)),
        "TOKEN_INVALID",
        "format",
    ),
    "a kid that is a path": (lambda: RS.token(header={"kid": "../../etc/passwd"}, **at(RS)), "TOKEN_INVALID", "key"),
    "a kid that is SQL": (lambda: RS.token(header={"kid": "' or 1=1 --"}, **at(RS)), "TOKEN_INVALID", "key"),
    "a kid that is a list": (lambda: RS.token(header={"kid": ["one"]}, **at(RS)), "TOKEN_INVALID", "format"),
    "a kid without end": (lambda: RS.token(header={"kid": "k" * 257}, **at(RS)), "TOKEN_INVALID", "format"),
    "a logout token": (lambda: RS.token(header={"typ": "logout+jwt"}, **at(RS)), "TOKEN_INVALID", "format"),
    "a proof of possession": (
        lambda: RS.token(header={"typ": "application/DPoP+JWT"}, **at(RS)),
        "TOKEN_INVALID",
        "format",
    ),
    "a claim twice": (
        lambda: resigned(json.dumps(RS.claims(**at(RS)))[:-1] + ', "tenant": "bolt"}'),
        "TOKEN_INVALID",
        "format",
    ),
    "a name twice, deeper": (
        lambda: resigned(json.dumps(RS.claims(**at(RS)))[:-1] + ', "a": {"b": 1, "b": 2}}'),
        "TOKEN_INVALID",
        "format",
    ),
    "claims that are a list": (lambda: resigned("[]"), "TOKEN_INVALID", "format"),
    "claims that are not JSON": (lambda: resigned("{"), "TOKEN_INVALID", "format"),
    "a number that is none": (lambda: resigned('{"exp": NaN}'), "TOKEN_INVALID", "format"),
    "nested without end": (lambda: resigned("[" * 5000), "TOKEN_INVALID", "format"),
    "no text": (lambda: "", "TOKEN_INVALID", "format"),
    "garbage": (lambda: "garbage", "TOKEN_INVALID", "format"),
    "two parts": (lambda: RS.token(**at(RS)).rpartition(".")[0], "TOKEN_INVALID", "format"),
    "no signature": (lambda: RS.token(**at(RS)).rpartition(".")[0] + ".", "TOKEN_INVALID", "format"),
    "four parts": (lambda: RS.token(**at(RS)) + ".AA", "TOKEN_INVALID", "format"),
    "five parts, as encrypted ones have": (lambda: "a.b.c.d.e", "TOKEN_INVALID", "format"),
    "base64 with padding": (lambda: RS.token(**at(RS)) + "==", "TOKEN_INVALID", "format"),
    "base64 of the other alphabet": (lambda: "+" + RS.token(**at(RS))[1:], "TOKEN_INVALID", "format"),
    "base64 that cannot be": (lambda: "A" + RS.token(**at(RS)), "TOKEN_INVALID", "format"),
    "a signature cut short": (lambda: RS.token(**at(RS))[:-4], "TOKEN_INVALID", "signature"),
    "huge": (lambda: RS.token(**at(RS, more="x" * 20_000)), "TOKEN_INVALID", "format"),
}


def head(issuer: TokenIssuer, **changes: Any) -> str:
    return encoded(json.dumps(issuer.header(**changes)).encode())


def resigned(claims: str) -> str:
    return signed(RS.header(), claims, RS.sign)


@pytest.mark.parametrize("wrong", BAD)
async def test_a_bad_token_is_refused_for_what_is_wrong_with_it(wrong: str) -> None:
    make, reason, problem = BAD[wrong]
    assert await refused(make(), RS) == (reason, problem)


async def test_what_was_changed_after_signing_is_refused() -> None:
    parts = RS.token(**at(RS)).split(".")
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    parts[1] = encoded(json.dumps({**claims, "tenant": "bolt"}).encode())
    assert await refused(".".join(parts), RS) == ("TOKEN_INVALID", "signature")


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
async def test_a_key_that_the_token_brings_along_is_not_looked_at(name: str) -> None:
    eve = rsa_key("eve")
    brought: dict[str, Any] = {
        "jwk": public(eve),
        "jku": "https://eve.example/keys",
        "x5u": "https://eve.example/cert",
        "x5c": ["MIIB"],
    }
    signed_by_eve = RS.token(header={name: brought[name]}, key=eve, **at(RS))
    assert await refused(signed_by_eve, RS) == ("TOKEN_INVALID", "signature")
    await checked(RS.token(header={name: brought[name]}, **at(RS)), RS)  # nor does it do harm


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_tokens_that_are_for_calling_may_say_so(kind: str | None) -> None:
    await checked(RS.token(header={"typ": kind}, **at(RS)), RS)


async def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    for claims in ({"exp": NOW - 29}, {"nbf": NOW + 29}, {"iat": NOW + 29}):
        await checked(RS.token(**at(RS, **claims)), RS)
    assert await refused(RS.token(**at(RS, exp=NOW - 1)), RS, leeway=timedelta(0)) == ("TOKEN_EXPIRED", "")


async def test_a_token_is_refused_from_its_end_on() -> None:
    token = RS.token(**at(RS, exp=NOW))
    await checked(token, RS, now=NOW + 29.9)
    assert await refused(token, RS, now=NOW + 30) == ("TOKEN_EXPIRED", "")


async def test_an_age_that_is_bounded_ends_a_token_before_it_does_itself() -> None:
    young, old, unsaid = (RS.token(**at(RS, iat=iat)) for iat in (NOW - 3600, NOW - 3631, None))
    bound: dict[str, Any] = {"max_age": timedelta(hours=1)}
    assert (await checked(young, RS, **bound)).ends_at == NOW + 30
    assert await refused(old, RS, **bound) == ("TOKEN_EXPIRED", "")
    assert await refused(unsaid, RS, **bound) == ("TOKEN_INVALID", "time")
    await checked(unsaid, RS)  # where it is not bounded, a token need not say it


async def test_one_of_several_audiences_is_enough() -> None:
    await checked(RS.token(**at(RS, aud=["account", "rowcall"])), RS)
    await checked(RS.token(**at(RS, aud="second")), RS, audiences=["rowcall", "second"])


async def test_a_token_without_a_kid_is_held_against_the_keys_that_fit() -> None:
    issuer = TokenIssuer()
    issuer.keys = {"old": rsa_key("old"), "one": rsa_key("one")}
    token = issuer.token(header={"kid": None}, key=rsa_key("one"), **at(issuer))
    assert (await checked(token, issuer)).key.kid == "one"
    issuer.keys |= {name: rsa_key(name) for name in ("three", "four", "five")}
    assert await refused(token, issuer) == ("TOKEN_INVALID", "key"), "but not against any number of them"


async def test_a_key_of_another_kind_checks_nothing() -> None:
    elliptic = TokenIssuer(algorithm="ES256")
    token = elliptic.token(**at(elliptic))
    document = json.dumps({"keys": [public(rsa_key("one"), "one")]}).encode()
    with pytest.raises(AssertionError):
        # No key of the set is for ES256: it is not taken at all.
        await checked(token, elliptic, document=document)
    mixed = json.dumps({"keys": [public(rsa_key("one"), "one"), public(elliptic.keys["one"], "two")]}).encode()
    assert await refused(token, elliptic, document=mixed) == ("TOKEN_INVALID", "key")


def test_reading_a_token_takes_no_longer_the_worse_it_is() -> None:
    began = time.perf_counter()
    for text in ("." * 16_000, "a." * 8_000, "a" * 16_000, "[" * 16_000):
        with pytest.raises(RowcallError):
            read_token(text)
    assert time.perf_counter() - began < 2
