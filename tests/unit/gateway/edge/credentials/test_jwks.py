"""Sets of keys: which are used, which are left out, and what is no set at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rowcall_gateway.edge.credentials.jwks import MAX_KEYS, read_keys
from tests.support.tokens import ec_key, ed_key, public, rsa_key, shared_secret

ALL = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def test_keys_are_found_by_their_names_and_what_they_are_for() -> None:
    read = read_keys(
        document(public(rsa_key("one"), "one"), public(ec_key("e"), "two"), public(ed_key("d"), "three")), ALL
    )
    assert (len(read.keys), read.left_out) == (3, [])
    assert [key.kid for key in read.keys.find("one", "RS256")] == ["one"]
    assert read.keys.find("one", "ES256") == []
    assert [key.kid for key in read.keys.find("two", "ES256")] == ["two"]
    assert read.keys.find("two", "ES384") == [], "a curve is for one algorithm"
    assert [key.kid for key in read.keys.find(None, "EdDSA")] == ["three"]
    assert read.keys.find("four", "RS256") == []


def test_a_key_that_says_its_algorithm_is_for_no_other() -> None:
    read = read_keys(document(public(rsa_key("one"), "one", alg="PS256")), ALL)
    assert read.keys.find("one", "RS256") == []
    assert len(read.keys.find("one", "PS256")) == 1


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (public(rsa_key("one"), "k", use="enc"), "is not for signatures"),
        (public(rsa_key("one"), "k", key_ops=["encrypt"]), "is not for signatures"),
        (public(rsa_key("one"), "k", key_ops=7), "is not for signatures"),
        (public(rsa_key("one"), "k", alg="RSA-OAEP"), "is for none of the issuer's algorithms"),
        (shared_secret(), "is a shared secret"),
        ({"kty": "RSA", "n": "AQAB"}, "cannot be read"),
        ({"kty": "RSA", "n": "!", "e": "AQAB"}, "cannot be read"),
        ({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}, "cannot be read"),
        ({"kty": "OKP", "crv": "X25519", "x": "A" * 43}, "is for none of the issuer's algorithms"),
        ({"kty": "AKP", "alg": "ML-DSA-65"}, "cannot be read"),
        ({"kty": ["RSA"]}, "cannot be read"),
        ({}, "cannot be read"),
        ("text", "is no object"),
        (public(rsa_key("small", 1024), "k"), "is an RSA key of 1024 bits"),
        (public(rsa_key("one"), "k" * 257), "has a kid that is no text"),
        ({**public(rsa_key("one")), "kid": 7}, "has a kid that is no text"),
    ],
)
def test_a_key_that_cannot_be_used_is_left_out_and_the_others_are_used(key: Any, why: str) -> None:
    read = read_keys(document(key, public(rsa_key("one"), "one")), ALL)
    assert [each.kid for each in read.keys.find("one", "RS256")] == ["one"]
    assert len(read.keys) == 1
    [said] = read.left_out
    assert said.startswith("keys[0]: ")
    assert why in said


def test_a_private_key_that_somebody_published_is_used_as_a_public_one() -> None:
    read = read_keys(document({**rsa_key("one").as_dict(private=True), "kid": "one"}), ALL)
    [key] = read.keys.find("one", "RS256")
    assert not key.native.is_private


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not JSON"),
        (b"<!doctype html>", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is no set of keys"),
        (b'{"keys": {}}', "is no set of keys"),
        (b'{"keys": []}', "has no key that can be used"),
        (document({"kty": "oct", "k": "AAAA"}), "is a shared secret"),
        (document(*[{}] * (MAX_KEYS + 1)), f"{MAX_KEYS} are taken"),
    ],
)
def test_what_is_no_set_of_keys_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read_keys(data, ALL)
    assert why in str(refused.value)
    assert "doctype" not in str(refused.value), "what was answered is not repeated"


def test_the_same_key_is_the_same_whatever_it_is_called() -> None:
    one = read_keys(document(public(rsa_key("one"), "one")), ALL).keys
    again = read_keys(document(public(rsa_key("one"), "other")), ALL).keys
    assert one.thumbprints == again.thumbprints
