"""The chain: what is hashed, and how a chain is held against what it must be. Called by the gateway's AuditService.

The database makes the same hashes as it seals (`audit_digest` and `seal_audit` of 0018_audit); here they are made again, so that what is
verified does not rest on the functions of the database that is looked at.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from rowcall.audit.model import Content, Link

BEGINNING: Final = bytes(32)
"""The hash before the first place."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class FaultKind(enum.StrEnum):
    """What is wrong with a chain."""

    CHANGED = "changed"
    """An entry says something else than when it was sealed."""
    MISSING = "missing"
    """An entry, or the place of one, is gone."""
    INSERTED = "inserted"
    """An entry is there that was never sealed, though later ones were."""
    REHASHED = "rehashed"
    """A place's hash is not what those before it make: the chain was written anew from there, or up to there."""
    CUT = "cut"
    """The chain ends before a head that was seen earlier."""
    REWRITTEN = "rewritten"
    """At an earlier head's place stands another hash: something up to there was changed, and all of it hashed anew."""
    UNSIGNED = "unsigned"
    """Entries were cut from its beginning, and the checkpoint's signature is not ours."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    kind: FaultKind
    place: int
    """Where; 0: it has no place."""
    description: str
    """In words."""


def digest(tenant: str, content: Content) -> bytes:
    """SHA-256 of what an entry says, and of whose chain it is in."""
    fields = (
        tenant,
        str((content.at - _EPOCH) // timedelta(microseconds=1)),
        content.actor,
        content.credential,
        content.roles,
        content.action,
        content.target,
        content.before,
        content.after,
        content.reason,
        content.trace_id,
    )
    return hashlib.sha256(b";".join(map(_field, fields))).digest()


def link_hash(before: bytes, place: int, content_digest: bytes) -> bytes:
    """The hash at a place, of the hash before it."""
    return hashlib.sha256(before + place.to_bytes(8, "big") + content_digest).digest()


class Walk:
    """Follows one chain from a place that is believed, and says what is wrong."""

    def __init__(self, tenant: str, *, place: int = 0, hash_: bytes = BEGINNING) -> None:
        """
        Args:
            tenant: Whose chain.
            place: Behind which to begin; 0: at the beginning.
            hash_: The hash at that place.
        """
        self._tenant = tenant
        self.place = place
        """The last place that was looked at."""
        self.hash = hash_
        """The hash there, as the chain has it."""

    def over(self, links: Iterable[Link]) -> Iterator[Fault]:
        """Looks at what comes next, in the order of places."""
        for link in links:
            if link.place > self.place + 1:
                last = link.place - 1
                first = self.place + 1
                which = f"Place {first} is" if first == last else f"Places {first} to {last} are"
                yield Fault(FaultKind.MISSING, first, f"{which} gone from the chain.")
            elif link_hash(self.hash, link.place, link.digest) != link.hash:
                # Where places are missing nobody can know it.
                yield Fault(
                    FaultKind.REHASHED,
                    link.place,
                    f"The hash of place {link.place} does not follow from what is before it.",
                )
            if link.content is None:
                if not link.erased:
                    yield Fault(FaultKind.MISSING, link.place, f"The entry of place {link.place} is gone.")
            elif digest(self._tenant, link.content) != link.digest:
                yield Fault(
                    FaultKind.CHANGED,
                    link.place,
                    f"The entry of place {link.place} ({link.content.action} of {link.content.target}) says something else "
                    "than when it was sealed.",
                )
            self.place, self.hash = link.place, link.hash


def _field(value: str | None) -> bytes:
    if value is None:
        return b"-"
    data = value.encode()
    return b"%d:%b" % (len(data), data)
