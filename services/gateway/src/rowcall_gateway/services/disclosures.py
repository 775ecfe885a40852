"""Jobs and operations as answers, with the record of who was shown payloads of somebody else's. Called by `jobs`, `job_lists` and
`operations`, which make no answer of a row otherwise.

It is written before the answer: payloads that cannot be recorded are not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from google.longrunning.operations_pb2 import Operation

from rowcall.queue.model import JobRow, Wait
from rowcall.v1.job_pb2 import Job
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import Resources
from rowcall_gateway.shards.links import ShardLink


class Disclosures:
    """Answers, recorded where they must be. Methods raise RowcallError, as the shard does, where that cannot be."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def job(self, call: IncomingCall, link: ShardLink, row: JobRow, waits: Iterable[Wait] = ()) -> Job:
        """A job, as its caller may see it."""
        if self.is_disclosure(call, row):
            await self.record(call, link, [row.job_id])
        return self.unrecorded(call, row, waits)

    async def operation(self, call: IncomingCall, link: ShardLink, row: JobRow) -> Operation:
        """An operation, as its caller may see it."""
        return (await self.operations(call, link, [row]))[0]

    async def operations(self, call: IncomingCall, link: ShardLink, rows: Sequence[JobRow]) -> list[Operation]:
        """Operations, as their caller may see them."""
        disclosed = [row.job_id for row in rows if self._resources.discloses(row, call.principal, calling=True)]
        await self.record(call, link, disclosed)
        return [self._resources.operation(row, call.principal) for row in rows]

    def is_disclosure(self, call: IncomingCall, row: JobRow) -> bool:
        """Whether a job must be recorded before it is shown."""
        return self._resources.discloses(row, call.principal, calling=False)

    def unrecorded(self, call: IncomingCall, row: JobRow, waits: Iterable[Wait] = ()) -> Job:
        """A job of a page, which is recorded as a whole."""
        return self._resources.job(row, call.principal, waits)

    async def record(self, call: IncomingCall, link: ShardLink, job_ids: Sequence[UUID]) -> None:
        """Records that payloads of jobs are about to be shown."""
        if job_ids:
            await link.admin.record_reads(call.tenant, job_ids, call.act)
