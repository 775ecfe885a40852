"""rowcall.v1.QueueService: what operators see of the queues of all shards, and do to them.

A queue or method is one name on every shard. What is known is merged over the shards that answer, the others are named;
what is changed must be changed on all of them, and a call that could not is refused and may be made again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Final, Literal

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from rowcall.catalogue.images import Catalogue
from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.queue.model import Pause as PausedRow
from rowcall.queue.model import QueueServing, QueueStats
from rowcall.sharding import Router
from rowcall.sharding.faults import RETRY_AFTER
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.queue_service_pb2 import (
    GetQueueRequest,
    GetQueueResponse,
    ListPausesRequest,
    ListPausesResponse,
    ListQueuesRequest,
    ListQueuesResponse,
    Pause,
    PauseInfo,
    PauseRequest,
    PauseResponse,
    PauseTarget,
    Queue,
    ResumeRequest,
    ResumeResponse,
    SetTenantWeightRequest,
    SetTenantWeightResponse,
    Unserved,
)
from rowcall.v1.queue_service_pb2_grpc import QueueServiceServicer
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import timestamp
from rowcall_gateway.shards.everywhere import Answers, ask_everywhere, listed
from rowcall_gateway.shards.links import Links, ShardLink

COUNTED: Final = 10_000
"""How far each shard counts; queue_service.proto says so."""

LOOKED_AT: Final = 1000
"""Among how many jobs of a lane methods that nobody serves are looked for; queue_service.proto says so."""

Kind = Literal["queue", "method", "tenant"]


class Queues(QueueServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, catalogue: Catalogue, router: Router, links: Links) -> None:
        self._catalogue = catalogue
        self._router = router
        self._links = links

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

    async def Pause(self, request: PauseRequest, context: Any) -> PauseResponse:  # noqa: ARG002, N802
        """Pauses a queue or method on every shard, or the caller's tenant on its own. Pausing twice is pausing once."""
        self._check(request)
        _check_text(request.note, "note")
        call = incoming.current()
        kind, name = _target(request.target)
        actor, note = call.principal.actor, request.note or None

        async def pause(link: ShardLink) -> bool:
            served = self._served(kind, name)
            if served is not None:
                # A shard that has not heard of it yet would run it as soon as it does.
                await link.store.publish(served)
            return await link.admin.pause(kind, name, by=actor, note=note)

        if kind == "tenant":
            await self._on_own_shard(call, name, pause)
        else:
            await self._everywhere(call, kind, name, pause, "paused")
        return PauseResponse()

    async def Resume(self, request: ResumeRequest, context: Any) -> ResumeResponse:  # noqa: ARG002, N802
        """Ends a pause on every shard; there need not be one."""
        self._check(request)
        call = incoming.current()
        kind, name = _target(request.target)

        async def resume(link: ShardLink) -> bool:
            return await link.admin.resume(kind, name)

        if kind == "tenant":
            await self._on_own_shard(call, name, resume)
        else:
            await self._everywhere(call, kind, name, resume, "resumed")
        return ResumeResponse()

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

    async def SetTenantWeight(  # noqa: N802
        self,
        request: SetTenantWeightRequest,
        context: Any,  # noqa: ARG002
    ) -> SetTenantWeightResponse:
        """Sets the share of the caller's tenant."""
        self._check(request)

        async def weigh(link: ShardLink) -> bool:
            return await link.admin.weigh(request.tenant, request.weight)

        await self._on_own_shard(incoming.current(), request.tenant, weigh)
        return SetTenantWeightResponse()

    def _check(self, request: Message) -> None:
        self._catalogue.validator.check(request)

    async def _ask(self, question: Callable[[ShardLink], Awaitable[Sequence[Any]]]) -> Answers[Sequence[Any]]:
        """What the shards say; refused only where none says anything."""
        answers = await ask_everywhere(self._links, question, incoming.current())
        if not answers.given:
            raise answers.unreachable()
        return answers

    def _served(self, kind: Kind, name: str) -> JobMethod | None:
        """A served method that a queue or method is known by, even to a shard that is new."""
        if kind == "method":
            return self._catalogue.method(name)
        methods = self._catalogue.methods.values()
        return next((method for method in methods if kind == "queue" and method.policy.queue == name), None)

    async def _everywhere(
        self, call: IncomingCall, kind: Kind, name: str, change: Callable[[ShardLink], Awaitable[bool]], done: str
    ) -> None:
        """Makes a change on every shard. Raises RowcallError: NOT_KNOWN, or SHARD_UNAVAILABLE if it may not be on all."""
        answers = await ask_everywhere(self._links, change, call)
        changed = [shard for shard, known in answers.given.items() if known]
        if answers.missing:
            raise RowcallError(
                ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
                f"The {kind} is {done} on {listed(changed) if changed else 'no shard'}, and perhaps not on "
                f"{listed(answers.missing)}, which did not answer. Call again: what is {done} stays so.",
                metadata={"shard": ",".join(sorted(answers.missing))},
                retry_after=RETRY_AFTER,
            )
        if not changed:
            raise not_known(kind, name)

    async def _on_own_shard(
        self, call: IncomingCall, tenant: str, change: Callable[[ShardLink], Awaitable[bool]]
    ) -> None:
        """Makes a change on the shard of the caller's tenant. Raises RowcallError: NOT_KNOWN, or what the shard raises."""
        if tenant != call.tenant:
            raise not_known("tenant", tenant)
        route = self._router.route_cached(tenant) or await self._router.find(tenant)
        for _ in range(2):
            if route is None:
                break
            link = self._links[self._router.shard(route.shard).name]
            answers = await ask_everywhere([link], change, call)
            for error in answers.missing.values():
                raise error
            if answers.given[link.name]:
                return
            # It has moved: whoever knows better is asked once.
            self._router.invalidate(tenant, route.epoch)
            route = await self._router.find(tenant)
        raise not_known("tenant", tenant)


def _target(target: PauseTarget) -> tuple[Kind, str]:
    """What is meant; the rules of the proto have seen to it that something is."""
    match target.WhichOneof("target"):
        case "queue":
            found: tuple[Kind, str] = ("queue", target.queue)
        case "method":
            found = ("method", target.method.removeprefix("/"))
        case _:
            found = ("tenant", target.tenant)
    if "\0" in found[1]:
        # Protobuf has it, Postgres has not: nobody can know the name.
        raise not_known(*found)
    return found


def _check_text(text: str, field: str) -> None:
    if "\0" in text:
        description = "has the character U+0000, which cannot be stored"
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_REQUEST,
            f"{field} {description}.",
            details=[BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=description)])],
        )


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
            target=PauseTarget(**{kind: name}),  # the kinds are the names of its fields
            info=_info(first.paused_at, first.paused_by, first.note),
            # A tenant lives on one shard.
            missing_shards=sorted(set(pauses) - set(rows)) if kind != "tenant" else (),
        )
        for (kind, name), rows in sorted(by_target.items())
        for first in [min(rows.values(), key=lambda row: row.paused_at)]
    ]


def _info(paused_at: datetime | None, by: str | None, note: str | None) -> PauseInfo:
    return PauseInfo(pause_time=timestamp(paused_at), actor=by or "", note=note or "")
