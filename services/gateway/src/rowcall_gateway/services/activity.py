"""What happens in the queues, as whoever watches is told of it: sums over the shards, and how fast they grow. Called by `queues`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from rowcall.queue.model import Counts, QueueActivity
from rowcall.v1.job_pb2 import JobCounts, JobRates
from rowcall.v1.queue_service_pb2 import ListQueueActivityResponse
from rowcall.v1.queue_service_pb2 import QueueActivity as Activity
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import timestamp
from rowcall_gateway.shards.links import Links, ShardLink
from rowcall_gateway.shards.looks import Looks

MEASURED_OVER: Final = timedelta(seconds=10)
"""Over how long rates are measured at least, where somebody has watched for so long: processes tell of counts every two seconds."""

FORGOTTEN_AFTER: Final = timedelta(minutes=1)
"""What was read so long ago is nothing to measure from."""

_NAMES: Final = tuple(field.name for field in fields(Counts))
"""As JobCounts and JobRates have them too."""
_NONE: Final = (0,) * len(_NAMES)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the shards had counted."""

    at: datetime
    counts: Mapping[tuple[str, str], Sequence[int]]
    """By shard and queue, today's."""


class QueueWatch:
    """What happens in the queues, of one gateway."""

    def __init__(self, links: Links) -> None:
        self._looks: Looks[Sequence[QueueActivity]] = Looks(links, _activity)
        self._readings: deque[_Reading] = deque()

    async def told(self, call: IncomingCall) -> ListQueueActivityResponse:
        """What happens now.

        Raises:
            RowcallError: No shard answers.
        """
        at, answers = await self._looks.answers(call)
        if not answers.given:
            raise answers.unreachable()
        reading = _Reading(
            at,
            {(shard, each.name): astuple(each.counts) for shard, queues in answers.given.items() for each in queues},
        )
        before = self._before(reading)
        seconds = 0.0 if before is None else (at - before.at).total_seconds()
        grown = {} if before is None else _grown(before.counts, reading.counts)
        by_name: dict[str, list[QueueActivity]] = {}
        for queues in answers.given.values():
            for each in queues:
                by_name.setdefault(each.name, []).append(each)
        made = ListQueueActivityResponse(
            queues=[_queue(name, by_name[name], grown.get(name), seconds) for name in sorted(by_name)],
            read_time=timestamp(at),
            unreachable_shards=sorted(answers.missing),
        )
        if before is not None:
            made.measured_over.FromTimedelta(at - before.at)
        return made

    def _before(self, reading: _Reading) -> _Reading | None:
        """What to measure from: the latest that is old enough, else the oldest there is."""
        if not self._readings or self._readings[-1].at < reading.at:
            self._readings.append(reading)
        while self._readings[0].at < reading.at - FORGOTTEN_AFTER or (
            len(self._readings) > 1 and self._readings[1].at <= reading.at - MEASURED_OVER
        ):
            self._readings.popleft()
        return self._readings[0] if self._readings[0].at < reading.at else None


async def _activity(link: ShardLink) -> Sequence[QueueActivity]:
    return await link.admin.activity()


def _grown(
    before: Mapping[tuple[str, str], Sequence[int]], now: Mapping[tuple[str, str], Sequence[int]]
) -> dict[str, list[int]]:
    """By how much each queue's counts have grown on the shards that answered both times; a new day begins from nothing."""
    shards = {shard for shard, _ in before}
    grown: dict[str, list[int]] = {}
    for (shard, name), counts in now.items():
        if shard in shards:
            earlier = before.get((shard, name), _NONE)
            more = [one if one < other else one - other for one, other in zip(counts, earlier, strict=True)]
            grown[name] = [one + other for one, other in zip(grown.get(name, _NONE), more, strict=True)]
    return grown


def _queue(name: str, seen: Sequence[QueueActivity], grown: Sequence[int] | None, seconds: float) -> Activity:
    oldest = max((each.oldest for each in seen if each.oldest is not None), default=None)
    made = Activity(
        name=name,
        paused=any(each.paused for each in seen),
        waiting=sum(each.waiting for each in seen),
        running=sum(each.running for each in seen),
        today=job_counts(each.counts for each in seen),
    )
    if oldest is not None:
        made.oldest_age.CopyFrom(_duration(oldest))
    if grown is not None and seconds > 0:
        made.rates.CopyFrom(JobRates(**dict(zip(_NAMES, (number / seconds for number in grown), strict=True))))
    return made


def job_counts(counts: Iterable[Counts]) -> JobCounts:
    """Counts of several, together."""
    sums = [sum(each) for each in zip(*map(astuple, counts), strict=True)] or _NONE
    return JobCounts(**dict(zip(_NAMES, sums, strict=True)))


def _duration(span: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(max(span, timedelta(0)))
    return made
