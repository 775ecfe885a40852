"""The chain: what is hashed, and how a chain is held against what it must be. Called by the gateway's AuditService.

The database makes the same hashes as it seals (`audit_digest` and `seal_audit` of 0018_audit); here they are made again, so that what is
verified does not rest on the functions of the database that is looked at.
"""

from __future__ import annotations

import enum
import hashlib
import json
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from rowcall.audit.model import Content, Link

BEGINNING: Final = bytes(32)
"""The hash before the first place."""

ERASE: Final = "audit.erase"
"""The action of an entry that says which others were erased."""

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

    def __init__(
        self, tenant: str, *, place: int = 0, hash_: bytes = BEGINNING, erasures: Iterable[Content] = ()
    ) -> None:
        """
        Args:
            tenant: Whose chain.
            place: Behind which to begin; 0: at the beginning.
            hash_: The hash at that place.
            erasures: Its entries of erasures, which say what may be gone.
        """
        self._tenant = tenant
        self._erased = sorted(run for erasure in erasures for run in erased_places(erasure))
        self.place = place
        """The last place that was looked at."""
        self.hash = hash_
        """The hash there, as the chain has it."""
        self.erased = 0
        """Places whose entry was erased on purpose, of those that were looked at."""

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
                elif not self._is_erased(link.place):
                    yield Fault(
                        FaultKind.MISSING,
                        link.place,
                        f"The entry of place {link.place} is gone: it is marked as erased, but no entry says that it was.",
                    )
                else:
                    self.erased += 1
            elif digest(self._tenant, link.content) != link.digest:
                yield Fault(
                    FaultKind.CHANGED,
                    link.place,
                    f"The entry of place {link.place} ({link.content.action} of {link.content.target}) says something else "
                    "than when it was sealed.",
                )
            self.place, self.hash = link.place, link.hash

    def _is_erased(self, place: int) -> bool:
        at = bisect_right(self._erased, (place, sys.maxsize)) - 1
        return at >= 0 and self._erased[at][0] <= place <= self._erased[at][1]


def erased_places(erasure: Content) -> Iterator[tuple[int, int]]:
    """The runs of places, both ends included, that an entry says were erased; of what says something else none."""
    if erasure.action != ERASE or erasure.after is None:
        return
    try:
        said = json.loads(erasure.after)["places"]
        runs = [(first, last) for first, last in said]
    except (ValueError, TypeError, KeyError):
        return
    yield from (run for run in runs if all(type(end) is int for end in run))


def _field(value: str | None) -> bytes:
    if value is None:
        return b"-"
    data = value.encode()
    return b"%d:%b" % (len(data), data)
