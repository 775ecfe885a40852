"""A bearer token (JWT in a compact JWS, RFC 7519, 7515, 8725), read and held against the issuer that it names. Called by `scopes`.

Read here and not by a library, because what is to be refused is in the reading: names given twice, which two readers take for two
things; base64 that is not; what a critical extension would mean; keys that a token brings along (jku, x5u, jwk, x5c are not even
looked at). Signatures are checked by joserfc.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from rowcall_gateway.edge.credentials.issuers import Issuer, seconds
from rowcall_gateway.edge.credentials.jwks import MAX_KID_CHARS, Key
from rowcall_gateway.edge.credentials.refusals import Problem, token_expired, token_invalid
from rowcall_gateway.edge.credentials.sources import KeySource

MAX_BYTES: Final = 16 * 1024
"""A larger token is refused before it is read; gRPC itself takes 16 KiB of metadata in all, unless it is told otherwise."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


# Neither is frozen, nor a tuple: they are made for each new token, and must not show it.
@dataclass(slots=True, repr=False, eq=False)
class Token:
    """A token as it was sent; nothing of it is believed yet."""

    header: Header
    issuer: str
    claims: Mapping[str, Any]
    message: bytes
    """What is signed."""
    signature: bytes


@dataclass(slots=True, repr=False, eq=False)
class Checked:
    """A token that is good, with what it can be looked at again by."""

    claims: Mapping[str, Any]
    key: Key
    """Which signed it."""
    subject: str
    """The claim "sub"; empty if it has none."""
    issued_at: float
    """Unix time; minus infinity if it does not say."""
    ends_at: float
    """Unix time from which on it is refused."""


class Header(NamedTuple):
    """What a token's header says."""

    algorithm: str
    kid: str | None


def read_token(text: str) -> Token:
    """Reads a token.

    Raises:
        RowcallError: TOKEN_INVALID.
    """
    if len(text) > MAX_BYTES:
        raise token_invalid(Problem.FORMAT, f"has {len(text)} characters; {MAX_BYTES} are taken")
    if _TOKEN.fullmatch(text) is None:
        raise token_invalid(Problem.FORMAT, "is no JWT: three parts of base64url with a dot between them")
    whole = text.encode("ascii")
    header, claims, signature = whole.translate(_STANDARD).split(b".")
    read = _read_header(header)
    found = _object(claims, "claims")
    issuer = found.get("iss")
    if not isinstance(issuer, str):
        raise token_invalid(Problem.ISSUER, "does not say its issuer (iss)")
    return Token(read, issuer, found, whole[: len(header) + 1 + len(claims)], _bytes(signature, "signature"))


# The tokens that one key signs have one header.
@lru_cache(maxsize=256)
def _read_header(part: bytes) -> Header:
    header = _object(part, "header")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str):
        raise token_invalid(Problem.FORMAT, "does not say its algorithm")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_CHARS):
        raise token_invalid(Problem.FORMAT, f"has a kid that is no text of {MAX_KID_CHARS} characters at most")
    if "crit" in header:
        raise token_invalid(Problem.FORMAT, "asks for extensions (crit), and this gateway knows none")
    if kind is not None and not _is_for_calling(kind):
        raise token_invalid(Problem.FORMAT, "is of a type (typ) that is for something else than calling")
    return Header(algorithm, kid)


def _is_for_calling(kind: object) -> bool:
    """Whether a token of this type may be: a plain one, or an access token, and not one for logging out or for a proof."""
    if not isinstance(kind, str):
        return False
    name = kind.lower().removeprefix("application/")
    return not name.endswith("+jwt") or name == "at+jwt"


async def check_token(token: Token, issuer: Issuer, keys: KeySource, *, clock: Callable[[], float]) -> Checked:
    """Holds a token against its issuer: algorithm, key, signature, audience, times.

    Args:
        token: As it was read.
        issuer: The one that it names.
        keys: That issuer's.
        clock: Unix time.

    Raises:
        RowcallError: TOKEN_INVALID, TOKEN_EXPIRED, KEYS_UNAVAILABLE.
    """
    if token.header.algorithm not in issuer.algorithms:
        raise token_invalid(
            Problem.ALGORITHM,
            f"is signed with an algorithm that its issuer is not set to use: {', '.join(issuer.algorithms)}",
        )
    candidates = keys.known(token.header.kid, token.header.algorithm)
    if not candidates:
        # Nobody's issuer is asked for the key of a token that would be refused whatever its signature is.
        _check_claims(token.claims, issuer, clock())
        candidates = await keys.ask(token.header.kid, token.header.algorithm)
    key = _signer(token, candidates)
    ends_at, issued_at = _check_claims(token.claims, issuer, clock())
    subject = token.claims.get("sub", "")
    if not isinstance(subject, str):
        raise token_invalid(Problem.CLAIMS, "has a subject (sub) that is no text")
    return Checked(token.claims, key, subject, issued_at, ends_at)


def _signer(token: Token, candidates: Sequence[Key]) -> Key:
    for key in candidates:
        if key.verifies(token.header.algorithm, token.message, token.signature):
            return key
    raise token_invalid(Problem.SIGNATURE, "is not signed by its issuer")


def _check_claims(claims: Mapping[str, Any], issuer: Issuer, now: float) -> tuple[float, float]:
    """Audience and times; when it ends, and when it was issued. Raises RowcallError."""
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not any(isinstance(each, str) and each in issuer.audiences for each in named):
        raise token_invalid(
            Problem.AUDIENCE, "is not for this service: none of the audiences set for its issuer is in aud"
        )
    leeway = seconds(issuer.leeway)
    expires = _time(claims, "exp")
    if expires is None:
        raise token_invalid(Problem.TIME, "does not say when it ends (exp)")
    if now >= expires + leeway:
        raise token_expired()
    if now < (_time(claims, "nbf") or 0) - leeway:
        raise token_invalid(Problem.TIME, "is not valid yet (nbf)")
    issued = _time(claims, "iat")
    if issued is not None and now < issued - leeway:
        raise token_invalid(Problem.TIME, "was issued in the future (iat)")
    if issuer.max_age is None:
        return expires + leeway, -math.inf if issued is None else issued
    if issued is None:
        raise token_invalid(Problem.TIME, "does not say when it was issued (iat), and its age is bounded here")
    oldest = issued + seconds(issuer.max_age) + leeway
    if now >= oldest:
        raise token_expired()
    return min(expires + leeway, oldest), issued


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    said = claims.get(name)
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not -1e15 < said < 1e15:
        raise token_invalid(Problem.TIME, f"has a claim {name} that is no time: seconds since 1970")
    return float(said)


def _bytes(part: bytes, what: str) -> bytes:
    try:
        return binascii.a2b_base64(part + b"==="[: -len(part) % 4], strict_mode=True)
    except binascii.Error:
        raise token_invalid(Problem.FORMAT, f"has a {what} that is not base64url") from None


def _object(part: bytes, what: str) -> dict[str, Any]:
    data = _bytes(part, what)
    try:
        found = _JSON.decode(data.decode())
    except (ValueError, RecursionError):
        # What is wrong with it is not repeated: the parser's words quote it.
        raise token_invalid(Problem.FORMAT, f"has a {what} that is no JSON object, or gives a name twice") from None
    if not isinstance(found, dict):
        raise token_invalid(Problem.FORMAT, f"has a {what} that is no JSON object")
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("twice")
    return made


def _no_constant(name: str) -> float:
    raise ValueError(name)


_JSON: Final = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
