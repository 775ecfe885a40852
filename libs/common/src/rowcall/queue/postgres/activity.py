"""Spans as rows, blocking: written from a thread of their own, over a connection of their own, so that nothing waits for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from rowcall import forks
from rowcall.liveness import shut
from rowcall.queue.postgres.statements import statement
from rowcall.security import passwords
from rowcall.settings import ClusterSettings
from rowcall.sharding.pools import connection_string

PATIENCE: Final = timedelta(seconds=2)
"""How long a batch may take; also how long a shard has to let in, and to acknowledge what it was sent."""
_GIVE_UP_SECONDS: Final = 1.5 * PATIENCE.total_seconds()


class PostgresActivityLog:
    """A `rowcall.telemetry.activity.ActivityLog` over one connection, opened when it is needed."""

    def __init__(self, shard: str, settings: ClusterSettings, *, service: str) -> None:
        """
        Args:
            shard: The shard's name in the settings.
            settings: Where it is.
            service: Whose spans they are, for pg_stat_activity.
        """
        self.shard = shard
        """See ActivityLog.shard."""
        self._conninfo = connection_string(
            settings.shards[shard], settings, application=f"{service} activity", statement_timeout=PATIENCE
        )
        self._parameters: dict[str, Any] = {
            "connect_timeout": round(PATIENCE.total_seconds()),
            "tcp_user_timeout": round(PATIENCE.total_seconds() * 1000),
        }
        self._prepare = settings.prepare_after is not None
        self._connection: psycopg.Connection[Any] | None = None
        self._closed = False

    def write(self, spans: Sequence[Mapping[str, Any]]) -> None:
        """See ActivityLog.write. Raises psycopg.Error, OSError."""
        try:
            connection = self._connected()
            # Postgres ends what takes too long; where nothing is heard of it any more, we do.
            timer = threading.Timer(_GIVE_UP_SECONDS, shut, [connection])
            timer.daemon = True
            timer.start()
            try:
                connection.execute(statement("record_activity"), {"spans": Jsonb(list(spans))}, prepare=self._prepare)
            finally:
                timer.cancel()
        except (psycopg.Error, OSError):
            self._drop()
            raise

    def close(self) -> None:
        """See ActivityLog.close. A statement that runs in another thread ends with a lost connection."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            shut(connection)
            with suppress(psycopg.Error, OSError):
                connection.close()

    def _connected(self) -> psycopg.Connection[Any]:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = passwords.connect_blocking(
                self._conninfo, **self._parameters, autocommit=True
            )
            forks.hold(connection)
        # Looked at behind what `close` looks for: it may come from another thread while this one connects.
        if self._closed:
            raise psycopg.OperationalError("no more spans are kept")
        return connection
