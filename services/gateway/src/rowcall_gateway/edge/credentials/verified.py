"""Tokens that were good just now, by their SHA-256, so that a caller's next call is not checked anew. Held by `scopes`.

Bounded in number and time. What is dropped is only checked again: an entry that should be refused is dropped when that becomes
known, by whoever learns it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from rowcall_gateway.edge.credentials.refusals import Problem, token_expired, token_invalid, token_revoked
from rowcall_gateway.edge.identity import Principal

KEPT_FOR: Final = 300.0
"""Seconds for which a token is not checked again."""

MAX_TOKENS: Final = 10_000
"""As many are remembered; some 2 KiB each."""


class Standing(Protocol):
    """What may have become of an issuer since a token of it was checked. `scopes` knows."""

    def now(self) -> float:
        """Unix time."""

    def is_current(self, issuer: str, settings: int) -> bool:
        """Whether the issuer is set as it was, by the number of the settings."""

    def has_key(self, issuer: str, thumbprint: str) -> bool:
        """Whether a key is still the issuer's."""

    def is_revoked(self, issuer: str, subject: str, issued_at: float) -> bool:
        """Whether a token is refused since."""


class TokenProof(NamedTuple):
    """What of a good token can end while its call waits."""

    issuer: str
    subject: str
    issued_at: float
    ends_at: float
    thumbprint: str
    """Of the key that signed it."""
    settings: int
    """The number of the settings that it was checked by."""
    standing: Standing

    def check(self) -> None:
        """See `rowcall_gateway.edge.identity.Proof.check`."""
        if self.standing.now() >= self.ends_at:
            raise token_expired()
        if self.standing.is_revoked(self.issuer, self.subject, self.issued_at):
            raise token_revoked()
        if not self.standing.is_current(self.issuer, self.settings):
            raise token_invalid(Problem.ISSUER, "is of an issuer whose settings have changed while the call waited")
        if not self.standing.has_key(self.issuer, self.thumbprint):
            raise token_invalid(
                Problem.KEY, "is signed with a key that its issuer has taken back while the call waited"
            )


class Verified(NamedTuple):
    """A token that is good."""

    principal: Principal
    """Its caller, for calls that name neither tenant nor actor."""
    proof: TokenProof
    until: float
    """Unix time until which it is not checked again."""


class VerifiedTokens:
    """The tokens that were good just now."""

    def __init__(self, *, size: int = MAX_TOKENS, clock: Callable[[], float] = time.time) -> None:
        self._size = size
        self._clock = clock
        # The first of a plain dict is found by looking over all that were deleted before it.
        self._found: OrderedDict[bytes, Verified] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, digest: bytes) -> Verified | None:
        """A token that need not be checked."""
        found = self._found.get(digest)
        if found is None:
            return None
        if self._clock() >= found.until:
            del self._found[digest]
            return None
        return found

    def keep(self, digest: bytes, principal: Principal, proof: TokenProof) -> Verified:
        """Remembers a token that was checked now."""
        made = Verified(principal, proof, min(self._clock() + KEPT_FOR, proof.ends_at))
        self._found[digest] = made
        while len(self._found) > self._size:
            self._found.popitem(last=False)
        return made

    def drop(self, is_meant: Callable[[TokenProof], bool]) -> None:
        """Forgets the tokens that are meant."""
        for digest in [digest for digest, each in self._found.items() if is_meant(each.proof)]:
            del self._found[digest]
