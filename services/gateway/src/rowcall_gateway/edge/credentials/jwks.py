"""A set of keys (JWKS, RFC 7517) as its issuer publishes it, read into what signatures are checked with. Called by `sources`.

The keys and the algorithms are joserfc's; what is taken of a set is decided here. A key that cannot be used is left out with a
word in the log: issuers publish keys for encryption, and of kinds that are to come, beside those that sign.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry
from joserfc.jws import JWSRegistry

from rowcall_gateway.edge.credentials.issuers import ALGORITHMS

MAX_KEYS: Final = 100
MAX_KID_CHARS: Final = 256
MOST_CANDIDATES: Final = 4
"""Keys that a token may be held against: more of one name, or without one, are no set of keys that anybody rotates."""

_RSA_BITS: Final = (2048, 8192)
"""Below it can be broken, above one check takes milliseconds."""

_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A public key that tokens are signed with."""

    kid: str | None
    """Its name in its set."""
    thumbprint: str
    """RFC 7638: the same key has the same, whatever it is called."""
    algorithms: Mapping[str, Any]
    """joserfc's models of the algorithms that it may be used with."""
    native: Any = field(repr=False)
    """joserfc's."""

    def verifies(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether it made a signature. The algorithm is one of its own."""
        return bool(self.algorithms[algorithm].verify(message, signature, self.native))


class Keys:
    """A set of them, as it was read at one time."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys
        self._by_kid: dict[str, list[Key]] = {}
        for key in keys:
            if key.kid is not None:
                self._by_kid.setdefault(key.kid, []).append(key)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def thumbprints(self) -> frozenset[str]:
        """Which keys are in it."""
        return frozenset(key.thumbprint for key in self._keys)

    def find(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that a token may have been signed with: those of the name; where the token has none, all that fit."""
        named = self._keys if kid is None else self._by_kid.get(kid, ())
        fitting = [key for key in named if algorithm in key.algorithms]
        return fitting if len(fitting) <= MOST_CANDIDATES else ()


@dataclass(frozen=True, slots=True)
class Read:
    """What became of a document."""

    keys: Keys
    left_out: Sequence[str]
    """Keys that are not used, and why; nothing of the keys themselves."""


def read_keys(document: bytes, algorithms: Sequence[str]) -> Read:
    """Reads a set of keys.

    Args:
        document: As it was fetched.
        algorithms: What its issuer's tokens may be signed with.

    Raises:
        ValueError: It is none, or has no key that can be used: whoever answers so is broken, and its last keys are kept.
    """
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        raise ValueError("what came is not JSON") from None
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError('what came is no set of keys: an object with a list "keys"')  # noqa: TRY004 - one kind of error
    if len(listed) > MAX_KEYS:
        raise ValueError(f"what came has {len(listed)} keys; {MAX_KEYS} are taken")
    keys, left_out = [], []
    for number, each in enumerate(listed):
        try:
            keys.append(_read_key(each, algorithms))
        except ValueError as error:
            left_out.append(f"keys[{number}]: {error}")
    if not keys:
        raise ValueError("; ".join(["what came has no key that can be used", *left_out[:5]]))
    return Read(Keys(keys), left_out)


def _read_key(given: object, algorithms: Sequence[str]) -> Key:
    """One key. Raises ValueError: why it is not used."""
    if not isinstance(given, dict):
        raise ValueError("is no object")  # noqa: TRY004 - one kind of error
    kid = given.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_CHARS):
        raise ValueError(f"has a kid that is no text of {MAX_KID_CHARS} characters at most")
    operations = given.get("key_ops", ["verify"])
    if given.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("is not for signatures")
    if given.get("kty") == "oct":
        raise ValueError("is a shared secret: whoever could check a token could make one")
    # Certificates beside it say nothing that we ask, and need not be read.
    public = {name: given[name] for name in ("kty", "n", "e", "crv", "x", "y", "alg") if name in given}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is refused below
            # Of which kind its key is, its type does not say.
            native: Any = JWKRegistry.import_key(public)
            models = _models(native, algorithms)
            thumbprint = native.thumbprint()
    except (JoseError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from None
    if native.key_type == "RSA" and not _RSA_BITS[0] <= native.public_key.key_size <= _RSA_BITS[1]:
        raise ValueError(
            f"is an RSA key of {native.public_key.key_size} bits, and not of {_RSA_BITS[0]} to {_RSA_BITS[1]}"
        )
    if not models:
        raise ValueError("is for none of the issuer's algorithms")
    return Key(kid, thumbprint, models, native)


def _models(native: Any, algorithms: Sequence[str]) -> Mapping[str, Any]:
    registry = JWSRegistry(algorithms=list(ALGORITHMS))
    found = {}
    for name in algorithms:
        model = registry.get_alg(name)
        try:
            model.check_key(native)
        except JoseError:
            continue
        if name in _CURVES and native.curve_name != _CURVES[name]:
            continue
        found[name] = model
    return found
