"""W3C trace context: read strictly at the edge, minted where there is none, kept in the row, continued by the worker.

Follows https://www.w3.org/TR/trace-context/ ; section names in the comments are those of that page.
Used by the gateway (accept), the worker (rehydrate) and `rowcall.context`.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

MAX_TRACESTATE_CHARS: Final = 512
"""The length that the recommendation asks everyone to carry; more is dropped."""

MAX_TRACESTATE_MEMBERS: Final = 32
"""The recommendation's own bound."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
# "Key": simple, or tenant@system. "Value": printable ASCII without "," and "=", not ending in a space.
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(f"({_KEY})={_VALUE}", re.ASCII)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = 0x01
_ODD: Final = "13579bdf"
# "trace-flags": bits that this version does not define are not passed on.
_KNOWN_FLAGS: Final = 0x03


# Ids must differ, not be secret ("trace-id": "randomly generated"); seeded by the system, each process for itself. A read of
# the system's own for every id costs ten times as much.
_RANDOM: Final = random.Random(secrets.randbits(256))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _RANDOM.seed(secrets.randbits(256)))


class TraceContext(NamedTuple):
    """A position in a trace. Make it with `accept`, `mint` or `child`: the fields are taken as valid."""

    traceparent: str
    """Version 00: "00-{trace id}-{span id}-{flags}", lower-case hex."""
    tracestate: str | None = None
    """The vendors' own state, passed on unread."""

    @classmethod
    def accept(cls, traceparent: str | None, tracestate: str | None = None) -> Self:
        """The caller's position, or a minted one if the caller sent none or none that can be read."""
        known = cls.parse(traceparent, tracestate)
        return cls.mint() if known is None else known

    @classmethod
    def parse(cls, traceparent: str | None, tracestate: str | None = None) -> Self | None:
        """The position in the two headers; None if traceparent is absent or invalid.

        A later version of traceparent is read as far as version 00 goes and passed on as 00 ("Versioning of
        traceparent"). A tracestate that is invalid or too long is dropped; the trace goes on without it.
        """
        match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
        if match is None:
            return None
        version, trace_id, span_id, flags, rest = match.groups()
        if version == "ff" or (version == "00" and rest is not None):
            return None
        if trace_id == _NO_TRACE or span_id == _NO_SPAN:
            return None
        known_flags = int(flags, 16) & _KNOWN_FLAGS
        return cls(f"00-{trace_id}-{span_id}-{known_flags:02x}", _valid_tracestate(tracestate))

    @classmethod
    def from_metadata(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self:
        """The position in a call's metadata, minted if there is none."""
        known = cls.found(metadata)
        return cls.mint() if known is None else known

    @classmethod
    def found(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self | None:
        """The position in a call's metadata; None if there is none that can be read.

        Two traceparents are none ("Processing Model"); several tracestates are one list, in their order.
        """
        parents: list[str] = []
        states: list[str] = []
        for key, value in metadata:
            if key == "traceparent" and isinstance(value, str):
                parents.append(value)
            elif key == "tracestate" and isinstance(value, str):
                states.append(value)
        return cls.parse(parents[0], ",".join(states) if states else None) if len(parents) == 1 else None

    @classmethod
    def mint(cls, *, sampled: bool = False) -> Self:
        """The root of a new trace, with random ids."""
        return cls(f"00-{_random_id(16)}-{new_span_id()}-{int(sampled):02x}")

    @classmethod
    def of(cls, seed: bytes) -> Self:
        """The root of a trace that is the same each time: of what brought none along."""
        drawn = hashlib.blake2b(seed, digest_size=24).hexdigest()
        return cls(f"00-{drawn[:32]}-{drawn[32:]}-00")

    def child(self, span_id: str | None = None) -> Self:
        """A new position below this one, in the same trace.

        Args:
            span_id: One of `new_span_id` that was given to it already.
        """
        found = span_id or new_span_id()
        return type(self)(f"{self.traceparent[:36]}{found}{self.traceparent[52:]}", self.tracestate)

    def marked(self, *, sampled: bool) -> Self:
        """The same position, of a trace that is recorded here, or is not ("Mutating the traceparent field": update sampled)."""
        flags = int(self.traceparent[53:], 16) & ~_SAMPLED | sampled
        return type(self)(f"{self.traceparent[:53]}{flags:02x}", self.tracestate)

    @property
    def trace_id(self) -> str:
        """32 hex digits: the same for everything that one action causes."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hex digits: this position."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether the caller records the trace."""
        return self.traceparent[54] in _ODD


def new_span_id() -> str:
    """16 hex digits, for a position that is yet to be."""
    return _random_id(8)


def span_name(number: int) -> str:
    """16 hex digits of a span's id that is kept as a signed number of 64 bits."""
    return f"{number % 2**64:016x}"


def _random_id(size: int) -> str:
    # All zeros mean "none", and are refused by every reader.
    return f"{_RANDOM.getrandbits(size * 8) or 1:0{size * 2}x}"


def _valid_tracestate(text: str | None) -> str | None:
    """The list without its blanks; None if there is none or it breaks the rules ("tracestate Header")."""
    if text is None or len(text) > MAX_TRACESTATE_CHARS:
        return None
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    keys: set[str] = set()
    for member in members:
        match = _MEMBER.fullmatch(member)
        if match is None or match[1] in keys:
            return None
        keys.add(match[1])
    if not members or len(members) > MAX_TRACESTATE_MEMBERS:
        return None
    return ",".join(members)
