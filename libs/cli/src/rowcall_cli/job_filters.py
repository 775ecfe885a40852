"""The flags that say which jobs a command is for, and the filter that they make. Used by `jobs` and `job_actions`."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated

import typer

from rowcall.v1 import job_pb2, job_service_pb2
from rowcall_cli.flags import label_flags, past_flag

_TIME = "A time (2031-05-04T13:30, in this machine's zone unless it says one) or how long ago (90m, 2h, 3d)."


class State(enum.StrEnum):
    """A job's state, as people write it."""

    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RESOLVED = "resolved"


StateOption = Annotated[
    list[State] | None, typer.Option("--state", help="In this state; repeat it for one of several.", show_default=False)
]
MethodOption = Annotated[str, typer.Option("--method", metavar="METHOD", help="Of this package.Service/Method.")]
QueueOption = Annotated[str, typer.Option("--queue", metavar="QUEUE", help="In this queue.")]
LabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label", metavar="KEY=VALUE", help="With this label; repeat it for all of several.", show_default=False
    ),
]
FingerprintOption = Annotated[
    str, typer.Option("--fingerprint", metavar="HEX", help="Failed like this: see rowcall jobs failures.")
]
ActorOption = Annotated[str, typer.Option("--actor", metavar="ACTOR", help="Triggered by this actor.")]
KeyOption = Annotated[str, typer.Option("--key", metavar="KEY", help="With this idempotency key.")]
ParentOption = Annotated[
    str, typer.Option("--parent", metavar="NAME", help="Submitted by this job's handler, or following its end.")
]
SinceOption = Annotated[str, typer.Option("--since", metavar="TIME", help=f"Created then or later. {_TIME}")]
UntilOption = Annotated[str, typer.Option("--until", metavar="TIME", help="Created before then.")]
FinishedSinceOption = Annotated[str, typer.Option("--finished-since", metavar="TIME", help="Finished then or later.")]
FinishedUntilOption = Annotated[str, typer.Option("--finished-until", metavar="TIME", help="Finished before then.")]


def job_filter(
    *,
    state: Sequence[State] | None = None,
    method: str = "",
    queue: str = "",
    label: Sequence[str] | None = None,
    fingerprint: str = "",
    actor: str = "",
    key: str = "",
    parent: str = "",
    since: str = "",
    until: str = "",
    finished_since: str = "",
    finished_until: str = "",
) -> job_service_pb2.JobFilter:
    """The filter that the flags make; empty if none was given.

    Raises CommandError (USAGE) that names the flag.
    """
    return job_service_pb2.JobFilter(
        states=[job_pb2.JobState.Value(f"JOB_STATE_{each.name}") for each in state or ()],
        method=method,
        queue=queue,
        labels=label_flags(label),
        error_fingerprint=fingerprint,
        actor=actor,
        request_id=key,
        parent=parent,
        created_from=past_flag("--since", since),
        created_to=past_flag("--until", until),
        finished_from=past_flag("--finished-since", finished_since),
        finished_to=past_flag("--finished-until", finished_until),
    )
