"""Who did what that belongs to no shard: the catalogue's chain. Part of the router; nobody else than gateways asks.

Its entries have their place as soon as they are written, so that nothing of it waits to be sealed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rowcall.audit.model import Content, Entry, Head, Link
from rowcall.sharding.revocations import Fetch


class CatalogueAudit:
    """The chain of the catalogue. Every method raises RowcallError: CATALOGUE_UNAVAILABLE, SCHEMA_MISMATCH or INTERNAL."""

    def __init__(self, fetch: Fetch) -> None:
        """
        Args:
            fetch: Asks the catalogue.
        """
        self._fetch = fetch

    async def entries(
        self, *, below: int | None = None, limit: int, actor: str = "", action: str = "", target: str = ""
    ) -> Sequence[Entry]:
        """What was done, the latest first; see QueueAdmin.audit_entries."""
        rows = await self._fetch(
            "list_audit", {"below": below, "limit": limit, "actor": actor, "action": action, "target": target}
        )
        return [Entry(place, place, bytes(hash_), Content(*content)) for place, hash_, *content in rows]

    async def head(self) -> Head:
        """Where the chain ends."""
        [(place, hash_, at)] = await self._fetch("audit_head", {})
        return Head(place, bytes(hash_), at, checkpoint=0, unsealed=0, unsealed_since=None)

    async def chain(self, *, after: int, limit: int) -> Sequence[Link]:
        """A stretch of the chain behind a place, in order."""
        rows = await self._fetch("audit_chain", {"after": after, "limit": limit})
        return [
            Link(place, bytes(digest), bytes(hash_), erased=False, content=Content(*content))
            for place, digest, hash_, *content in rows
        ]
