"""What of an action is shown, and in which order: an action may be one job, or ten thousand. Called by `traces`.

Nothing here asks a database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final
from uuid import UUID

from rowcall.queue.actions import ActionJob, ActionNode
from rowcall.v1.job_pb2 import JobState

EACH: Final = 20
"""So many jobs below one are all shown; of more, those that say most, and the others in groups."""
TOLD: Final = 5
"""Of those that are too many, so many that failed are shown, and so many that took longest."""
SHOWN: Final = 200
"""Jobs that are shown at most."""

_FAILED: Final = JobState.JOB_STATE_FAILED
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs that are below one and not shown each: those of one method in one state."""

    parent: UUID | None
    """The job that they are below; None: below none that is known."""
    method: str
    state: int
    """rowcall.v1.JobState"""
    jobs: int
    descendants: int
    """How many are below these, at any depth."""
    started_at: datetime
    """When the first was submitted."""
    ended_at: datetime | None
    """When the last ended; None: one goes on."""
    longest: timedelta | None
    """Of those that ended."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is shown of the jobs of an action."""

    shown: Sequence[UUID]
    hidden: Sequence[UUID]
    groups: Sequence[Group]
    """All that are hidden are in one of these, or below one that is."""


def choose(jobs: Sequence[ActionJob], named: UUID | None = None) -> Chosen:
    """Which jobs of an action are shown each.

    Those nearest to the beginning come first. Where many are below one: the first that failed, those that took longest, and
    whatever leads to the one that was asked for.

    Args:
        jobs: All of them.
        named: The one that was asked for.
    """
    by_id = {job.job_id: job for job in jobs}
    below: defaultdict[UUID | None, list[ActionJob]] = defaultdict(list)
    for job in sorted(by_id.values(), key=lambda job: (job.created_at, job.job_id)):
        below[job.parent_job_id if job.parent_job_id in by_id else None].append(job)
    wanted = _path(by_id, named)
    shown: dict[UUID, None] = {}
    groups: list[Group] = []
    counts = _descendants(below)
    level: list[UUID | None] = [None]
    while level:
        next_level: list[UUID | None] = []
        for parent in level:
            chosen, others = _split(below.get(parent, ()), wanted, SHOWN - len(shown))
            shown.update(dict.fromkeys(job.job_id for job in chosen))
            next_level += (job.job_id for job in chosen)
            groups += _grouped(parent, others, counts)
        level = next_level
    return Chosen(list(shown), [job_id for job_id in by_id if job_id not in shown], groups)


def ordered(nodes: Iterable[ActionNode], limit: int) -> tuple[list[ActionNode], bool]:
    """Nodes behind those that they are below, the rest in the order of time.

    Args:
        nodes: In any order; whose parent is not among them, or below itself, is below none.
        limit: How many at most.

    Returns:
        Them, and whether there were more.
    """
    by_name = {node.node: node for node in sorted(nodes, key=lambda node: (node.started_at or _BEGINNING, node.node))}
    below: defaultdict[str | None, list[ActionNode]] = defaultdict(list)
    for node in by_name.values():
        below[node.parent if node.parent in by_name else None].append(node)
    found: dict[str, ActionNode] = {}

    def walk(start: ActionNode) -> None:
        stack = [start]
        while stack:
            node = stack.pop()
            if node.node in found:
                continue
            found[node.node] = node
            stack += reversed(below.get(node.node, ()))

    for root in below[None]:
        walk(replace(root, parent=None))
    # What remains is below itself, as spans may be that somebody made up.
    for node in by_name.values():
        if node.node not in found:
            walk(replace(node, parent=None))
    return list(islice(found.values(), limit)), len(found) > limit


def _path(by_id: Mapping[UUID, ActionJob], named: UUID | None) -> frozenset[UUID]:
    """A job and all above it."""
    found: set[UUID] = set()
    while named is not None and named in by_id and named not in found:
        found.add(named)
        named = by_id[named].parent_job_id
    return frozenset(found)


def _split(
    jobs: Sequence[ActionJob], wanted: frozenset[UUID], room: int
) -> tuple[Sequence[ActionJob], Sequence[ActionJob]]:
    """Those that are shown, and the others."""
    if len(jobs) <= min(EACH, room):
        return jobs, ()
    failed = islice((job for job in jobs if job.state == _FAILED), TOLD)
    slowest = sorted(jobs, key=lambda job: (job.finished_at is None, _took(job)), reverse=True)[:TOLD]
    telling = [job.job_id for job in (*failed, *slowest)][: max(room, 0)]
    keep = {*telling, *wanted}
    return [job for job in jobs if job.job_id in keep], [job for job in jobs if job.job_id not in keep]


def _took(job: ActionJob) -> timedelta:
    """How long, of one that ended; those that go on have begun before or later."""
    return timedelta(0) if job.finished_at is None else job.finished_at - job.created_at


def _grouped(parent: UUID | None, jobs: Iterable[ActionJob], counts: Mapping[UUID, int]) -> Iterable[Group]:
    kinds: defaultdict[tuple[str, int], list[ActionJob]] = defaultdict(list)
    for job in jobs:
        kinds[job.method, job.state].append(job)
    for (method, state), alike in sorted(kinds.items()):
        ends = [job.finished_at for job in alike if job.finished_at is not None]
        yield Group(
            parent,
            method,
            state,
            len(alike),
            sum(counts[job.job_id] for job in alike),
            min(job.created_at for job in alike),
            max(ends) if len(ends) == len(alike) else None,
            max(map(_took, alike)) if ends else None,
        )


def _descendants(below: Mapping[UUID | None, Sequence[ActionJob]]) -> Mapping[UUID, int]:
    """How many jobs are below each, at any depth."""
    order: list[ActionJob] = []
    stack = list(below.get(None, ()))
    while stack:
        job = stack.pop()
        order.append(job)
        stack += below.get(job.job_id, ())
    counts: dict[UUID, int] = {}
    for job in reversed(order):
        counts[job.job_id] = sum(1 + counts[each.job_id] for each in below.get(job.job_id, ()))
    return counts
