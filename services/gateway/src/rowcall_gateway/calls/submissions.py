"""Takes a call to its tenant's shard and makes it a row there. Called by `job_calls` and `services.jobs`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from rowcall.catalogue.requests import fingerprint
from rowcall.errors import RowcallError
from rowcall.options.v1.job_pb2 import OnAbandon
from rowcall.queue.model import FollowUp, MethodIds, Submission, SubmitOutcome, Submitted
from rowcall.sharding import Router, Shard
from rowcall.telemetry import conventions, metrics
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.calls.drafts import Draft
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.edge.telemetry import Sending
from rowcall_gateway.shards.links import Links, ShardLink
from rowcall_gateway.shards.submitter import Ticket
from rowcall_gateway.shards.time_limits import TimeIsUp

_CANCEL: Final = OnAbandon.ON_ABANDON_CANCEL_IF_NOT_STARTED


class Flight:
    """One call's submission: where it stands when the caller is gone or its time is up."""

    __slots__ = ("_asked_at", "_loop", "job_id", "link", "sending", "ticket")

    job_id: UUID
    """The job's id, if it is new: minted before the database is asked, so that there is a name to ask with."""
    link: ShardLink | None
    """The shard that it was sent to last."""
    ticket: Ticket | None
    """Its place in that shard's submitter."""
    sending: Sending | None
    """What is told of it as a span, if something is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sending: Sending | None = None) -> None:
        self._loop = loop
        self._asked_at = 0.0
        self.job_id = uuid7()
        self.link = None
        self.ticket = None
        self.sending = sending

    def sent_to(self, link: ShardLink) -> None:
        """It is taken to a shard, which is asked for what belongs into the row, and for the row."""
        if self.link is not link:
            self._asked_at = self._loop.time()
        self.link = link
        self.ticket = None

    def waited(self) -> float:
        """For how many seconds the shard that it was sent to last has been asked."""
        return self._loop.time() - self._asked_at

    def recall(self) -> bool:
        """Takes the submission back. False: it is being written or was written."""
        return self.ticket is None or self.ticket.withdraw()


class Submissions:
    """Submits calls to the shards of their tenants."""

    def __init__(self, router: Router, links: Links) -> None:
        self._router = router
        self._links = links

    async def submit(
        self, call: IncomingCall, draft: Draft, flight: Flight, *, waits: bool, until: float | None
    ) -> tuple[ShardLink, Submitted]:
        """Writes one call, together with its neighbours.

        Cancelled before the row is on its way, nothing is written; afterwards the row is, and `flight` knows it.

        Args:
            call: Who calls.
            draft: What is to be written.
            flight: Is told how far it has come.
            waits: Whether the call waits for the job's end.
            until: The loop's time to be done by; None: whenever.

        Raises:
            RowcallError: What router and store raise.
            TimeIsUp: It is not known in time what became of it; `flight` knows whether it can be taken back.
        """
        route = self._router.route_cached(call.tenant)
        metrics.CACHE_LOOKUPS.add(1, "routes", "miss" if route is None else "hit")
        link = None if route is None else self._links.get(route.shard)
        known = None if link is None else _known_facts(draft, link)
        refused = None
        if link is not None and known is not None:
            # What a call needs in nearly every case is at hand.
            flight.sent_to(link)
            trace = _trace(call, flight.sending)
            ticket = link.submitter.enqueue(
                _submission(call, draft, flight.job_id, link, known, trace=trace, waits=waits)
            )
            flight.ticket = ticket
            submitted = await ticket.written(until)
            if submitted.outcome is SubmitOutcome.KEY_REUSED:
                refused = link, ticket.submission, submitted
            elif submitted.outcome is not SubmitOutcome.WRONG_SHARD:
                return link, submitted
        timer = asyncio.timeout_at(until)
        try:
            async with timer:
                if refused is not None:
                    link, submission, submitted = refused
                    submitted = await _compared(link, submission, submitted, flight)
                    if submitted.outcome is not SubmitOutcome.WRONG_SHARD:
                        return link, submitted
                return await self._look_and_submit(call, draft, flight, waits=waits)
        except TimeoutError:
            if not timer.expired():
                raise
            raise TimeIsUp from None

    async def _look_and_submit(
        self, call: IncomingCall, draft: Draft, flight: Flight, *, waits: bool
    ) -> tuple[ShardLink, Submitted]:
        """Asks for everything that is not known, and again where the tenant is not where it was thought to be."""

        async def on(shard: Shard) -> tuple[ShardLink, Submitted]:
            link = self._links[shard.name]
            flight.sent_to(link)
            trace, facts = _trace(call, flight.sending), await _facts(draft, link)
            submission = _submission(call, draft, flight.job_id, link, facts, trace=trace, waits=waits)
            flight.ticket = link.submitter.enqueue(submission)
            submitted = await flight.ticket.written()
            if submitted.outcome is SubmitOutcome.KEY_REUSED:
                submitted = await _compared(link, submission, submitted, flight)
            _refuse_wrong_shard([submitted], call.tenant, shard)
            return link, submitted

        return await self._router.call_on_shard(call.tenant, on)

    async def submit_atomic(self, call: IncomingCall, drafts: Sequence[Draft]) -> list[Submitted]:
        """Writes calls of one tenant all together or, where one is refused, none.

        They are one span's, whose id all of the rows carry.

        Raises:
            RowcallError: What router and store raise.
        """
        job_ids = [uuid7() for _ in drafts]
        queues = {draft.method.policy.queue for draft in drafts}
        sending = call.sending(queues.pop() if len(queues) == 1 else "")
        trace = _trace(call, sending)

        async def on(shard: Shard) -> list[Submitted]:
            link = self._links[shard.name]
            submissions = [
                _submission(call, draft, job_id, link, await _facts(draft, link), trace=trace, waits=False)
                for draft, job_id in zip(drafts, job_ids, strict=True)
            ]
            submitted = await link.store.submit_atomic(submissions)
            _refuse_wrong_shard(submitted, call.tenant, shard)
            if not any(each.outcome is SubmitOutcome.KEY_REUSED for each in submitted):
                link.created(
                    [
                        submission
                        for submission, each in zip(submissions, submitted, strict=True)
                        if each.outcome is SubmitOutcome.CREATED
                    ]
                )
            if sending is not None:
                sending.written({conventions.MESSAGING_BATCH: len(drafts), conventions.SHARD: shard.name})
            return submitted

        return await self._router.call_on_shard(call.tenant, on)


class _Facts(NamedTuple):
    """What of a row only the shard knows."""

    ids: MethodIds
    """Of the method and its policy."""
    fingerprint: bytes | None
    """Of the request, under the shard's key; None where there is no idempotency key."""
    on_done: FollowUp | None
    """The follow-up, as the shard numbers it."""


def _known_facts(draft: Draft, link: ShardLink) -> _Facts | None:
    """The facts, where nothing must be asked for them."""
    if draft.on_done is not None:
        return None
    ids = link.store.known_ids(draft.method.name, draft.method.policy)
    if ids is None:
        return None
    if draft.request_id is None:
        return _Facts(ids, None, None)
    key = link.store.known_fingerprint_key
    return None if key is None else _Facts(ids, fingerprint(key, draft.message), None)


async def _facts(draft: Draft, link: ShardLink) -> _Facts:
    hashed = None
    if draft.request_id is not None:
        hashed = fingerprint(await link.store.fingerprint_key(), draft.message)
    # Before there is a row of it: whoever is asked for that must know its types, and the shard packs an answer into a
    # follow-up's operation.
    ids = await link.store.publish(draft.method)
    if draft.on_done is None:
        return _Facts(ids, hashed, None)
    following = await link.store.publish(draft.on_done)
    return _Facts(ids, hashed, FollowUp(following, draft.on_done.policy.priority))


def _trace(call: IncomingCall, sending: Sending | None) -> TraceContext:
    """The position that the row carries."""
    return call.trace if sending is None else sending.position


def _submission(
    call: IncomingCall,
    draft: Draft,
    job_id: UUID,
    link: ShardLink,
    facts: _Facts,
    *,
    trace: TraceContext,
    waits: bool,
) -> Submission:
    method, request, _, request_id, lane, run_at, fairness_key, labels, _ = draft
    tenant, actor = call.principal.tenant, call.principal.actor
    return Submission(
        tenant,
        job_id,
        facts.ids,
        lane,
        request,
        request_id,
        facts.fingerprint,
        run_at,
        actor,
        fairness_key,
        trace.traceparent,
        trace.tracestate,
        labels,
        waiter_id=link.waiter_id if waits else None,
        deadline=method.policy.deadline,
        on_done=facts.on_done,
        counted=method.policy.on_abandon == _CANCEL,
    )


async def _compared(link: ShardLink, submission: Submission, submitted: Submitted, flight: Flight) -> Submitted:
    """What becomes of a call whose key has another fingerprint: it joins if its request is the same after all.

    Raises RowcallError.
    """
    # Nothing was written, and there is nothing to take back while the shard compares.
    flight.sent_to(link)
    kept = await link.store.kept_fingerprint(submission)
    if kept is None:
        return submitted
    flight.ticket = link.submitter.enqueue(replace(submission, fingerprint=kept))
    return await flight.ticket.written()


def _refuse_wrong_shard(submitted: Sequence[Submitted], tenant: str, shard: Shard) -> None:
    """The router's sign to look again where the tenant lives."""
    if any(each.outcome is SubmitOutcome.WRONG_SHARD for each in submitted):
        raise RowcallError(
            ErrorReason.ERROR_REASON_WRONG_SHARD, f"Tenant {tenant!r} is not on shard {shard.name!r}. Call again."
        )
