"""`rowcall jobs`: jobs looked at, one or many, and dead letters in groups, through the gateway's JobService.

What is done to jobs is `job_actions`'.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rowcall.v1 import job_service_pb2, job_service_pb2_grpc
from rowcall_cli import job_actions
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.flags import past_flag
from rowcall_cli.gateway import (
    DEFAULT_ADDRESS,
    DEFAULT_TENANT,
    RPC_SECONDS,
    AddressOption,
    TenantOption,
    connect,
    whose,
)
from rowcall_cli.job_actions import JsonOption, NameArgument, NameTenantOption
from rowcall_cli.job_filters import (
    ActorOption,
    FingerprintOption,
    FinishedSinceOption,
    FinishedUntilOption,
    KeyOption,
    LabelOption,
    MethodOption,
    ParentOption,
    QueueOption,
    SinceOption,
    State,
    StateOption,
    UntilOption,
    job_filter,
)
from rowcall_cli.job_names import read_names
from rowcall_cli.job_output import (
    GROUP_CELLS,
    JOB_COLUMNS,
    PROSE,
    WAITING_COLUMNS,
    group_cells,
    job_json,
    job_row,
    message_json,
    print_job,
    waiting_row,
)
from rowcall_cli.output import WideOption, examples, result_json, result_table, say
from rowcall_cli.reflection import Types

app = typer.Typer(no_args_is_help=True, help="Look at jobs, cancel them, run failed ones again, mark them as handled.")

GROUP_COLUMNS = ("jobs", *GROUP_CELLS)


@app.command(
    epilog=examples(
        "rowcall jobs show tenants/acme/operations/0199d1f0-… --full", "rowcall jobs show 0199d1f0-… --tenant acme"
    )
)
def show(
    name: NameArgument,
    *,
    full: Annotated[bool, typer.Option("--full", help="With request and response.")] = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: NameTenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job: where it stands, what it waits for if it waits, and every attempt."""
    view = job_service_pb2.JOB_VIEW_FULL if full else job_service_pb2.JOB_VIEW_BASIC
    tenant, [name] = read_names([name], tenant)
    with connect(address, tenant) as gateway:
        stub = job_service_pb2_grpc.JobServiceStub(gateway.channel)
        request = job_service_pb2.GetJobRequest(name=name, view=view)
        job = stub.GetJob(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).job
        print_job(job, Types(gateway.channel), as_json=as_json, wide=wide)


@app.command(
    "list",
    epilog=examples(
        "rowcall jobs list --state failed --since 2h",
        "rowcall jobs list --waiting --queue documents",
        "rowcall jobs list --label team=clocks --limit 500 --json",
    ),
)
def list_(
    *,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Not running yet, each with what it waits for; in place of --state.")
    ] = False,
    state: StateOption = None,
    method: MethodOption = "",
    queue: QueueOption = "",
    label: LabelOption = None,
    fingerprint: FingerprintOption = "",
    actor: ActorOption = "",
    key: KeyOption = "",
    parent: ParentOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    finished_since: FinishedSinceOption = "",
    finished_until: FinishedUntilOption = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="How many at most.")] = 50,
    page_token: Annotated[
        str, typer.Option(metavar="TOKEN", help="Go on where a list ended; the other flags must be the same.")
    ] = "",
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """List the tenant's jobs, newest first; without flags, all of them."""
    if waiting:
        if state:
            raise CommandError(
                "--waiting is --state scheduled --state ready --state waiting; leave one of the two out.",
                ExitCode.USAGE,
            )
        state = [State.SCHEDULED, State.READY, State.WAITING]
    _, parents = read_names([parent] if parent else [], tenant)
    wanted = job_filter(
        state=state,
        method=method,
        queue=queue,
        label=label,
        fingerprint=fingerprint,
        actor=actor,
        key=key,
        parent=parents[0] if parents else "",
        since=since,
        until=until,
        finished_since=finished_since,
        finished_until=finished_until,
    )
    found = job_service_pb2.ListJobsResponse(next_page_token=page_token)
    with connect(address, tenant) as gateway:
        stub = job_service_pb2_grpc.JobServiceStub(gateway.channel)
        while not found.jobs or (found.next_page_token and len(found.jobs) < limit):
            request = job_service_pb2.ListJobsRequest(
                filter=wanted, page_size=min(limit - len(found.jobs), 1000), page_token=found.next_page_token
            )
            page = stub.ListJobs(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
            found.jobs.extend(page.jobs)
            found.next_page_token = page.next_page_token
            if not page.next_page_token:
                break
        if as_json:
            types = Types(gateway.channel)
            jobs = [job_json(job, types) for job in found.jobs]
            result_json({"jobs": jobs, "next_page_token": found.next_page_token})
            return
    columns, row = (WAITING_COLUMNS, waiting_row) if waiting else (JOB_COLUMNS, job_row)
    result_table(columns, [row(job) for job in found.jobs], prose=PROSE, wide=wide)
    if found.next_page_token:
        say(f"There are more: raise --limit, or go on with --page-token {found.next_page_token}")
    elif not found.jobs:
        say(f"No job of {whose(tenant)} matches.")


@app.command(
    epilog=examples("rowcall jobs failures --since 1d", "rowcall jobs failures --method acme.v1.PrintService/Print")
)
def failures(
    *,
    method: MethodOption = "",
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Failed then or later: a time, or how long ago (2h, 3d).")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many groups at most.")] = 100,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Count the tenant's dead letters by method and what they died of, most first.

    A group's jobs are listed, run again or marked as handled by its fingerprint: rowcall jobs retry --fingerprint HEX
    """
    request = job_service_pb2.ListFailureGroupsRequest(
        method=method, finished_from=past_flag("--since", since), page_size=limit
    )
    with connect(address, tenant) as gateway:
        stub = job_service_pb2_grpc.JobServiceStub(gateway.channel)
        groups = stub.ListFailureGroups(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).groups
    if as_json:
        result_json({"groups": [message_json(group) for group in groups]})
        return
    result_table(
        GROUP_COLUMNS,
        [(str(group.job_count), *group_cells(group)) for group in groups],
        prose=PROSE,
        wide=wide,
    )
    if not groups:
        say(f"No dead letter of {whose(tenant)} matches.")


app.command(epilog=job_actions.CANCEL_EXAMPLES)(job_actions.cancel)
app.command(epilog=job_actions.RETRY_EXAMPLES)(job_actions.retry)
app.command(epilog=job_actions.RESOLVE_EXAMPLES)(job_actions.resolve)
