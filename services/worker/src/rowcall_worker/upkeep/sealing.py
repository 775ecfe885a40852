"""Who did what, chained: each second what was recorded gets its place, each minute the ends of the chains are told to the log, and
what is older than its retention is cut off, signed. Part of the maintainer, which one worker of a shard is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from rowcall.audit.model import Checkpoint
from rowcall.audit.signing import sign
from rowcall.names import tenant_name
from rowcall.queue.protocol import WorkQueue

BATCH: Final = 2000
"""Entries that get their places in one statement, and that are cut off in one."""

TELL_EVERY: Final = 60.0
"""Seconds between two lines of the log about one chain, at least."""

_log = structlog.get_logger(__name__)


class Sealing:
    """One shard's."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        retention: timedelta,
        key: bytes | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        queue: The shard's.
        shard: Its name, for the log.
        retention: How long entries are kept.
        key: Signs where they are cut off; None: they are kept for ever.
        clock: Seconds.
        """
        self._queue = queue
        self._shard = shard
        self._retention = retention
        self._key = key
        self._clock = clock
        self._told_at = float("-inf")
        self._grown: dict[str, tuple[int, bytes]] = {}
        """Chains that have grown since their heads were told, with their ends."""

    async def seal(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Gives places until there is nothing left to give one to, and tells of the heads when it is time."""
        while goes_on():
            sealed = await self._queue.seal_audit(BATCH)
            for chain in sealed:
                self._grown[chain.tenant] = (chain.place, chain.hash)
            if not sealed or sealed[0].count < BATCH:
                break
        if self._grown and self._clock() >= self._told_at + TELL_EVERY:
            self.tell()

    def tell(self) -> None:
        """Tells the heads of the chains that have grown: a copy of the log is what they are held against later."""
        self._told_at = self._clock()
        grown, self._grown = self._grown, {}
        for tenant, (place, hash_) in sorted(grown.items()):
            _log.info(
                "audit head",
                shard=self._shard,
                chain=tenant_name(tenant) if tenant else "system",
                place=place,
                hash=hash_.hex(),
            )

    async def cut(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Cuts off what is older than its retention, and leaves a signed checkpoint; without a key nothing."""
        if self._key is None:
            return
        while goes_on():
            due = await self._queue.audit_due(self._retention, BATCH)
            gone = 0
            for tenant, place, hash_ in due:
                # As exact as the database keeps it: the signature is of what is read back.
                made_at = datetime.now(UTC)
                signature = sign(self._key, tenant, place, hash_, made_at)
                cut = await self._queue.cut_audit(tenant, Checkpoint(place, hash_, made_at, signature))
                gone += max(cut, 0)
                _log.info(
                    "audit cut",
                    shard=self._shard,
                    chain=tenant_name(tenant) if tenant else "system",
                    place=place,
                    hash=hash_.hex(),
                    count=max(cut, 0),
                )
            if gone < BATCH:
                return
