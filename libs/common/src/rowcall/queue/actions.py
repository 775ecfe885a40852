"""Actions as the shard keeps them: all that belongs to one trace, as the nodes of a tree. Above `spend`.

Asked for by the gateway's `services/action_trees` and `services/action_lists`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from rowcall.queue.spend import SpendSum


@dataclass(frozen=True, slots=True)
class ActionJob:
    """A job of an action, as much of it as is needed to choose those that are shown."""

    job_id: UUID
    parent_job_id: UUID | None
    """The job whose handler submitted it, or whose end it follows."""
    method: str
    """package.Service/Method"""
    state: int
    """rowcall.v1.JobState"""
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class ActionJobs:
    """The jobs of an action."""

    trace_id: UUID | None
    """Of all of them; None: they have none, and belong together by their parents."""
    jobs: Sequence[ActionJob]
    whole: bool
    """Whether the tenant's live jobs were all looked through for those of the trace."""


@dataclass(frozen=True, slots=True)
class ActionNode:
    """A node of an action's tree."""

    node: str
    """What names it: of a job the operation, of an attempt or a span its span id where it has one."""
    parent: str | None
    """The node that it is below; None: below none of these."""
    kind: str
    """rowcall.v1.ActionNodeKind, without its prefix."""
    name: str
    started_at: datetime | None
    ended_at: datetime | None
    """None: it goes on."""
    status: str | None
    """A job's state, an attempt's outcome, what was waited for, the verdict on a call, a span's status."""
    code: int
    """google.rpc.Code"""
    message: str | None
    attributes: Mapping[str, Any]
    """By the names of `rowcall.telemetry.conventions`."""
    job_id: UUID | None
    """The job that it belongs to, where that is known."""


@dataclass(frozen=True, slots=True)
class ActionFilter:
    """Which actions of a tenant: those that match everything that is said."""

    start_from: datetime | None = None
    """Inclusive; by the time in the operation's id, as they are ordered."""
    start_to: datetime | None = None
    """Exclusive."""
    states: Sequence[int] | None = None
    """rowcall.v1.JobState of the job that no other caused: one of these."""
    method: str | None = None
    """package.Service/Method of that job."""
    min_duration: timedelta | None = None
    """From that job's submit to its end, or to now."""
    min_cost: Decimal | None = None
    """Of all of the action."""
    currency: str | None = None
    """Of `min_cost`; ISO 4217."""


EVERY_ACTION = ActionFilter()
"""Narrows nothing."""


@dataclass(frozen=True, slots=True)
class ActionRow:
    """An action in a list: the job that no other job caused."""

    job_id: UUID
    trace_id: UUID | None
    method: str
    state: int
    """rowcall.v1.JobState"""
    error_code: int | None
    """google.rpc.Code"""
    created_at: datetime
    finished_at: datetime | None
    attempts: int
    """Those that were lost among them."""
    costs: Sequence[SpendSum]
    """Of all of the action, by currency."""


@dataclass(frozen=True, slots=True)
class ActionPage:
    """A part of a list of actions."""

    rows: Sequence[ActionRow]
    """Newest first."""
    looked_to: UUID | None
    """Down to which job was looked: the next page begins below it. None: there is none."""
