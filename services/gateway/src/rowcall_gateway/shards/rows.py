"""Reads jobs one by one for their callers, many in one statement for the database. One `Rows` for each shard.

A read that comes alone goes at once; those that come while one is under way go together in the next one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

from rowcall.errors import RowcallError
from rowcall.queue.model import JobRow
from rowcall.queue.protocol import JobStore
from rowcall_gateway.edge.failures import internal, rebuilt

BATCH: Final = 64
"""Jobs in one statement: with their answers they may be a mebibyte each."""


class _Parts(NamedTuple):
    """Which payloads are read along."""

    request: bool
    response: bool


@dataclass(slots=True)
class _Queue:
    """The reads of one kind that wait."""

    wanted: dict[tuple[str, UUID], list[asyncio.Future[JobRow | None]]] = field(default_factory=dict)
    reader: asyncio.Task[None] | None = None


class Rows:
    """Jobs of one shard as they stand."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._queues: defaultdict[_Parts, _Queue] = defaultdict(_Queue)

    async def read(self, key: tuple[str, UUID], *, request: bool = False, response: bool = False) -> JobRow | None:
        """A job by tenant and id, live or finished; None if there is none.

        Raises:
            RowcallError: What the store raises.
        """
        parts = _Parts(request, response)
        queue = self._queues[parts]
        answer: asyncio.Future[JobRow | None] = asyncio.get_running_loop().create_future()
        queue.wanted.setdefault(key, []).append(answer)
        if queue.reader is None:
            queue.reader = asyncio.get_running_loop().create_task(self._read_all(parts, queue), name="rows")
        return await answer

    async def _read_all(self, parts: _Parts, queue: _Queue) -> None:
        try:
            while queue.wanted:
                batch = {key: queue.wanted.pop(key) for key in list(queue.wanted)[:BATCH]}
                await self._read_batch(parts, batch)
        finally:
            queue.reader = None

    async def _read_batch(
        self, parts: _Parts, batch: dict[tuple[str, UUID], list[asyncio.Future[JobRow | None]]]
    ) -> None:
        found: dict[tuple[str, UUID], JobRow] = {}
        fault: Exception | None = None
        try:
            found = await self._store.read(list(batch), request=parts.request, response=parts.response)
        except Exception as error:  # noqa: BLE001 - every caller of the batch is told, each by an error of its own
            fault = error
        for key, answers in batch.items():
            for answer in answers:
                # Its caller may be gone.
                if answer.done():
                    continue
                if fault is None:
                    answer.set_result(found.get(key))
                else:
                    own = rebuilt(fault) if isinstance(fault, RowcallError) else internal()
                    own.__cause__ = fault
                    answer.set_exception(own)
