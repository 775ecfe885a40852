"""Actions as they are recorded, and chains as they are read. Values only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

SYSTEM: Final = ""
"""The tenant of what belongs to none."""


@dataclass(frozen=True, slots=True)
class Act:
    """Somebody's doing, beside what is done: goes with each statement that is recorded."""

    actor: str | None = None
    """Who, as the credential says it; None: callers are believed, and this one said nothing."""
    credential: str | None = None
    """What it was known by: "jwt https://login.example.com"."""
    roles: Sequence[str] = ()
    """Its roles."""
    reason: str | None = None
    """What for, where it said so."""
    trace_id: str | None = None
    """The call's W3C trace id."""

    def json(self) -> str:
        """As the database's functions take it."""
        said = {
            "actor": self.actor,
            "credential": self.credential,
            "roles": ",".join(sorted(self.roles)) or None,
            "reason": self.reason,
            "trace_id": self.trace_id,
        }
        return json.dumps({key: value for key, value in said.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Content:
    """What an entry says, apart from whose chain it is in."""

    at: datetime
    """When, by the database's clock."""
    actor: str | None
    """See Act.actor."""
    credential: str | None
    """See Act.credential."""
    roles: str | None
    """Its roles, with commas between."""
    action: str
    """What: "job.cancel"."""
    target: str
    """To what: "tenants/acme/operations/…", "queues/mail"."""
    before: str | None
    """How that was, as JSON; None where nothing is to be said of it."""
    after: str | None
    """How it is since, as JSON."""
    reason: str | None
    """See Act.reason."""
    trace_id: str | None
    """See Act.trace_id."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded action."""

    number: int
    """Higher for what arrived later in the same database; for pages."""
    place: int | None
    """In its chain, from 1; None: it has none yet."""
    hash: bytes | None
    """The chain's at that place."""
    content: Content
    """What it says."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends. Kept elsewhere, it shows later that nothing before it was changed."""

    place: int
    """Of the last entry; 0: there is none."""
    hash: bytes
    """32 bytes."""
    sealed_at: datetime | None
    """When the last entry got its place."""
    checkpoint: int
    """Up to where retention has cut it; 0: nowhere."""
    unsealed: int
    """Entries that wait for their place."""
    unsealed_since: datetime | None
    """When the first of them was written."""


@dataclass(frozen=True, slots=True)
class Link:
    """One place of a chain, with what is to be found there."""

    place: int
    digest: bytes
    """Of the content."""
    hash: bytes
    """Of all up to here."""
    erased: bool
    """Whether the content was erased on purpose."""
    content: Content | None
    """None: it is not there."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where retention cut a chain."""

    place: int
    hash: bytes
    made_at: datetime
    signature: bytes
    """See `signing`."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A chain that has grown."""

    tenant: str
    place: int
    hash: bytes
    count: int
    """Entries that were sealed in the same statement, of all chains together."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What one statement has erased of a chain's content."""

    place: int
    """Up to where."""
    erased: int
    """How many entries."""
    remains: bool
    """Whether there is more to erase: behind the place, or once it is sealed."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """An entry that was put in behind the sealer's back."""

    at: datetime
    action: str
    target: str
