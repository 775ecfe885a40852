"""`rowcall top`: what happens now, in the queues, on the workers and by our own fault; live, or once.

It calls what every client may call: QueueService, WorkerService and ErrorService. However many watch, a gateway asks its shards once a second at
most.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import grpc
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rowcall.v1.error_service_pb2 import Incident, IncidentState, ListIncidentsRequest
from rowcall.v1.error_service_pb2_grpc import ErrorServiceStub
from rowcall.v1.job_pb2 import JobCounts, JobRates
from rowcall.v1.queue_service_pb2 import ListQueueActivityRequest, ListQueueActivityResponse, QueueActivity
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from rowcall.v1.worker_service_pb2 import Worker, WorkerState
from rowcall_cli.answers import as_dict, complete, second_text, span_text
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, Gateway, connect, explain
from rowcall_cli.output import examples, result_fields, result_json, result_table
from rowcall_cli.workers import every_worker

EXAMPLES: Final = examples("rowcall top", "rowcall top --once", "rowcall top --once --json")

COLUMNS: Final = (
    "queue", "waiting", "oldest", "running", "in/s", "started/s", "succeeded/s", "failed/s", "dead/s", "today"
)  # fmt: skip
_NARROW: Final = ("queue", "waiting", "oldest", "running", "in/s", "succeeded/s")
_WIDE_FROM: Final = 100
"""Columns of a terminal from which on all are shown."""
ERROR_COLUMNS: Final = ("error", "count", "last", "method", "what")

EVERY: Final = 2.0
"""Seconds between two looks."""
_ERRORS: Final = 5
_COUNTS: Final = ("accepted", "started", "succeeded", "failed", "dead", "cancelled")
_ANSWERS: Final = (
    "answered_in_time", "answered_joined", "answered_operation", "answered_still_running", "answered_failed"
)  # fmt: skip
"""How calls were answered, of the same counts."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was answered at one time."""

    activity: ListQueueActivityResponse
    workers: Sequence[Worker]
    incidents: Sequence[Incident]
    missing: frozenset[str]
    """Shards that did not answer one of the questions."""

    def rate(self, name: str) -> float:
        """How much of something there is a second, in all queues."""
        return sum(float(getattr(queue.rates, name)) for queue in self.activity.queues)

    def today(self, name: str) -> int:
        """How much of it there was today."""
        return sum(int(getattr(queue.today, name)) for queue in self.activity.queues)


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; with --once.")] = False,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """Show what happens now: queues, how fast jobs come and go and how they end, how calls are answered, workers and their slots, and
    errors of our own.

    On a terminal it is looked at every two seconds until Ctrl-C; with --once, once. Rates are measured over some ten seconds, or as
    long as anybody has watched. Nothing is counted for it. For admins. With --once it exits with 3 when a shard did not answer: what
    happens there is missing then.
    """
    if as_json and not once:
        raise CommandError("--json is for scripts, which look once: add --once.", ExitCode.USAGE)
    if not once and not sys.stdout.isatty():
        raise CommandError("stdout is no terminal: add --once, and --json for a script.", ExitCode.USAGE)
    with connect(address, "") as gateway:
        if once:
            seen = _measured(gateway)
        else:
            _watch(gateway)
            return
    if as_json:
        result_json(_as_dict(seen))
    else:
        result_fields(_fields(seen))
        result_table(COLUMNS, [_row(queue) for queue in _in_order(seen)])
        if seen.incidents:
            result_table(ERROR_COLUMNS, map(_error, seen.incidents), prose=("what",))
    complete(seen.missing)


def _look(gateway: Gateway, seconds: float = RPC_SECONDS) -> _Seen:
    activity = QueueServiceStub(gateway.channel).ListQueueActivity(ListQueueActivityRequest(), timeout=seconds)
    workers, missing = every_worker(gateway)
    incidents = ErrorServiceStub(gateway.channel).ListIncidents(
        ListIncidentsRequest(
            page_size=_ERRORS, states=[IncidentState.INCIDENT_STATE_OPEN, IncidentState.INCIDENT_STATE_REGRESSED]
        ),
        timeout=seconds,
    )
    shards = {*activity.unreachable_shards, *missing, *incidents.unreachable_shards}
    return _Seen(activity, workers, incidents.incidents, frozenset(shards))


def _measured(gateway: Gateway) -> _Seen:
    """With rates, for which it takes two looks where nobody else has looked lately."""
    seen = _look(gateway)
    if not seen.activity.HasField("measured_over"):
        time.sleep(EVERY)
        seen = _look(gateway)
    return seen


def _watch(gateway: Gateway) -> None:
    """Until Ctrl-C, which is how it ends."""
    console = Console()
    try:
        seen, trouble = _look(gateway), ""
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_frame(seen, gateway.address, trouble, console), refresh=True)
                time.sleep(EVERY)
                try:
                    seen, trouble = _look(gateway, seconds=2 * EVERY), ""
                except grpc.RpcError as error:
                    trouble = f"{explain(error, gateway.address)}\nTrying again."
    except KeyboardInterrupt:
        return


def _frame(seen: _Seen, address: str, trouble: str, console: Console) -> RenderableType:
    """What a terminal shows, no taller than it is."""
    columns = COLUMNS if console.width >= _WIDE_FROM else _NARROW
    head = [Text(f"rowcall top  {address}  {second_text(seen.activity.read_time)}", style="bold")]
    if trouble:
        head.append(Text(trouble, style="red"))
    fields = [(name, value) for name, value in _fields(seen) if value]
    label = max(len(name) for name, _ in fields)
    head += [
        Text.assemble((f"{name:<{label}}  ", "dim"), value, no_wrap=True, overflow="ellipsis") for name, value in fields
    ]
    errors = [_error(one) for one in seen.incidents]
    room = console.height - sum(str(line).count("\n") + 1 for line in head) - (len(errors) + 2 if errors else 0) - 3
    queues = _in_order(seen)
    shown = queues if len(queues) <= room else queues[: max(room - 1, 1)]
    rows = [dict(zip(COLUMNS, _row(queue), strict=True)) for queue in shown]
    parts: list[RenderableType] = [*head, Text(), _table(columns, [[row[name] for name in columns] for row in rows])]
    if len(shown) < len(queues):
        parts.append(Text(f"and {len(queues) - len(shown)} more: rowcall top --once shows all", style="dim"))
    if errors:
        parts += [Text(), _table(ERROR_COLUMNS, errors)]
    return Group(*parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(
            column, no_wrap=True, overflow="ellipsis", justify="right" if place and columns != ERROR_COLUMNS else "left"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _fields(seen: _Seen) -> list[tuple[str, str]]:
    workers = seen.workers
    suspected = sum(worker.state == WorkerState.WORKER_STATE_SUSPECTED for worker in workers)
    states = f"{len(workers) - suspected} steady" + (f", {suspected} suspected" if suspected else "")
    slots = f"slots {sum(each.slots_taken for each in workers)} of {sum(each.slots for each in workers)}"
    threads = f"threads {sum(each.threads_taken for each in workers)} of {sum(each.threads for each in workers)}"
    measured = seen.activity.HasField("measured_over")
    over = f" (over {seen.activity.measured_over.ToTimedelta().total_seconds():.0f} s)"
    return [
        ("workers", f"{states}, {slots}, {threads}" if workers else "none lives"),
        ("a second", _listed(lambda name: _rate(seen.rate(name)), _COUNTS) + over if measured else ""),
        ("today", _listed(lambda name: str(seen.today(name)), _COUNTS)),
        ("answers a second", _listed(lambda name: _rate(seen.rate(name)), _ANSWERS) if measured else ""),
        ("answers today", _listed(lambda name: str(seen.today(name)), _ANSWERS)),
        ("no answer", ", ".join(sorted(seen.missing))),
    ]


def _listed(number: Callable[[str], str], names: Sequence[str]) -> str:
    return ", ".join(f"{number(name)} {name.removeprefix('answered_').replace('_', ' ')}" for name in names)


def _in_order(seen: _Seen) -> list[QueueActivity]:
    """Where most waits first."""
    return sorted(seen.activity.queues, key=lambda queue: (-queue.waiting, -queue.running, queue.name))


def _row(queue: QueueActivity) -> tuple[str, ...]:
    rates, known = queue.rates, queue.HasField("rates")
    return (
        f"{queue.name} (paused)" if queue.paused else queue.name,
        str(queue.waiting),
        span_text(queue.oldest_age.ToTimedelta().total_seconds()) if queue.HasField("oldest_age") else "",
        str(queue.running),
        *(
            _rate(number) if known else ""
            for number in (rates.accepted, rates.started, rates.succeeded, rates.failed, rates.dead)
        ),
        str(queue.today.succeeded),
    )


def _error(one: Incident) -> tuple[str, ...]:
    return (one.fingerprint, str(one.count), second_text(one.last_time), one.method, one.kind)


def _rate(number: float) -> str:
    return f"{number:.0f}" if number >= 10 or number == 0 else f"{number:.1f}"


def _as_dict(seen: _Seen) -> dict[str, object]:
    """What is seen for scripts: counts as numbers, which protobuf's JSON would write as texts."""
    measured = seen.activity.HasField("measured_over")
    return {
        "read_time": seen.activity.read_time.ToJsonString(),
        "measured_over_seconds": seen.activity.measured_over.ToTimedelta().total_seconds() if measured else None,
        "rates": {name: seen.rate(name) for name in (*_COUNTS, *_ANSWERS)} if measured else None,
        "today": {name: seen.today(name) for name in (*_COUNTS, *_ANSWERS)},
        "queues": [
            {
                "name": queue.name,
                "paused": queue.paused,
                "waiting": queue.waiting,
                "oldest_age_seconds": queue.oldest_age.ToTimedelta().total_seconds()
                if queue.HasField("oldest_age")
                else None,
                "running": queue.running,
                "rates": _numbers(queue.rates) if queue.HasField("rates") else None,
                "today": _numbers(queue.today),
            }
            for queue in seen.activity.queues
        ],
        "workers": [as_dict(worker, whole=True) for worker in seen.workers],
        "errors": [as_dict(one) for one in seen.incidents],
        "unreachable_shards": sorted(seen.missing),
    }


def _numbers(counts: JobCounts | JobRates) -> dict[str, float]:
    return {name: getattr(counts, name) for name in (*_COUNTS, *_ANSWERS)}
