"""Hints as NOTIFY and LISTEN: their channels and payloads, who sends and who hears them. Called by `session` and `provider`.

Hints are sent outside of the transactions that they tell of (NOTIFY takes a lock of the whole database at commit): behind the
statement that they are for, on its connection (`behind`), or else from one connection, at most one statement an interval
(`PostgresNotifier`). Behind a transaction pooler there are none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from psycopg import sql

from rowcall import sessions
from rowcall.queue.hints import Hint
from rowcall.queue.postgres.wire.arrays import TextArray
from rowcall.queue.postgres.wire.connection import execute
from rowcall.queue.postgres.wire.link import Link
from rowcall.queue.postgres.wire.prepared import Behind
from rowcall.queue.postgres.wire.types import Connection
from rowcall.queue.postgres.wire.watch import Watch

READY_CHANNEL: Final = "rowcall_ready"
"""Queues have got ready jobs; the payload is their ids, as `parse_ready` reads them."""

CANCEL_CHANNEL: Final = "rowcall_cancel"
"""Running jobs of workers are to be cancelled; the payload is the workers' ids, as `parse_cancel` reads them."""

WAKE_CHANNEL: Final = "rowcall_wake"
"""Somebody who submits in SQL asks workers to look, at whatever they serve: `rowcall.wake_v1`. There is no payload."""

_DONE_PREFIX: Final = "rowcall_done_"
_IDS_A_PAYLOAD: Final = 240
"""240 ids of 32 digits with commas are 7919 bytes; Postgres takes 7999."""
_LAST_WORDS: Final = 0.5
"""Seconds that closing waits for hints to be sent: whoever waits for them asks by itself not much later."""
_LOOK_EVERY: Final = 10.0
"""Seconds between looks at whether the server that is listened to still takes writes: one that does not sends no hints, and
says so only when it is asked something."""
_MOST_WAITING: Final = 20_000
"""Ids of finished jobs that are kept while they cannot be sent; what is beyond is left to polling."""

_log = structlog.get_logger(__name__)


def done_channel(waiter_id: UUID) -> str:
    """The channel on which a gateway process hears of the jobs it waits for."""
    return f"{_DONE_PREFIX}{waiter_id.hex}"


def parse_ready(payload: str) -> list[int]:
    """The queue ids of a hint on READY_CHANNEL; what cannot be read is left out."""
    return [int(part) for part in payload.split(",") if part.isascii() and part.isdigit()]


def parse_done(payload: str) -> list[UUID]:
    """The job ids of a hint on a gateway's channel; what cannot be read is left out."""
    return _ids(payload)


def parse_cancel(payload: str) -> list[UUID]:
    """The worker ids of a hint on CANCEL_CHANNEL; what cannot be read is left out."""
    return _ids(payload)


def _ids(payload: str) -> list[UUID]:
    found = []
    for part in payload.split(","):
        try:
            found.append(UUID(hex=part))
        except ValueError:
            continue
    return found


def behind(hint: Hint) -> Behind:
    """The statement that sends a hint, to go behind the one that it is for."""
    return _notify([_ready(hint.queue_ids), *map(_done, hint.jobs.items())])


def _notify(hints: Iterable[tuple[str, Iterable[str]]]) -> Behind:
    """The statement for channels, each with the ids that are to be told there."""
    channels: list[str] = []
    payloads: list[str] = []
    for channel, ids in hints:
        for payload in _payloads(ids):
            channels.append(channel)
            payloads.append(payload)
    return Behind("notify", {"channel": TextArray(channels), "payload": TextArray(payloads)})


def _ready(queue_ids: Iterable[int]) -> tuple[str, Iterable[str]]:
    return READY_CHANNEL, map(str, sorted(queue_ids))


def _done(jobs: tuple[UUID, Iterable[UUID]]) -> tuple[str, Iterable[str]]:
    waiter_id, job_ids = jobs
    return done_channel(waiter_id), [each.hex for each in job_ids]


class PostgresListener:
    """A `rowcall.queue.hints.Listener` on channels of one shard."""

    def __init__(
        self,
        conninfo: str,
        channels: Sequence[str],
        callback: Callable[[str, str], None],
        *,
        connected: Callable[[], None] | None = None,
        name: str = "rowcall listener",
    ) -> None:
        """
        Args:
            conninfo: Of the shard, directly.
            channels: What to listen on.
            callback: Called with channel and payload, in the event loop; it must not block.
            connected: Called when listening starts, and starts again: hints may have been missed, so poll now.
            name: application_name of the connection.
        """
        self._channels = tuple(channels)
        self._callback = callback
        self._connected = connected
        self._link = Link(conninfo, name, self._listen)

    def start(self) -> None:
        """Starts listening, in the running event loop; connects on its own, again and again."""
        self._link.start()

    async def close(self) -> None:
        """Stops listening."""
        await self._link.close()

    async def _listen(self, connection: Connection) -> None:
        for channel in self._channels:
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        if self._connected is not None:
            self._tell(self._connected)
        # What comes while the server is asked something.
        connection.add_notify_handler(lambda notify: self._tell(self._callback, notify.channel, notify.payload))
        while True:
            await self._hear(connection)
            await connection.execute("")
            sessions.look_at(connection)

    async def _hear(self, connection: Connection) -> None:
        """Listens until it is time to look at the session."""
        # psycopg's own way to wait takes as long again as all that a hint leads to here.
        pgconn = connection.pgconn
        watch = Watch(pgconn)
        ended: asyncio.Future[None] = watch.loop.create_future()

        def hear() -> None:
            pgconn.consume_input()
            while notify := pgconn.notifies():
                self._tell(self._callback, notify.relname.decode(), notify.extra.decode())

        def fail(error: Exception) -> None:
            if not ended.done():
                ended.set_exception(error)

        watch.start(hear, fail)
        try:
            await asyncio.wait([ended], timeout=_LOOK_EVERY)
            if ended.done():
                ended.result()
        finally:
            watch.close()

    def _tell(self, callback: Callable[..., None], *arguments: str) -> None:
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - one hint that cannot be used must not end all others
            _log.exception("a hint could not be used")


class PostgresNotifier:
    """A `rowcall.queue.hints.Notifier`: the first at once, then one statement an interval."""

    def __init__(
        self, conninfo: str, *, interval: timedelta = timedelta(milliseconds=2), name: str = "rowcall notifier"
    ) -> None:
        """
        Args:
            conninfo: Of the shard.
            interval: The shortest time between two statements. A caller that calls again as soon as it is answered
                waits for it, so it is short; at full speed a statement tells of all that came meanwhile.
            name: application_name of the connection.
        """
        self._interval = interval.total_seconds()
        self._queues: set[int] = set()
        self._cancel: set[UUID] = set()
        self._done: dict[UUID, list[UUID]] = {}
        self._waiting = 0
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        """Set while nothing waits and nothing is on its way."""
        self._idle.set()
        self._link = Link(conninfo, name, self._send)

    def start(self) -> None:
        """Starts sending, in the running event loop; connects on its own, again and again."""
        self._link.start()

    async def close(self) -> None:
        """Sends what waits, for half a second at most, and stops. Hints that were not sent are dropped."""
        if self._link.started:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await self._idle.wait()
        await self._link.close()

    def ready(self, queue_ids: Iterable[int]) -> None:
        """Queues have got ready jobs. Never blocks, never fails."""
        self._queues.update(queue_ids)
        if self._queues:
            self._want()

    def cancel(self, worker_ids: Iterable[UUID]) -> None:
        """Jobs that these workers run are to be cancelled: they ask which. Never blocks, never fails."""
        self._cancel.update(worker_ids)
        if self._cancel:
            self._want()

    def done(self, waiter_id: UUID, job_ids: Sequence[UUID]) -> None:
        """Jobs are finished that a gateway waits for. Never blocks, never fails."""
        if job_ids and self._waiting < _MOST_WAITING:
            self._done.setdefault(waiter_id, []).extend(job_ids)
            self._waiting += len(job_ids)
            self._want()

    def _want(self) -> None:
        self._idle.clear()
        self._wanted.set()

    async def _send(self, connection: Connection) -> None:
        while True:
            if not self._wanted.is_set():
                self._idle.set()
            await self._wanted.wait()
            await execute(connection, *self._take())
            sessions.look_at(connection)
            if not self._wanted.is_set():
                self._idle.set()
            await asyncio.sleep(self._interval)

    def _take(self) -> Behind:
        """What waits to be sent; from here on it is sent or lost."""
        self._wanted.clear()
        queues, self._queues = self._queues, set()
        cancel, self._cancel = self._cancel, set()
        done, self._done = self._done, {}
        self._waiting = 0
        cancelled = (CANCEL_CHANNEL, sorted(each.hex for each in cancel))
        return _notify([_ready(queues), cancelled, *map(_done, done.items())])


def _payloads(ids: Iterable[str]) -> list[str]:
    all_ids = list(ids)
    return [",".join(all_ids[start : start + _IDS_A_PAYLOAD]) for start in range(0, len(all_ids), _IDS_A_PAYLOAD)]
