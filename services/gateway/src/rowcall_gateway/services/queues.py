"""rowcall.v1.QueueService: what operators see of the queues of all shards, and do to them.

A queue is one name on every shard. What is known is merged over the shards that answer, the others are named; what is
changed is `changes`'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Final

from google.protobuf.message import Message

from rowcall.names import tenant_name
from rowcall.queue.model import Pause as PausedRow
from rowcall.queue.model import QueueServing, QueueStats
from rowcall.v1.queue_service_pb2 import (
    GetQueueRequest,
    GetQueueResponse,
    ListPausesRequest,
    ListPausesResponse,
    ListQueueActivityRequest,
    ListQueueActivityResponse,
    ListQueuesRequest,
    ListQueuesResponse,
    Pause,
    PauseInfo,
    PauseQueueRequest,
    PauseQueueResponse,
    Queue,
    ResumeQueueRequest,
    ResumeQueueResponse,
    Unserved,
)
from rowcall.v1.queue_service_pb2_grpc import QueueServiceServicer
from rowcall.validation import Validator
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.resources import timestamp
from rowcall_gateway.services.activity import QueueWatch
from rowcall_gateway.services.changes import Changes
from rowcall_gateway.shards.everywhere import Answers, ask_everywhere
from rowcall_gateway.shards.links import Links, ShardLink

COUNTED: Final = 10_000
"""How far each shard counts; queue_service.proto says so."""

LOOKED_AT: Final = 1000
"""Among how many jobs of a lane methods that nobody serves are looked for; queue_service.proto says so."""


class Queues(QueueServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, links: Links, changes: Changes, watch: QueueWatch) -> None:
        self._validator = validator
        self._links = links
        self._changes = changes
        self._watch = watch

    async def ListQueues(  # noqa: N802
        self,
        request: ListQueuesRequest,
        context: Any,  # noqa: ARG002
    ) -> ListQueuesResponse:
        """Every queue, over all shards that answer."""
        self._check(request)
        answers = await self._ask(_look)
        return ListQueuesResponse(queues=_queues(answers.given), unreachable_shards=sorted(answers.missing))

    async def GetQueue(self, request: GetQueueRequest, context: Any) -> GetQueueResponse:  # noqa: ARG002, N802
        """One queue."""
        self._check(request)
        answers = await self._ask(_look)
        found = next((queue for queue in _queues(answers.given) if queue.name == request.name), None)
        if found is None:
            raise answers.unreachable() if answers.missing else not_known("queue", request.name)
        return GetQueueResponse(queue=found, unreachable_shards=sorted(answers.missing))

    async def ListQueueActivity(  # noqa: N802
        self,
        request: ListQueueActivityRequest,
        context: Any,  # noqa: ARG002
    ) -> ListQueueActivityResponse:
        """What happens in every queue."""
        self._check(request)
        return await self._watch.told(incoming.current())

    async def PauseQueue(self, request: PauseQueueRequest, context: Any) -> PauseQueueResponse:  # noqa: ARG002, N802
        """Pauses a queue on every shard."""
        self._check(request)
        await self._changes.pause(incoming.current(), "queue", request.name, request.note)
        return PauseQueueResponse()

    async def ResumeQueue(self, request: ResumeQueueRequest, context: Any) -> ResumeQueueResponse:  # noqa: ARG002, N802
        """Ends a queue's pause on every shard."""
        self._check(request)
        await self._changes.resume(incoming.current(), "queue", request.name)
        return ResumeQueueResponse()

    async def ListPauses(  # noqa: N802
        self,
        request: ListPausesRequest,
        context: Any,  # noqa: ARG002
    ) -> ListPausesResponse:
        """The queues and methods that are paused, and the caller's tenant if it is; other tenants are not told of."""
        self._check(request)
        tenant = incoming.current().tenant
        answers = await self._ask(lambda link: link.admin.pauses(tenant))
        return ListPausesResponse(pauses=_pauses(answers.given), unreachable_shards=sorted(answers.missing))

    def _check(self, request: Message) -> None:
        self._validator.check(request)

    async def _ask(self, question: Callable[[ShardLink], Awaitable[Sequence[Any]]]) -> Answers[Sequence[Any]]:
        """What the shards say; refused only where none says anything."""
        answers = await ask_everywhere(self._links, question, incoming.current())
        if not answers.given:
            raise answers.unreachable()
        return answers


@dataclass(frozen=True, slots=True)
class _Seen:
    """A queue as one shard has it."""

    shard: str
    stats: QueueStats
    serving: QueueServing | None
    """None: the shard got it after it was asked who serves its queues."""


async def _look(link: ShardLink) -> Sequence[_Seen]:
    serving = {each.name: each for each in await link.admin.serving(LOOKED_AT)}
    return [_Seen(link.name, stats, serving.get(stats.name)) for stats in await link.admin.stats(COUNTED)]


def _queues(seen: Mapping[str, Iterable[_Seen]]) -> list[Queue]:
    """Each queue once, by name."""
    by_name: dict[str, list[_Seen]] = {}
    for each in chain.from_iterable(seen.values()):
        by_name.setdefault(each.stats.name, []).append(each)
    return [_queue(name, by_name[name]) for name in sorted(by_name)]


def _queue(name: str, seen: Sequence[_Seen]) -> Queue:
    """One queue of what each shard says of it."""
    rows = [each.stats for each in seen]
    paused = [(row.paused_at, row.paused_by, row.pause_note) for row in rows if row.paused_at is not None]
    serving = [each.serving for each in seen if each.serving is not None]
    return Queue(
        name=name,
        ready=sum(row.ready for row in rows),
        oldest_ready_time=timestamp(min((row.oldest_ready_at for row in rows if row.oldest_ready_at), default=None)),
        held=sum(row.held for row in rows),
        held_paused=sum(row.held_paused for row in rows),
        held_suspect=sum(row.held_suspect for row in rows),
        held_limited=sum(row.held_limited for row in rows),
        running=sum(row.running for row in rows),
        scheduled=sum(row.scheduled for row in rows),
        capped=any(row.capped for row in rows),
        pause=_info(*min(paused, key=lambda pause: pause[0])) if paused else None,
        workers=len({worker for each in serving for worker in each.workers}),
        unserved=_unserved(seen),
        unserved_methods=sorted({method for each in serving for method in each.unserved_methods}),
    )


def _unserved(seen: Sequence[_Seen]) -> Unserved | None:
    """Where nobody serves a queue; None: somebody does, wherever it is."""
    bare = {each.shard: each.serving for each in seen if each.serving is not None and not each.serving.workers}
    if not bare:
        return None
    ends = [(each.last_until, each.last_worker) for each in bare.values() if each.last_until is not None]
    until, worker = max(ends, key=lambda end: end[0]) if ends else (None, None)
    return Unserved(shards=sorted(bare), start_time=timestamp(until), worker=worker or "")


def _pauses(pauses: Mapping[str, Iterable[PausedRow]]) -> list[Pause]:
    """Each pause once, by kind and name, with the shards that lack it."""
    by_target: dict[tuple[str, str], dict[str, PausedRow]] = {}
    for shard, rows in pauses.items():
        for row in rows:
            by_target.setdefault((row.kind, row.name), {})[shard] = row
    return [
        Pause(
            **{kind: tenant_name(name) if kind == "tenant" else name},  # the kinds are the names of its fields
            info=_info(first.paused_at, first.paused_by, first.note),
            # A tenant lives on one shard.
            missing_shards=sorted(set(pauses) - set(rows)) if kind != "tenant" else (),
        )
        for (kind, name), rows in sorted(by_target.items())
        for first in [min(rows.values(), key=lambda row: row.paused_at)]
    ]


def _info(paused_at: datetime | None, by: str | None, note: str | None) -> PauseInfo:
    return PauseInfo(pause_time=timestamp(paused_at), actor=by or "", note=note or "")
