"""Has another process run one shard's suspects: this program, executed anew, which runs nothing else. It exists while there are some.

Only one worker at a time does so, of those that serve the same, by an election. What kills that process kills nobody's
ordinary work: it is started again for as long as suspects wait. It ends by itself when none came for a while, and with the
worker that started it. What is done in it is `rowcall_worker.claiming.groups`.

Where it cannot be started, suspects run alone in this process for a while (`rowcall_worker.claiming.suspects`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from rowcall.errors import RowcallError
from rowcall.processes import Child, End, Pauses
from rowcall.queue.protocol import WorkQueue
from rowcall_worker.claiming.suspects import role_of
from rowcall_worker.membership.registration import Registrar
from rowcall_worker.upkeep.chores import Chore, Chores

EVERY: Final = 0.5
"""Seconds between looks for suspects."""
TERM: Final = timedelta(seconds=10)
"""How long an election holds; it is renewed while the process lives."""
AGAIN: Final = 60.0
"""Seconds after which a process is tried again that could not be started."""

_TOLD: Final = "suspects "
NAMED: Final = 10
"""So many of the jobs that a process runs are named, at most."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Command:
    """A worker's program as it was started."""

    words: Sequence[str]
    """What executes it anew: the program and its arguments."""
    number: int = 0
    """Which of several processes this one is, from 1; 0: it is the only one."""


@dataclass(frozen=True, slots=True)
class Apart:
    """What makes a worker the process that runs the suspects of a shard and nothing else."""

    tell: Callable[[str], None]
    """Told what runs now, for whoever started the process: it cannot say so any more when that has killed it."""
    done: Callable[[], None]
    """Called when the process is to end: none came for a while, or handlers that were given up go on in it."""


def shard_of(told: str) -> str | None:
    """The shard whose suspects a process is to run, by what it was told at its start; None: it is a worker as others are."""
    return told.removeprefix(_TOLD) if told.startswith(_TOLD) else None


def said(operations: Sequence[str]) -> str:
    """What a process tells of the jobs that it runs now."""
    return json.dumps({"jobs": len(operations), "operations": list(operations[:NAMED])}) if operations else "{}"


def _heard(text: str) -> dict[str, Any]:
    """The fields of a log line that say what ran."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}


class Quarantine:
    """Keeps the process for the suspects of one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        registrar: Registrar,
        *,
        command: Command,
        shard: str,
        method_ids: Iterable[int],
        queue_names: Iterable[str],
    ) -> None:
        """Args:
        queue: The shard's.
        registrar: Knows under which identity to be elected.
        command: What to execute.
        shard: The shard's name.
        method_ids: What is served, as the shard numbers it.
        queue_names: The queues that were chosen; none: all. Workers that serve the same share one role.
        """
        self._queue = queue
        self._registrar = registrar
        self._command = command
        self._shard = shard
        self._method_ids = sorted(method_ids)
        self._queue_ids: list[int] = []
        self._role = role_of(queue_names, self._method_ids, kind="apart")
        self._elected_until = float("-inf")
        self._child: Child | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        self._pauses = Pauses()
        self._not_before = float("-inf")
        self._unusable_until = float("-inf")
        self._chore = Chore("have suspects run", self._look, EVERY)
        self._chores = Chores([self._chore], shard=shard)

    def is_usable(self) -> bool:
        """Whether suspects are left to such a process; False for a while after it could not be started."""
        return time.monotonic() >= self._unusable_until

    def look_at(self, queue_ids: Iterable[int]) -> None:
        """These are the queues to claim from."""
        self._queue_ids = sorted(queue_ids)

    def start(self) -> None:
        """Starts looking."""
        self._chores.start()

    async def stop(self) -> None:
        """Starts no process any more; one that lives drains, which `gone` waits for."""
        self._stopping = True
        await self._chores.stop()
        if self._child is not None:
            self._child.drain()

    async def gone(self, seconds: float) -> None:
        """Waits for so long, at most, until the process has drained; then ends it."""
        if self._watching is None:
            return
        await asyncio.wait([self._watching], timeout=seconds)
        if self._child is not None:
            _log.error("process for suspects did not end in time", shard=self._shard, pid=self._child.pid)
            self._child.kill()
            await asyncio.wait([self._watching], timeout=1)

    async def _look(self) -> None:
        if self._child is not None:
            if not await self._elected():
                # Another worker took this one for dead: the process is its to have.
                self._child.drain()
            return
        if time.monotonic() < max(self._not_before, self._unusable_until) or not self._queue_ids:
            return
        if await self._queue.suspect_waits(self._queue_ids, self._method_ids) is None:
            await self._give_role_up()
        elif await self._elected():
            await self._begin()

    async def _begin(self) -> None:
        try:
            child = await Child.start(
                self._command.words,
                number=self._command.number,
                told=f"{_TOLD}{self._shard}",
                # Ctrl-C in the terminal reaches both, and both drain; what ends this process's group ends that one.
                leads=False,
            )
        except OSError as error:
            await self._cannot(error=error.strerror)
            return
        _log.info("process for suspects started", shard=self._shard, pid=child.pid)
        self._child = child
        self._watching = asyncio.create_task(self._watch(child), name=f"watch suspects {self._shard}")

    async def _watch(self, child: Child) -> None:
        since = None
        if await child.ready():
            since = time.monotonic()
            child.listen()
        code = await child.ended()
        self._child = None
        if self._stopping:
            return
        end = End(code, served=None if since is None else time.monotonic() - since, first=False)
        how: dict[str, Any] = {"exit_code": end.code} if end.signal is None else {"signal": end.signal}
        ran = _heard(child.said)
        # Whoever ends in order has let what ran end, or handed it back, and says so. A handler may end a process with 0.
        if code == 0 and not ran:
            _log.info("process for suspects has ended", shard=self._shard, pid=child.pid)
        elif end.served is None:
            await self._cannot(**how)
        else:
            pause = self._pauses.after(end.served)
            self._not_before = time.monotonic() + pause
            _log.error(
                "process for suspects ended by itself",
                shard=self._shard,
                pid=child.pid,
                delay_ms=round(pause * 1000),
                **how,
                **ran,
            )
        self._chore.wake.set()

    async def _cannot(self, **why: Any) -> None:
        self._unusable_until = time.monotonic() + AGAIN
        _log.error(
            "no process for suspects could be started; meanwhile they run alone, one by one, in workers that wait for them",
            shard=self._shard,
            seconds=AGAIN,
            **why,
        )
        # Where another worker is, a process may be had.
        await self._give_role_up()

    async def _elected(self) -> bool:
        now = time.monotonic()
        if now < self._elected_until:
            return True
        worker_id = self._registrar.worker_id
        # While it is not registered itself, or the shard does not answer, the role is kept as far as it knows.
        if worker_id is None:
            return self._child is not None
        if not await self._queue.elect(self._role, worker_id, TERM):
            self._elected_until = float("-inf")
            return False
        self._elected_until = now + TERM.total_seconds() / 2
        return True

    async def _give_role_up(self) -> None:
        worker_id = self._registrar.worker_id
        if self._elected_until > float("-inf") and worker_id is not None:
            self._elected_until = float("-inf")
            with contextlib.suppress(RowcallError):
                await self._queue.elect(self._role, worker_id, timedelta(0))
