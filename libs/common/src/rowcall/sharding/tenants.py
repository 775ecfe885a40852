"""Which tenants there are, as the catalogue has them: for admins, who look at all of them. Part of the router."""

from __future__ import annotations

from collections.abc import Sequence

from rowcall.sharding.bounds import Fetch
from rowcall.sharding.model import Route


class PlacedTenants:
    """The tenants of the catalogue. Raises RowcallError: CATALOGUE_UNAVAILABLE, SCHEMA_MISMATCH or INTERNAL."""

    def __init__(self, fetch: Fetch) -> None:
        """
        Args:
            fetch: Asks the catalogue.
        """
        self._fetch = fetch

    async def page(self, *, after: str, shard: str, limit: int) -> Sequence[Route]:
        """Tenants by name, behind one (empty: from the first on), those of a shard (empty: of all)."""
        rows = await self._fetch("list_tenants", {"after": after, "shard": shard, "limit": limit})
        return [Route(*row) for row in rows]
