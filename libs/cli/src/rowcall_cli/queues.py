"""`rowcall queues`: the queues looked at, paused and resumed, and all that is paused, through the gateway's QueueService."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1 import queue_service_pb2, queue_service_pb2_grpc
from rowcall_cli.answers import as_dict, complete, second_text, span_text
from rowcall_cli.gateway import (
    DEFAULT_ADDRESS,
    DEFAULT_TENANT,
    RPC_SECONDS,
    AddressOption,
    Gateway,
    TenantOption,
    connect,
)
from rowcall_cli.output import WideOption, examples, result_fields, result_json, result_table, say
from rowcall_cli.pausing import NoteOption, PauserOption, by, say_paused, say_resumed

app = typer.Typer(no_args_is_help=True, help="Look at queues, pause and resume them.")

PAUSE_COLUMNS = ("kind", "name", "since", "by", "note", "not on shards")
COLUMNS = ("queue", "ready", "oldest", "held", "running", "scheduled", "served by", "paused")
PROSE = ("served by", "paused")

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command("list", epilog=examples("rowcall queues list", "rowcall queues list --json"))
def list_(
    *,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Show every queue: how much waits, since when, how much runs, who serves it, and what is paused.

    Each shard counts to 10,000 and no further; "+" says that there are at least so many. Exits with 3 when a shard did not
    answer: what it has is missing then.
    """
    with connect(address, tenant) as gateway:
        request = queue_service_pb2.ListQueuesRequest()
        answer = _stub(gateway).ListQueues(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    if as_json:
        result_json(
            {
                "queues": [_as_dict(queue) for queue in answer.queues],
                "unreachable_shards": list(answer.unreachable_shards),
            }
        )
    else:
        rows = [[value for _, value in _fields(queue)] for queue in answer.queues]
        result_table(COLUMNS, rows, prose=PROSE, wide=wide)
    complete(answer.unreachable_shards)


@app.command(epilog=examples("rowcall queues show default"))
def show(
    name: QueueArgument,
    *,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Show one queue. Exits with 3 when a shard did not answer: what it has is missing then."""
    with connect(address, tenant) as gateway:
        request = queue_service_pb2.GetQueueRequest(name=name)
        answer = _stub(gateway).GetQueue(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    if as_json:
        result_json({**_as_dict(answer.queue), "unreachable_shards": list(answer.unreachable_shards)})
    else:
        result_fields(_fields(answer.queue))
    complete(answer.unreachable_shards)


@app.command(epilog=examples('rowcall queues pause documents --note "the index is being rebuilt"'))
def pause(
    name: QueueArgument,
    *,
    note: NoteOption = "",
    actor: PauserOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
) -> None:
    """Pause a queue, for all tenants: none of its jobs is started from now on.

    What runs goes on, and calls are still taken. A pause that is there already stays as it is. Exits with 1 when it could not be
    done on every shard; do it again then.
    """
    with connect(address, tenant) as gateway:
        request = queue_service_pb2.PauseQueueRequest(name=name, note=note)
        _stub(gateway).PauseQueue(request, timeout=RPC_SECONDS, metadata=gateway.metadata(*by(actor)))
    say_paused("queue", name)


@app.command(epilog=examples("rowcall queues resume documents"))
def resume(
    name: QueueArgument, *, address: AddressOption = DEFAULT_ADDRESS, tenant: TenantOption = DEFAULT_TENANT
) -> None:
    """End a queue's pause, if there is one.

    Exits with 1 when it could not be done on every shard; do it again then.
    """
    with connect(address, tenant) as gateway:
        request = queue_service_pb2.ResumeQueueRequest(name=name)
        _stub(gateway).ResumeQueue(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    say_resumed("queue", name)


@app.command(epilog=examples("rowcall queues pauses", "rowcall queues pauses --tenant acme --json"))
def pauses(
    *,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Show what is paused: queues, methods, and the tenant that is called for.

    Exits with 3 when a shard did not answer: what is paused on it alone is missing then.
    """
    with connect(address, tenant) as gateway:
        request = queue_service_pb2.ListPausesRequest()
        answer = _stub(gateway).ListPauses(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    if as_json:
        result_json(
            {
                "pauses": [as_dict(one) for one in answer.pauses],
                "unreachable_shards": list(answer.unreachable_shards),
            }
        )
    elif answer.pauses:
        result_table(PAUSE_COLUMNS, [_row(one) for one in answer.pauses], prose=("note",), wide=wide)
    else:
        say("Nothing is paused.")
    complete(answer.unreachable_shards)


def _stub(gateway: Gateway) -> queue_service_pb2_grpc.QueueServiceStub:
    return queue_service_pb2_grpc.QueueServiceStub(gateway.channel)


def _fields(queue: queue_service_pb2.Queue) -> list[tuple[str, str]]:
    more = "+" if queue.capped else ""
    paused = ""
    if queue.HasField("pause"):
        paused = " ".join(
            part for part in (second_text(queue.pause.pause_time), queue.pause.actor, queue.pause.note) if part
        )
    values = (
        queue.name,
        f"{queue.ready}{more}",
        _age(queue.oldest_ready_time) if queue.HasField("oldest_ready_time") else "",
        _held(queue, more),
        str(queue.running),
        f"{queue.scheduled}{more if queue.scheduled else ''}",
        _served_by(queue),
        paused,
    )
    return list(zip(COLUMNS, values, strict=True))


def _held(queue: queue_service_pb2.Queue, more: str) -> str:
    """How many, and for which reasons."""
    if not queue.held:
        return "0"
    counts = ((queue.held_paused, "paused"), (queue.held_suspect, "suspect"), (queue.held_limited, "limited"))
    reasons = ", ".join(f"{count} {reason}" for count, reason in counts if count)
    return f"{queue.held}{more} ({reasons})" if reasons else f"{queue.held}{more}"


def _served_by(queue: queue_service_pb2.Queue) -> str:
    """How many workers, or since when nobody; and what waits in it all the same that nobody serves."""
    parts = [f"{queue.workers} {'worker' if queue.workers == 1 else 'workers'}"] if queue.workers else []
    if queue.HasField("unserved"):
        nobody = "nobody"
        if queue.workers:
            nobody += f" on {', '.join(queue.unserved.shards)}"
        if queue.unserved.HasField("start_time"):
            nobody += f" since {second_text(queue.unserved.start_time)}, when {queue.unserved.worker} was gone"
        elif not queue.workers:
            nobody += " yet"
        parts.append(nobody)
    if queue.workers and queue.unserved_methods:
        parts.append(f"nobody for {', '.join(queue.unserved_methods)}")
    return "; ".join(parts)


def _as_dict(queue: queue_service_pb2.Queue) -> dict[str, object]:
    """The queue for scripts; its counts as numbers, which protobuf's JSON would write as texts."""
    counts = {
        "ready": queue.ready,
        "held": queue.held,
        "held_paused": queue.held_paused,
        "held_suspect": queue.held_suspect,
        "held_limited": queue.held_limited,
        "running": queue.running,
        "scheduled": queue.scheduled,
    }
    return as_dict(queue, whole=True) | counts


def _row(one: queue_service_pb2.Pause) -> tuple[str, ...]:
    kind = one.WhichOneof("paused") or ""
    name = {"queue": one.queue, "method": one.method, "tenant": one.tenant.removeprefix("tenants/")}.get(kind, "")
    return (kind, name, second_text(one.info.pause_time), one.info.actor, one.info.note, ", ".join(one.missing_shards))


def _age(since: Timestamp) -> str:
    """For how long something has waited, by this machine's clock."""
    return span_text(max((datetime.now(UTC) - since.ToDatetime(tzinfo=UTC)).total_seconds(), 0))
