"""What is done to many jobs at once, by their names or by a filter: cancel, replay, resolve. Called by `jobs`.

Jobs are taken a few hundred at a time, each batch in a transaction of its own, so that no statement is long and nobody
waits behind one. What was done stays done, whatever happens to the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from rowcall.errors import Origin, RowcallError, envelope
from rowcall.names import operation_name
from rowcall.queue.model import JobFilter
from rowcall.v1.job_service_pb2 import JobRefusal, JobSelection, JobSelectionResult
from rowcall_gateway.edge.deadlines import margin
from rowcall_gateway.edge.failures import not_found
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.services.actions import Action
from rowcall_gateway.services.filters import invalid_filter, job_filter
from rowcall_gateway.services.reading import JobReader, own_key
from rowcall_gateway.shards.links import ShardLink

DEFAULT_LIMIT: Final = 1000
BATCH: Final = 250
"""Jobs in one statement."""

TOLD: Final = 100
"""Names in the sample, and refusals, at most."""


class Selections:
    """Does things to many jobs of one tenant."""

    def __init__(self, reader: JobReader) -> None:
        self._reader = reader

    async def run(self, call: IncomingCall, selection: JobSelection, action: Action) -> JobSelectionResult:
        """Does something to the jobs of a selection, whose proto's own rules were checked before.

        Raises:
            RowcallError: INVALID_FILTER, INVALID_NAME or JOB_NOT_FOUND (a parent in the filter), or what the store
                raises; jobs of the batches before are then done.
        """
        named, filtered = bool(selection.names), selection.HasField("filter")
        if named and filtered:
            raise invalid_filter("selection", "has names and a filter; say one of them")
        if not named and not filtered:
            raise invalid_filter("selection", "says no jobs; name them, or give a filter (an empty one is for all)")
        run = _Run(call, action, dry=selection.dry_run, time=_Time(call))
        if filtered:
            wanted = _narrowed(job_filter(call, selection.filter, "selection.filter"), action)
            link = await self._reader.link(call)
            if link is not None:
                await run.matching(link, wanted, selection.limit or DEFAULT_LIMIT)
        else:
            ids = run.parse(selection.names)
            link = await self._reader.link(call)
            await run.named(link, ids, selection.limit or len(ids))
        return run.result(selection.names)


class _Time:
    """Says whether a batch more is likely to be done before the call's time is up."""

    def __init__(self, call: IncomingCall) -> None:
        self._clock = asyncio.get_running_loop().time
        remaining = call.remaining()
        self._end = None if remaining is None else self._clock() + remaining - margin(remaining)
        self._started = self._clock()
        self._longest = 0.0

    def over(self) -> bool:
        """Asked before each batch, the first included."""
        now = self._clock()
        self._longest = max(self._longest, now - self._started)
        self._started = now
        return self._end is not None and now + self._longest > self._end


@dataclass(slots=True)
class _Run:
    """One selection on its way."""

    call: IncomingCall
    action: Action
    dry: bool
    """Whether nothing is done but looking."""
    time: _Time
    matched: int = 0
    done: int = 0
    more: bool = False
    sample: list[str] = field(default_factory=list)
    refused: dict[str, RowcallError] = field(default_factory=dict)
    """By name."""

    async def matching(self, link: ShardLink, wanted: JobFilter, limit: int) -> None:
        """Does it to the newest that match, from there on downwards: jobs that come meanwhile are not among them."""
        before: UUID | None = None
        while not self.time.over():
            asked = min(BATCH, limit - self.matched)
            # One more than there is room for tells whether there are more.
            found = await link.store.find(self.call.tenant, wanted, before=before, limit=asked + 1)
            batch = found[:asked]
            if batch:
                before = batch[-1]
                self._count(batch, batch if self.dry else await self._do(link, batch))
            if len(found) <= asked:
                return
            if self.matched == limit:
                break
        self.more = True

    async def named(self, link: ShardLink | None, ids: Sequence[UUID], limit: int) -> None:
        """Does it to these; says of the others why not."""
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            if link is None:
                self._refuse_unknown(batch)
                continue
            room = 0 if self.time.over() else limit - self.matched
            if self.dry or room < len(batch):
                able = await self._able(link, batch)
                self.more = self.more or len(able) > room
                chosen = able[:room]
            else:
                chosen = list(batch)
            done = chosen if self.dry else await self._do(link, chosen)
            self._count(done, done)
            if len(done) < len(chosen):
                await self._able(link, sorted(set(chosen) - set(done)), raced=True)

    def parse(self, names: Sequence[str]) -> list[UUID]:
        """The ids of the names that can be the caller's, each once; the others are refused."""
        ids: dict[UUID, None] = {}
        for name in names:
            try:
                ids[own_key(self.call, name)[1]] = None
            except RowcallError as error:
                self.refused[name] = error
        return list(ids)

    def result(self, names: Sequence[str]) -> JobSelectionResult:
        """What became of it, refusals in the order of the names."""
        told = [(name, self.refused[name]) for name in dict.fromkeys(names) if name in self.refused]
        return JobSelectionResult(
            matched=self.matched,
            done=self.done,
            more=self.more,
            sample=self.sample,
            refused=[
                JobRefusal(
                    name=name,
                    error=envelope(error, origin=Origin.GATEWAY, trace_id=self.call.trace.trace_id),
                )
                for name, error in told[:TOLD]
            ],
        )

    async def _do(self, link: ShardLink, job_ids: Sequence[UUID]) -> list[UUID]:
        done = frozenset(await self.action.do(link, self.call.tenant, job_ids))
        return [job_id for job_id in job_ids if job_id in done]

    def _count(self, matched: Sequence[UUID], done: Sequence[UUID]) -> None:
        self.matched += len(matched)
        self.done += 0 if self.dry else len(done)
        room = TOLD - len(self.sample)
        self.sample += [operation_name(self.call.tenant, job_id) for job_id in done[:room]]

    async def _able(self, link: ShardLink, job_ids: Sequence[UUID], *, raced: bool = False) -> list[UUID]:
        """Those to which it can be done, as they stand now; the others are refused, with `raced` all of them."""
        tenant = self.call.tenant
        rows = await link.store.read([(tenant, job_id) for job_id in job_ids])
        able = []
        for job_id in job_ids:
            row = rows.get((tenant, job_id))
            if row is None:
                self._refuse_unknown([job_id])
            elif row.state in self.action.states and not raced:
                able.append(job_id)
            else:
                self.refused[operation_name(tenant, job_id)] = self.action.refusal(row)
        return able

    def _refuse_unknown(self, job_ids: Sequence[UUID]) -> None:
        for job_id in job_ids:
            name = operation_name(self.call.tenant, job_id)
            self.refused[name] = not_found(name)


def _narrowed(wanted: JobFilter, action: Action) -> JobFilter:
    """The same with no other states than those to which it can be done."""
    states = action.states if wanted.states is None else [each for each in wanted.states if each in action.states]
    if not states:
        raise invalid_filter(
            "selection.filter.states", "has no state in which this can be done to a job; leave the states out"
        )
    return replace(wanted, states=tuple(states))
