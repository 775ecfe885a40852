"""`rowcall jobs cancel`, `retry` and `resolve`: done to one job, to several by name, or to all that match. Used by `jobs`.

Whatever matches a filter is counted and asked about before it is touched; a script says --yes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from rowcall.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import (
    DEFAULT_ADDRESS,
    RPC_SECONDS,
    AddressOption,
    Gateway,
    connect,
    explain_status,
)
from rowcall_cli.job_filters import (
    ActorOption,
    FingerprintOption,
    LabelOption,
    MethodOption,
    QueueOption,
    SinceOption,
    StateOption,
    UntilOption,
    job_filter,
)
from rowcall_cli.job_names import FORMS, read_names
from rowcall_cli.job_output import message_json, print_job, state_name
from rowcall_cli.output import examples, result_json, result_table, say
from rowcall_cli.reflection import Types

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help=f"The job's name: {FORMS}.", show_default=False)]
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help=f"Jobs: {FORMS}.", show_default=False)
]
NameTenantOption = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        envvar="ROWCALL_TENANT",
        metavar="NAME",
        help="The tenant to call for. [default: the one in NAME, else default]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
AllOption = Annotated[bool, typer.Option("--all", help="All of the tenant's to which it can be done.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=100_000, metavar="N", help="How many that match at most, newest first.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

CANCEL_EXAMPLES = examples("rowcall jobs cancel 0199d1f0-…", "rowcall jobs cancel --queue mail --since 1h --dry-run")
RETRY_EXAMPLES = examples(
    "rowcall jobs retry tenants/default/operations/0199d1f0-…",
    "rowcall jobs retry --fingerprint 9f86d081884c7d65 --limit 5000 --yes",
)
RESOLVE_EXAMPLES = examples(
    "rowcall jobs resolve tenants/default/operations/0199d1f0-… --note 'The disk was changed.'",
    "rowcall jobs resolve --method acme.v1.PrintService/Print --until 7d --yes",
)

_BULK_SECONDS = 600.0
"""How long the jobs of one selection may take: 100,000 at most."""

Result = job_service_pb2.JobSelectionResult
Stub = job_service_pb2_grpc.JobServiceStub


@dataclass(frozen=True, slots=True)
class _Action:
    """Something to be done to many jobs, in words and as a call."""

    verb: str
    """As the command is called: "retry"."""
    done: str
    """What the jobs are afterwards."""
    call: Callable[[Gateway, job_service_pb2.JobSelection], Result]


def cancel(
    names: NamesArgument = None,
    *,
    state: StateOption = None,
    method: MethodOption = "",
    queue: QueueOption = "",
    label: LabelOption = None,
    actor: ActorOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    every: AllOption = False,
    limit: LimitOption = 1000,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: NameTenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel jobs that wait, or mark those that run: by name, or all that match.

    A marked job's handler is told and decides when it ends; it is not tried again if it fails. Exits with 1 when a job was
    finished already, with 4 when more match than the limit.
    """

    def call(gateway: Gateway, selection: job_service_pb2.JobSelection) -> Result:
        request = job_service_pb2.BatchCancelJobsRequest(selection=selection)
        return Stub(gateway.channel).BatchCancelJobs(request, timeout=_BULK_SECONDS, metadata=gateway.metadata()).result

    wanted = job_filter(state=state, method=method, queue=queue, label=label, actor=actor, since=since, until=until)
    tenant, named = read_names(names or (), tenant)
    one = _only(named, wanted, every=every, dry_run=dry_run)
    if one is None:
        action = _Action("cancel", "cancelled, or marked where they run", call)
        selection = _selection(named, wanted, every=every, limit=limit, dry_run=dry_run)
        _run(action, selection, address=address, tenant=tenant, yes=yes, as_json=as_json)
        return
    with connect(address, tenant) as gateway:
        request = job_service_pb2.CancelJobRequest(name=one)
        job = Stub(gateway.channel).CancelJob(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).job
        if as_json:
            print_job(job, Types(gateway.channel), as_json=True)
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        say(f"{one} is cancelled.")
    elif job.cancel_requested and job.state == job_pb2.JOB_STATE_RUNNING:
        say(f"{one} runs (attempt {job.attempt}): it is marked, and its handler decides when it ends.")
    else:
        raise CommandError(f"{one} was {state_name(job.state)} already: nothing is left to cancel.")


def retry(
    names: NamesArgument = None,
    *,
    method: MethodOption = "",
    queue: QueueOption = "",
    label: LabelOption = None,
    fingerprint: FingerprintOption = "",
    actor: ActorOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    every: AllOption = False,
    limit: LimitOption = 1000,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: NameTenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run failed jobs again under their own names, with their history: by name, or all that match.

    Exits with 1 when a job has not failed, with 4 when more match than the limit.
    """

    def call(gateway: Gateway, selection: job_service_pb2.JobSelection) -> Result:
        request = job_service_pb2.BatchRetryJobsRequest(selection=selection)
        return Stub(gateway.channel).BatchRetryJobs(request, timeout=_BULK_SECONDS, metadata=gateway.metadata()).result

    wanted = job_filter(
        method=method, queue=queue, label=label, fingerprint=fingerprint, actor=actor, since=since, until=until
    )
    tenant, named = read_names(names or (), tenant)
    one = _only(named, wanted, every=every, dry_run=dry_run)
    if one is None:
        action = _Action("retry", "ready again", call)
        selection = _selection(named, wanted, every=every, limit=limit, dry_run=dry_run)
        _run(action, selection, address=address, tenant=tenant, yes=yes, as_json=as_json)
        return
    with connect(address, tenant) as gateway:
        request = job_service_pb2.RetryJobRequest(name=one)
        job = Stub(gateway.channel).RetryJob(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).job
        if as_json:
            print_job(job, Types(gateway.channel), as_json=True)
    say(f"{one} is ready again.")


def resolve(
    names: NamesArgument = None,
    *,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="What was done about it; kept with the job.")
    ] = "",
    method: MethodOption = "",
    queue: QueueOption = "",
    label: LabelOption = None,
    fingerprint: FingerprintOption = "",
    actor: ActorOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    every: AllOption = False,
    limit: LimitOption = 1000,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: NameTenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mark failed jobs as handled: by name, or all that match. Their callers' answer stays the failure that it was.

    Exits with 1 when a job has not failed, with 4 when more match than the limit.
    """

    def call(gateway: Gateway, selection: job_service_pb2.JobSelection) -> Result:
        request = job_service_pb2.BatchResolveJobsRequest(selection=selection, note=note)
        return (
            Stub(gateway.channel).BatchResolveJobs(request, timeout=_BULK_SECONDS, metadata=gateway.metadata()).result
        )

    wanted = job_filter(
        method=method, queue=queue, label=label, fingerprint=fingerprint, actor=actor, since=since, until=until
    )
    tenant, named = read_names(names or (), tenant)
    one = _only(named, wanted, every=every, dry_run=dry_run)
    if one is None:
        action = _Action("resolve", "marked as handled", call)
        selection = _selection(named, wanted, every=every, limit=limit, dry_run=dry_run)
        _run(action, selection, address=address, tenant=tenant, yes=yes, as_json=as_json)
        return
    with connect(address, tenant) as gateway:
        request = job_service_pb2.ResolveJobRequest(name=one, note=note)
        job = Stub(gateway.channel).ResolveJob(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).job
        if as_json:
            print_job(job, Types(gateway.channel), as_json=True)
    say(f"{one} is marked as handled.")


def _only(names: Sequence[str], wanted: job_service_pb2.JobFilter, *, every: bool, dry_run: bool) -> str | None:
    """The one name, where it is one job that something is done to."""
    filtered = every or wanted != job_service_pb2.JobFilter()
    return names[0] if len(names) == 1 and not dry_run and not filtered else None


def _selection(
    names: Sequence[str], wanted: job_service_pb2.JobFilter, *, every: bool, limit: int, dry_run: bool
) -> job_service_pb2.JobSelection:
    filtered = wanted != job_service_pb2.JobFilter()
    if names and (filtered or every):
        raise CommandError("Say NAMEs, or flags that match jobs, not both.", ExitCode.USAGE)
    if not names and not filtered and not every:
        raise CommandError("Say which jobs: NAMEs, flags that match them, or --all.", ExitCode.USAGE)
    if names:
        return job_service_pb2.JobSelection(names=names, dry_run=dry_run)
    return job_service_pb2.JobSelection(filter=wanted, limit=limit, dry_run=dry_run)


def _run(
    action: _Action,
    selection: job_service_pb2.JobSelection,
    *,
    address: str,
    tenant: str,
    yes: bool,
    as_json: bool,
) -> None:
    with connect(address, tenant) as gateway:
        if not (yes or selection.dry_run or selection.names):
            _ask(action, gateway, selection)
        result = action.call(gateway, selection)
    if as_json:
        result_json({"dry_run": selection.dry_run, **_counts(result), **message_json(result)})
    elif selection.dry_run:
        result_table((f"would {action.verb}",), [(name,) for name in result.sample])
    if result.refused and not as_json:
        result_table(
            ("refused", "why"), [(each.name, explain_status(each.error)) for each in result.refused], prose=("why",)
        )
    if selection.dry_run:
        say(f"{_many(result)} would be {action.done}. Nothing was done.")
        return
    say(f"{result.done} jobs are {action.done}.")
    if result.refused:
        raise CommandError(f"{len(set(selection.names)) - result.matched} of the named jobs were refused.")
    if result.more:
        raise CommandError(
            "More are left, beyond the limit or because the time was up. Run the same again for the rest, or raise --limit.",
            ExitCode.UNFINISHED,
        )


def _ask(action: _Action, gateway: Gateway, selection: job_service_pb2.JobSelection) -> None:
    """Asks the person at the terminal, with the number of jobs that it is about."""
    dry = job_service_pb2.JobSelection()
    dry.CopyFrom(selection)
    dry.dry_run = True
    found = action.call(gateway, dry)
    if found.matched == 0:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            f"{_many(found)} match; nothing was done. Say --yes to {action.verb} them, or --dry-run to see some.",
            ExitCode.USAGE,
        )
    if not typer.confirm(f"{action.verb} {_many(found)}?", err=True):
        raise CommandError("Nothing was done.")


def _many(result: Result) -> str:
    return f"{result.matched}{' or more' if result.more else ''} jobs"


def _counts(result: Result) -> dict[str, object]:
    """What JSON leaves out of a message where it is zero."""
    return {"matched": result.matched, "done": result.done, "more": result.more}
