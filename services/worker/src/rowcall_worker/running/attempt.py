"""One attempt while it runs, why it can be ended from outside, and where its outcome goes.

Made by `rowcall_worker.running.executor`; what its handler sees of it is `rowcall_worker.serving.attempt`'s.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Sequence
from typing import Protocol

from rowcall.queue.model import ClaimedJob, PolicyRow, Settlement
from rowcall_worker.running.slots import Cap, Slots
from rowcall_worker.running.timers import Timer
from rowcall_worker.serving.abilities import Abilities
from rowcall_worker.serving.attempt import AttemptState
from rowcall_worker.serving.handlers import ServedMethod


class Stop(enum.Enum):
    """Why an attempt was ended from outside."""

    TIMEOUT = enum.auto()
    """Its method's timeout is over: settled as such."""
    DEADLINE = enum.auto()
    """The whole job's deadline is over: it fails."""
    CANCELLED = enum.auto()
    """Somebody asked for the job to be cancelled: it is, unless the handler succeeds all the same."""
    TRANSACTION = enum.auto()
    """Its job's transaction took too long and was ended."""
    DROPPED = enum.auto()
    """Its result no longer counts: its lease is lost, or the job is handed back."""


class Sink(Protocol):
    """Where the outcomes of a shard's attempts go."""

    def settle(self, attempt: Attempt, settlement: Settlement) -> None:
        """Takes an attempt's outcome, to be written."""

    def ended(self, attempt: Attempt) -> None:
        """Is told that an attempt's handler is no longer running."""

    def give_back(self, attempts: Sequence[Attempt]) -> None:
        """Takes attempts that never began, and are over, to hand their jobs back."""

    @property
    def abilities(self) -> Abilities:
        """What the shard gives to its handlers."""


class Attempt(AttemptState):
    """One attempt while it runs."""

    __slots__ = (
        "began_at",
        "begun",
        "cap",
        "ended",
        "made_at",
        "method",
        "policy",
        "settled",
        "sink",
        "slots",
        "stop",
        "stuck",
        "task",
        "timer",
    )

    def __init__(
        self,
        job: ClaimedJob,
        method: ServedMethod,
        policy: PolicyRow,
        *,
        sink: Sink,
        slots: Slots,
        cap: Cap | None,
        worker: str,
    ) -> None:
        super().__init__(
            job,
            worker=worker,
            max_attempts=policy.max_attempts,
        )
        self.made_at = time.monotonic()
        """When its claim was answered: from then on, about, the shard counts its time."""
        self.method = method
        self.policy = policy
        self.sink = sink
        self.slots = slots
        self.cap = cap
        """Of its queue, where it has one."""
        self.stop: Stop | None = None
        """Set when it was ended from outside."""
        self.settled = False
        """Whether its outcome was handed on, or is not wanted."""
        self.began_at = self.made_at
        """When it got its slot, in monotonic seconds; before it has one, when it was made."""
        self.begun = False
        """Whether its handler was called, or is about to be: it has a slot."""
        self.ended = False
        """Whether its handler has returned, or will never be called."""
        self.stuck = False
        """Whether its handler goes on although the attempt is over."""
        self.task: asyncio.Task[None] | None = None
        """Of an async handler."""
        self.timer: Timer[Attempt] | None = None
        """Until its time is over, then until it is given up."""
