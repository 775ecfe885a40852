"""`rowcall workers`: the worker processes that live, and what one runs, through the gateway's WorkerService."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcall.v1.worker_service_pb2 import (
    GetWorkerRequest,
    ListWorkersRequest,
    RunningJob,
    Worker,
    WorkerRegistration,
    WorkerState,
)
from rowcall.v1.worker_service_pb2_grpc import WorkerServiceStub
from rowcall_cli.answers import as_dict, complete, second_text
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

app = typer.Typer(no_args_is_help=True, help="Look at the workers that live, and at what they run.")

COLUMNS = ("worker", "state", "since", "version", "release", "slots", "threads", "shards", "queues", "methods")
JOB_COLUMNS = ("job", "method", "queue", "attempt", "started")

_PAGE = 1000

WorkerArgument = Annotated[
    str, typer.Argument(metavar="WORKER", help="As rowcall workers list shows it.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command("list", epilog=examples("rowcall workers list", "rowcall workers list --json"))
def list_(
    *,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Show the workers that live: since when, of which version, how many of their slots and threads are taken, and what they serve.

    One that has not renewed its lease for three seconds is suspected. With --json, methods by name and each shard's own. Exits
    with 3 when a shard did not answer: workers of it alone are missing then.
    """
    with connect(address, tenant) as gateway:
        found, missing = every_worker(gateway)
    if as_json:
        result_json({"workers": [as_dict(each, whole=True) for each in found], "unreachable_shards": missing})
    elif found:
        result_table(COLUMNS, map(_row, found), wide=wide, prose=("queues",))
    else:
        say("No worker lives: start one with rowcall-worker.")
    complete(missing)


@app.command(
    epilog=examples("rowcall workers show db-host-4711-3f2a9c", "rowcall workers show db-host-4711-3f2a9c --json")
)
def show(
    name: WorkerArgument,
    *,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Show one worker, and the jobs that it runs: those of the tenant that is called for, to admins all.

    Told are jobs that have run for a second, the longest first, a hundred of each shard at most. Exits with 3 when a shard did not
    answer: what it is and runs there is missing then.
    """
    with connect(address, tenant) as gateway:
        answer = WorkerServiceStub(gateway.channel).GetWorker(
            GetWorkerRequest(name=name), timeout=RPC_SECONDS, metadata=gateway.metadata()
        )
    if as_json:
        result_json({**as_dict(answer.worker, whole=True), "unreachable_shards": list(answer.unreachable_shards)})
    else:
        result_fields(_fields(answer.worker))
        if answer.worker.jobs:
            result_table(JOB_COLUMNS, map(_job, answer.worker.jobs), wide=wide)
    complete(answer.unreachable_shards)


def every_worker(gateway: Gateway) -> tuple[list[Worker], list[str]]:
    """All of them by name, and the shards that did not answer."""
    found: list[Worker] = []
    missing: set[str] = set()
    token = ""
    while True:
        answer = WorkerServiceStub(gateway.channel).ListWorkers(
            ListWorkersRequest(page_size=_PAGE, page_token=token),
            timeout=RPC_SECONDS,
            metadata=gateway.metadata() if gateway.tenant else (),
        )
        found += answer.workers
        missing.update(answer.unreachable_shards)
        token = answer.next_page_token
        if not token:
            return found, sorted(missing)


def _row(worker: Worker) -> tuple[str, ...]:
    return (
        worker.name,
        _state(worker.state),
        second_text(worker.start_time),
        worker.version,
        worker.release,
        f"{worker.slots_taken} of {worker.slots}",
        f"{worker.threads_taken} of {worker.threads}",
        ", ".join(sorted({each.shard for each in worker.registrations})),
        _queues(worker),
        str(len(worker.methods)),
    )


def _fields(worker: Worker) -> list[tuple[str, str]]:
    return [
        ("worker", worker.name),
        ("host", worker.host),
        ("state", _state(worker.state)),
        ("since", second_text(worker.start_time)),
        ("version", worker.version),
        ("release", worker.release),
        ("slots", f"{worker.slots_taken} of {worker.slots}"),
        ("threads", f"{worker.threads_taken} of {worker.threads}"),
        ("queues", _queues(worker)),
        *(("method", each) for each in worker.methods),
        *(("shard", _registration(each)) for each in worker.registrations),
    ]


def _registration(one: WorkerRegistration) -> str:
    renewed = f"renewed {second_text(one.renew_time)}, without a gap since {second_text(one.steady_time)}"
    return f"{one.shard}: {_state(one.state)}, {renewed}, runs {one.running}"


def _queues(worker: Worker) -> str:
    if worker.suspects_only:
        return "suspects only"
    return "all" if worker.every_queue else ", ".join(worker.queues)


def _job(job: RunningJob) -> tuple[str, ...]:
    return (job.name, job.method, job.queue, str(job.attempt), second_text(job.start_time))


def _state(state: WorkerState.ValueType) -> str:
    return WorkerState.Name(state).removeprefix("WORKER_STATE_").lower()
