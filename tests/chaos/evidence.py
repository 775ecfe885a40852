"""What a run leaves behind, gathered when nothing is running any more: the rows, the effects, the handlers' starts, and the
workers' log lines of results that came too late. Judged by `tests.chaos.verdict`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from google.rpc.status_pb2 import Status

from rowcall.names import operation_name
from rowcall.probe.v1.probe_pb2 import AwaitResponse, RunResponse
from tests.chaos import effects, errors
from tests.chaos.receipts import Receipt
from tests.chaos.stage import Stage

LATE: Final = "late result dropped: the job is no longer this worker's"
"""The log line of a worker whose settle the shard refused."""
_JUST: Final = 5.0
"""Seconds after it went on in which a stopped process's late results are put down to the stop."""
_ROWS: Final = """
select j.tenant, j.job_id, j.state, j.lease, j.lost, (j.labels ->> 'call')::bigint, m.name, j.response, j.error
from (
  select tenant, job_id, state, lease, lost, labels, method_id, null::bytea as response, null::bytea as error
  from rowcall.job
  union all
  select tenant, job_id, state, lease, lost, labels, method_id, response, error
  from rowcall.job_history
) j
join rowcall.method m using (method_id)
"""
_RESPONSES: Final[Mapping[str, Callable[[bytes], AwaitResponse | RunResponse]]] = {
    "rowcall.probe.v1.ProbeService/Await": AwaitResponse.FromString,
    "rowcall.probe.v1.ProbeService/Run": RunResponse.FromString,
}


@dataclass(frozen=True, slots=True)
class Row:
    """A job as it is in its shard."""

    name: str
    """Its operation's."""
    call: int
    """The number of the call that it is of."""
    state: int
    """rowcall.v1.JobState."""
    lease: int
    """Its last lease number."""
    lost: int
    """How often it was lost with a worker."""
    method: str
    """What it is a job of: "package.Service/Method"."""
    receipt: Receipt | None
    """What the run said whose result counted."""
    error: str | None
    """What it failed with: code, reason and message."""


@dataclass(frozen=True, slots=True)
class Late:
    """A settle that a shard refused, because the job was no longer that worker's."""

    name: str
    """The job's operation."""
    lease: int
    """The lease number that the settle carried."""
    woken: bool
    """Whether it came from a process that had been stopped and had just gone on."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it."""

    rows: Sequence[Row]
    """Every job."""
    effects: Sequence[Receipt]
    """Every effect that was committed."""
    starts: Sequence[Receipt]
    """Every start of a handler."""
    late: Sequence[Late]
    """Every settle that was refused."""


def gather(stage: Stage) -> Evidence:
    """Reads everything from a stage's databases, folder and logs."""
    shards = stage.cluster.shards.values()
    return Evidence(_rows(shards), effects.read(shards), effects.starts(stage.folder / "starts"), _late_results(stage))


def _late_results(stage: Stage) -> list[Late]:
    """Every settle that was refused, as the workers' logs tell it."""
    found: list[Late] = []
    for seat in stage.workers:
        for process in seat.processes:
            woken = [at for which, at in seat.woken if which is process]
            for line in process.log:
                if LATE not in line:
                    continue
                said = json.loads(line)
                at = datetime.fromisoformat(said["timestamp"]).timestamp()
                found.append(Late(said["job"], said["lease"], any(0 <= at - each <= _JUST for each in woken)))
    return found


def _rows(dsns: Iterable[str]) -> list[Row]:
    found: list[Row] = []
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            for tenant, job_id, state, lease, lost, call, method, response, error in connection.execute(_ROWS):
                receipt = None if response is None else Receipt.decode(_RESPONSES[method](response).payload)
                told = None if error is None else errors.of_status(Status.FromString(error))
                found.append(Row(operation_name(tenant, job_id), call, state, lease, lost, method, receipt, told))
    return found
