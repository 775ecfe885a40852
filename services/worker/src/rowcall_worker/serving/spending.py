"""What the calls of running jobs have cost and is not written yet, each until the shard has it. Filled by `model_calls`.

It goes to the shard with the settlement of its attempt (`rowcall_worker.settling`) and, once a second, with what running jobs
say of how far they are (`progress`); told twice it is counted once. It is kept until it is written, whatever becomes of the attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import islice
from typing import Final
from uuid import UUID

import structlog

from rowcall.queue.model import ClaimedJob, Running, Spent
from rowcall.queue.spend import Spend

MAX_WAITING: Final = 50_000
"""Calls that a shard may owe us an answer for: some 30 MB. What comes beyond is not kept, and told of in the log."""

_log = structlog.get_logger(__name__)


class Spending:
    """What is to be written to one shard. May be asked from any thread."""

    def __init__(self, *, shard: str) -> None:
        """Args:
        shard: Its name, for the log.
        """
        self._shard = shard
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, UUID, int], dict[int, Spend]] = {}
        self._size = 0
        self._lost = 0

    def __len__(self) -> int:
        return self._size

    def add(self, job: ClaimedJob, spend: Spend) -> None:
        """Takes what a call of an attempt has cost."""
        with self._lock:
            lost = self._size >= MAX_WAITING
            if lost:
                self._lost += 1
            else:
                self._waiting.setdefault((job.tenant, job.job_id, job.lease), {})[spend.call] = spend
                self._size += 1
            told = lost and self._lost == 1
        if told:
            _log.error(
                "what calls cost is not kept: too much of it waits for the shard", shard=self._shard, limit=MAX_WAITING
            )

    def of(self, job: ClaimedJob) -> tuple[Spend, ...]:
        """What is not written yet of the attempt that holds the job."""
        with self._lock:
            return tuple(self._waiting.get((job.tenant, job.job_id, job.lease), {}).values())

    def first(self, limit: int) -> list[Spent]:
        """So much of it, the attempts first that told first."""
        with self._lock:
            spent = (Spent(Running(*name), spend) for name, calls in self._waiting.items() for spend in calls.values())
            return list(islice(spent, limit))

    def written(self, spent: Iterable[Spent]) -> None:
        """The shard has it."""
        with self._lock:
            for each in spent:
                name = (each.job.tenant, each.job.job_id, each.job.lease)
                calls = self._waiting.get(name, {})
                if calls.pop(each.spend.call, None) is not None:
                    self._size -= 1
                    if not calls:
                        del self._waiting[name]
            lost, self._lost = self._lost, 0
        if lost:
            _log.error("what calls cost was not kept", shard=self._shard, lost=lost)
