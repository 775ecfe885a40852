"""What the gateway keeps for each shard: its store, its submitter, the calls that wait on it, upkeep and hints.

Made by the server at its start, one link a shard; used by everything that reads or writes jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.shapes import Shape
from rowcall.queue.depths import KnownDepths
from rowcall.queue.hints import Hint
from rowcall.queue.model import Cancelled, Submission
from rowcall.queue.protocol import AdmissionStore, JobStore, QueueAdmin, QueueProvider
from rowcall.queue.tally import UNKNOWN_QUEUE, Tally, What
from rowcall.queue.tenants import TenantAdmin
from rowcall.telemetry import tallies
from rowcall.v1.job_pb2 import JobState
from rowcall_gateway.settings import GatewaySettings
from rowcall_gateway.shards.rows import Rows
from rowcall_gateway.shards.submitter import Submitter
from rowcall_gateway.shards.upkeep import Upkeep
from rowcall_gateway.shards.waiters import HINTED, UNHINTED, Pace, Waiters


class ShardLink:
    """One shard, as the gateway uses it."""

    name: str
    """The shard's name."""
    store: JobStore
    """Its jobs."""
    admin: QueueAdmin
    """Its queues, for operators."""
    admission: AdmissionStore
    """What is let in by there."""
    tenants: TenantAdmin
    """What is kept of its tenants, for operators."""
    rows: Rows
    """Reads single jobs, together."""
    submitter: Submitter
    """Writes calls as rows."""
    waiters: Waiters
    """The calls that wait for results."""
    depths: KnownDepths
    """What the shard stands at, where somebody asks this process."""

    def __init__(
        self,
        queue: QueueProvider,
        settings: GatewaySettings,
        *,
        gateway_id: UUID,
        in_flight: Callable[[], int],
        methods: Sequence[JobMethod],
        shapes: Sequence[Mapping[str, Shape]],
    ) -> None:
        self.name = queue.shard
        self._gateway_id = gateway_id
        self.store = queue.store(key_ttl=settings.key_ttl)
        self.admin = queue.admin()
        self.admission = queue.admission()
        self.tenants = queue.tenants()
        self.rows = Rows(self.store)
        self.depths = KnownDepths(self.name, self.admin.depths)
        self._tally = Tally(self.store.queue_name)
        self.submitter = Submitter(
            self.store,
            shard=self.name,
            gather=settings.gather,
            gather_above=settings.gather_above,
            batch=settings.submit_batch,
            in_flight=in_flight,
            hint=self._hint,
            written=self.tell_workers,
            tally=self._tally,
        )
        self.waiters = Waiters(self.store, shard=self.name)
        self._upkeep = Upkeep(queue, self.store, methods, shapes, self._tally)
        self._listener = queue.done_listener(
            "listener", gateway_id, done=self.waiters.hint, connected=self.waiters.look
        )
        self._notifier = queue.notifier("notifier")

    @property
    def waiter_id(self) -> UUID | None:
        """What a row is to remember of the gateway that waits for it; None where no hint could come."""
        return None if self._listener is None else self._gateway_id

    def pace(self, *, created: bool) -> Pace:
        """How often to ask for a job, whether this gateway created it or joined it."""
        return HINTED if created and self._listener is not None else UNHINTED

    def created(self, submissions: Sequence[Submission]) -> None:
        """Rows were written beside the submitter."""
        for each in submissions:
            self._tally.count(each.tenant, each.ids.queue_id, What.ACCEPTED)
        self.tell_workers(submissions)

    def answered(self, tenant: str, queue_id: int, what: What) -> None:
        """A call of a tenant that submits to a queue was answered so."""
        self._tally.count(tenant, queue_id, what)

    def cancelled(self, tenant: str, found: Mapping[UUID, Cancelled]) -> None:
        """Jobs of a tenant were cancelled by this gateway: tells whoever waits for those that are finished, and who runs the others."""
        finished = {
            job_id: each.waiter_id for job_id, each in found.items() if each.state == JobState.JOB_STATE_CANCELLED
        }
        if finished:
            self._tally.count(tenant, UNKNOWN_QUEUE, What.CANCELLED, len(finished))
        self.waiters.hint(list(finished))
        if self._notifier is not None:
            for job_id, waiter_id in finished.items():
                if waiter_id is not None and waiter_id != self._gateway_id:
                    self._notifier.done(waiter_id, [job_id])
            self._notifier.cancel(each.worker_id for each in found.values() if each.worker_id is not None)

    def start(self) -> None:
        """Starts submitting, waiting, upkeep and listening."""
        self.submitter.start()
        self.waiters.start()
        self._upkeep.start()
        if tallies.are_kept():
            self.depths.start()
        if self._listener is not None:
            self._listener.start()
        if self._notifier is not None:
            self._notifier.start()

    def offer(self, methods: Sequence[JobMethod], shapes: Sequence[Mapping[str, Shape]]) -> None:
        """Has the shard know of these methods and types."""
        self._upkeep.offer(methods, shapes)

    async def close(self) -> None:
        """Writes what is on its way and stops."""
        await self.submitter.close()
        await self._upkeep.close()
        await self.depths.stop()
        await self.waiters.close()
        if self._listener is not None:
            await self._listener.close()
        if self._notifier is not None:
            await self._notifier.close()
        await self.store.close()
        await self.admin.close()
        await self.admission.close()
        await self.tenants.close()

    def _hint(self, submissions: Sequence[Submission]) -> Hint | None:
        """What tells workers of rows that are about to be written."""
        queue_ids = _ready_queues(submissions)
        return Hint.ready(queue_ids) if queue_ids and self._notifier is not None else None

    def tell_workers(self, created: Sequence[Submission]) -> None:
        """Rows were written: workers may claim them."""
        self.ready(_ready_queues(created))

    def ready(self, queue_ids: Iterable[int]) -> None:
        """Queues have got ready jobs: workers may claim them."""
        if self._notifier is not None:
            self._notifier.ready(set(queue_ids))


class Links:
    """The links of every shard."""

    def __init__(
        self,
        queues: Mapping[str, QueueProvider],
        settings: GatewaySettings,
        *,
        gateway_id: UUID,
        in_flight: Callable[[], int],
        methods: Sequence[JobMethod],
        shapes: Sequence[Mapping[str, Shape]],
    ) -> None:
        self._links: Mapping[str, ShardLink] = {
            name: ShardLink(queue, settings, gateway_id=gateway_id, in_flight=in_flight, methods=methods, shapes=shapes)
            for name, queue in queues.items()
        }

    def __iter__(self) -> Iterator[ShardLink]:
        return iter(self._links.values())

    def __getitem__(self, shard: str) -> ShardLink:
        return self._links[shard]

    def get(self, shard: str) -> ShardLink | None:
        """A shard's link; None if the shard is not configured here."""
        return self._links.get(shard)

    def start(self) -> None:
        """Starts all of them."""
        for link in self._links.values():
            link.start()

    def offer(self, methods: Sequence[JobMethod], shapes: Sequence[Mapping[str, Shape]]) -> None:
        """Has every shard know of these methods and types."""
        for link in self._links.values():
            link.offer(methods, shapes)

    def drain(self, over: timedelta, leaving_at: float) -> None:
        """Ends every waiting call, spread over a time; see `Waiters.drain`."""
        for link in self._links.values():
            link.waiters.drain(over, leaving_at)

    async def close(self) -> None:
        """Closes all of them."""
        await asyncio.gather(*(link.close() for link in self._links.values()))


def _ready_queues(submissions: Sequence[Submission]) -> set[int]:
    """The queues in which these are ready as soon as they are written."""
    return {each.ids.queue_id for each in submissions if each.run_at is None}
