"""The queue of one shard on Postgres, put together from the shard's pools and from connections of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

import psycopg

from rowcall.errors import RowcallError
from rowcall.migrations import check_schema
from rowcall.queue.postgres.admin import PostgresQueueAdmin
from rowcall.queue.postgres.admission import PostgresAdmissionStore
from rowcall.queue.postgres.capabilities import find_capabilities, tell
from rowcall.queue.postgres.faults import fault
from rowcall.queue.postgres.hints import (
    CANCEL_CHANNEL,
    READY_CHANNEL,
    WAKE_CHANNEL,
    PostgresListener,
    PostgresNotifier,
    done_channel,
    parse_cancel,
    parse_done,
    parse_ready,
)
from rowcall.queue.postgres.renewal import PostgresLeaseRenewal
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.postgres.tenants import PostgresTenantAdmin
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.security import passwords
from rowcall.settings import ClusterSettings, SettingsError
from rowcall.sharding import Shard, Workload
from rowcall.sharding.durability import check_durability


class PostgresQueueProvider:
    """A `rowcall.queue.protocol.QueueProvider` over one shard."""

    def __init__(self, shard: Shard, settings: ClusterSettings) -> None:
        """
        Args:
            shard: With the pools of what is provided: a gateway's, or a worker's.
            settings: Whether hints are used, and whether sessions keep anything.
        """
        self._shard = shard
        self._settings = settings
        self.checked = False
        """See QueueProvider.checked."""

    @property
    def shard(self) -> str:
        """See QueueProvider.shard."""
        return self._shard.name

    async def check(self) -> None:
        """See QueueProvider.check."""
        try:
            # Of its own: a pool waits a while for a server that is away, and whoever starts must not.
            async with await passwords.connect(
                psycopg.AsyncConnection.connect, self._shard.connection_string("start"), autocommit=True
            ) as connection:
                await check_schema(connection, "shard", shard=self.shard)
                await check_durability(connection, self._settings, database=f"shard {self.shard!r}")
                tell(await find_capabilities(connection, self._settings), shard=self.shard)
        except (RowcallError, SettingsError):
            raise
        except Exception as error:
            raise fault(error, shard=self.shard) from error
        self.checked = True

    def store(self, *, key_ttl: timedelta) -> PostgresJobStore:
        """See QueueProvider.store."""
        submit, read = self._shard.pool(Workload.SUBMIT), self._shard.pool(Workload.READ)
        return PostgresJobStore(submit, read, shard=self.shard, key_ttl=key_ttl)

    def admin(self) -> PostgresQueueAdmin:
        """See QueueProvider.admin."""
        return PostgresQueueAdmin(self._shard.pool(Workload.SUBMIT), self._shard.pool(Workload.READ), shard=self.shard)

    def admission(self) -> PostgresAdmissionStore:
        """See QueueProvider.admission."""
        return PostgresAdmissionStore(
            self._shard.pool(Workload.SUBMIT), self._shard.pool(Workload.READ), shard=self.shard
        )

    def tenants(self) -> PostgresTenantAdmin:
        """See QueueProvider.tenants."""
        return PostgresTenantAdmin(self._shard.pool(Workload.SUBMIT), self._shard.pool(Workload.READ), shard=self.shard)

    def work(self) -> PostgresWorkQueue:
        """See QueueProvider.work."""
        return PostgresWorkQueue(
            self._shard.pool(Workload.CLAIM),
            self._shard.pool(Workload.SETTLE),
            self._shard.pool(Workload.MAINTENANCE),
            transaction_pool=self._shard.pool(Workload.TRANSACTION),
            shard=self.shard,
        )

    def renewal(self, worker_id: UUID, lease: timedelta) -> PostgresLeaseRenewal:
        """See QueueProvider.renewal."""
        return PostgresLeaseRenewal(
            self._shard.connection_string("lease", Workload.CLAIM),
            worker_id,
            lease,
            shard=self.shard,
            prepare=self._settings.prepare_after is not None,
            # Through such a pooler another's session may hold a lock for ever, or nobody's.
            guard=not self._settings.transaction_pooler,
        )

    def notifier(self, purpose: str) -> PostgresNotifier | None:
        """See QueueProvider.notifier."""
        if not self._settings.uses_hints:
            return None
        return PostgresNotifier(self._shard.connection_string(purpose), name=self._shard.connection_name(purpose))

    def done_listener(
        self, purpose: str, waiter_id: UUID, *, done: Callable[[Sequence[UUID]], None], connected: Callable[[], None]
    ) -> PostgresListener | None:
        """See QueueProvider.done_listener."""

        def heard(_channel: str, payload: str) -> None:
            done(parse_done(payload))

        return self._listener(purpose, [done_channel(waiter_id)], heard, connected)

    def work_listener(
        self,
        purpose: str,
        *,
        ready: Callable[[Sequence[int]], None],
        cancel: Callable[[Sequence[UUID]], None],
        wake: Callable[[], None],
        connected: Callable[[], None],
    ) -> PostgresListener | None:
        """See QueueProvider.work_listener."""

        def heard(channel: str, payload: str) -> None:
            if channel == CANCEL_CHANNEL:
                cancel(parse_cancel(payload))
            elif channel == WAKE_CHANNEL:
                wake()
            else:
                ready(parse_ready(payload))

        return self._listener(purpose, [READY_CHANNEL, CANCEL_CHANNEL, WAKE_CHANNEL], heard, connected)

    def _listener(
        self,
        purpose: str,
        channels: Sequence[str],
        heard: Callable[[str, str], None],
        connected: Callable[[], None],
    ) -> PostgresListener | None:
        if not self._settings.uses_hints:
            return None
        return PostgresListener(
            self._shard.connection_string(purpose),
            channels,
            heard,
            connected=connected,
            name=self._shard.connection_name(purpose),
        )
