"""What operators do to jobs: cancel, replay, resolve; each to one batch of jobs on one shard. Called by `jobs` for single
ones and by `selections` for many.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from rowcall.audit.model import Act
from rowcall.errors import RowcallError
from rowcall.names import operation_name
from rowcall.queue.model import LIVE, JobRow
from rowcall.v1.job_pb2 import JobState
from rowcall_gateway.edge.failures import job_changed, job_finished, job_not_failed
from rowcall_gateway.services.reading import Place
from rowcall_gateway.shards.links import ShardLink

FAILED = (JobState.JOB_STATE_FAILED,)


class Action(Protocol):
    """Something that can be done to jobs of some states."""

    @property
    def states(self) -> Sequence[int]:
        """Of which it can be done: rowcall.v1.JobState."""

    async def do(self, link: ShardLink, tenant: str, job_ids: Sequence[UUID]) -> Collection[UUID]:
        """Does it, in one transaction, and tells whom it concerns; those to which it was done.

        Raises:
            RowcallError: What the store raises.
        """

    def refusal(self, row: JobRow) -> RowcallError:
        """Why it was not done to this job."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancels jobs that wait, marks those that run."""

    act: Act
    """Whose doing it is; recorded with each job."""

    @property
    def states(self) -> Sequence[int]:
        """See Action.states."""
        return LIVE

    async def do(self, link: ShardLink, tenant: str, job_ids: Sequence[UUID]) -> Collection[UUID]:
        """See Action.do."""
        cancelled = await link.store.cancel_many(tenant, job_ids, act=self.act)
        link.cancelled(tenant, cancelled)
        return cancelled.keys()

    def refusal(self, row: JobRow) -> RowcallError:
        """See Action.refusal."""
        name = operation_name(row.tenant, row.job_id)
        return job_finished(name, JobState.ValueType(row.state)) if row.done else job_changed(name)


@dataclass(frozen=True, slots=True)
class Retry:
    """Makes failed jobs READY again."""

    act: Act
    """Whose doing it is."""

    @property
    def states(self) -> Sequence[int]:
        """See Action.states."""
        return FAILED

    async def do(self, link: ShardLink, tenant: str, job_ids: Sequence[UUID]) -> Collection[UUID]:
        """See Action.do."""
        queues = await link.store.replay(tenant, job_ids, act=self.act)
        link.ready(queues.values())
        return queues.keys()

    def refusal(self, row: JobRow) -> RowcallError:
        """See Action.refusal."""
        return _not_failed(row)


@dataclass(frozen=True, slots=True)
class Resolve:
    """Marks failed jobs as handled."""

    by: str | None
    """Who says so."""
    note: str | None
    """What was done about them."""
    act: Act
    """Whose doing it is."""

    @property
    def states(self) -> Sequence[int]:
        """See Action.states."""
        return FAILED

    async def do(self, link: ShardLink, tenant: str, job_ids: Sequence[UUID]) -> Collection[UUID]:
        """See Action.do."""
        return await link.store.resolve(tenant, job_ids, by=self.by, note=self.note, act=self.act)

    def refusal(self, row: JobRow) -> RowcallError:
        """See Action.refusal."""
        return _not_failed(row)


async def do_to(place: Place, action: Action) -> JobRow:
    """Does something to one job; the job after it.

    Raises:
        RowcallError: JOB_NOT_FOUND, why it cannot be done to this job, or what the store raises.
    """
    tenant, job_id = place.key
    done = await action.do(place.link, tenant, [job_id])
    row = await place.row()
    if job_id not in done:
        raise action.refusal(row)
    return row


def _not_failed(row: JobRow) -> RowcallError:
    name, state = operation_name(row.tenant, row.job_id), JobState.ValueType(row.state)
    return job_changed(name) if state == JobState.JOB_STATE_FAILED else job_not_failed(name, state)
