"""`rowcall tenants`: tenants listed, shown, paused, resumed and weighed, through the gateway's TenantService; `tenant_data` adds what is done to
all that is kept of one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated

import typer

from rowcall.names import parse_tenant_name, tenant_name
from rowcall.v1 import tenant_service_pb2, tenant_service_pb2_grpc
from rowcall.v1.job_service_pb2 import FailureGroup
from rowcall.v1.tenant_service_pb2 import Tenant, TenantState
from rowcall_cli.answers import complete
from rowcall_cli.flags import past_flag
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, Gateway, connect
from rowcall_cli.job_filters import MethodOption
from rowcall_cli.job_output import GROUP_CELLS, PROSE, group_cells, message_json, time_text
from rowcall_cli.output import WideOption, examples, result_fields, result_json, result_table, say
from rowcall_cli.pausing import NoteOption, PauserOption, by, say_paused, say_resumed

app = typer.Typer(
    no_args_is_help=True,
    help="List tenants, show, pause and resume them, set their shares, export and erase all of one.",
)

COLUMNS = (
    "tenant", "shard", "state", "weight", "due", "share", "waiting", "accepted", "succeeded", "failed", "dead", "paused", "by", "note"
)  # fmt: skip

FAILURE_COLUMNS = ("jobs", "tenants", *GROUP_CELLS)

_PAGE = 1000

TenantArgument = Annotated[
    str,
    typer.Argument(
        metavar="TENANT",
        help="The tenant: NAME, or tenants/NAME.",
        callback=lambda name: parse_tenant_name(name) or name,
        show_default=False,
    ),
]
CallerOption = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        envvar="ROWCALL_TENANT",
        metavar="NAME",
        help="The tenant to call for. [default: the tenant that is meant]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Order(enum.StrEnum):
    """In which order tenants are listed."""

    NAME = "name"
    WAITING = "waiting"
    ACCEPTED = "accepted"
    FAILED = "failed"
    DEAD = "dead"
    SHARE = "share"

    def of(self, tenant: Tenant) -> float:
        """How much of it a tenant has."""
        if self in (Order.WAITING, Order.SHARE):
            return float(getattr(tenant, self.value))
        return float(getattr(tenant.today, self.value))


@app.command(
    "list",
    epilog=examples("rowcall tenants list", "rowcall tenants list --by dead", "rowcall tenants list --shard a --json"),
)
def list_tenants(
    *,
    shard: Annotated[
        str, typer.Option("--shard", metavar="NAME", help="Those that live on this shard only.", show_default=False)
    ] = "",
    by_: Annotated[
        Order, typer.Option("--by", help="In which order: by name, or those with most of it first.")
    ] = Order.NAME,
    as_json: JsonOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """List all tenants by name: the shard that each lives on, its weight, what happened to its jobs today (UTC), how many wait, and whether it
    is paused or was erased.

    "share" is the tenant's of the attempts that began on its shard today, "due" what it would be by its weight if all tenants that had jobs always had
    some that wait. "failed" counts attempts, "dead" jobs that failed for good; a job that is run again is counted again. --by dead, --by waiting and so on
    puts those with most first.

    Exits with 3 when a shard did not answer: of its tenants only names are known then.
    """
    found: list[Tenant] = []
    unavailable: set[str] = set()
    token = ""
    with connect(address, "") as gateway:
        while True:
            request = tenant_service_pb2.ListTenantsRequest(page_size=_PAGE, page_token=token, shard=shard)
            answer = stub(gateway).ListTenants(request, timeout=RPC_SECONDS)
            found += answer.tenants
            unavailable.update(answer.unreachable_shards)
            token = answer.next_page_token
            if not token:
                break
    if by_ is not Order.NAME:
        found.sort(key=by_.of, reverse=True)
    if as_json:
        result_json({"tenants": [message_json(each) for each in found], "unreachable_shards": sorted(unavailable)})
    elif found:
        result_table(COLUMNS, map(_row, found), wide=wide, prose=("note",))
    else:
        say("There is no tenant: each is placed at its first call.")
    complete(unavailable)


@app.command(
    epilog=examples(
        "rowcall tenants failures", "rowcall tenants failures --since 2h --method acme.v1.PrintService/Print"
    )
)
def failures(
    *,
    method: MethodOption = "",
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="TIME", help="Failed then or later: a time, or how long ago (2h, 3d). [default: 1d]"
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many groups at most.")] = 100,
    as_json: JsonOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """Count the dead letters of all tenants by method and what they died of, most first. For admins.

    A tenant's own: rowcall jobs failures. Exits with 3 when a shard did not answer: its dead letters are missing then.
    """
    request = tenant_service_pb2.ListTenantFailuresRequest(
        method=method, finished_from=past_flag("--since", since), page_size=limit
    )
    with connect(address, "") as gateway:
        answer = stub(gateway).ListTenantFailures(request, timeout=RPC_SECONDS)
    if as_json:
        result_json(
            {
                "groups": [message_json(group) for group in answer.groups],
                "unreachable_shards": list(answer.unreachable_shards),
            }
        )
    elif answer.groups:
        result_table(FAILURE_COLUMNS, map(_failure, answer.groups), wide=wide, prose=PROSE)
    else:
        say("No dead letter of any tenant matches.")
    complete(answer.unreachable_shards)


@app.command(epilog=examples("rowcall tenants show acme", "rowcall tenants show acme --json"))
def show(
    name: TenantArgument,
    *,
    as_json: JsonOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Show a tenant: its shard, share and pause, what it has waiting and running, and its last erasure."""
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.GetTenantRequest(name=tenant_name(name))
        found = stub(gateway).GetTenant(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).tenant
    if as_json:
        result_json(message_json(found))
    else:
        result_fields(_fields(found))


@app.command(epilog=examples("rowcall tenants pause acme", 'rowcall tenants pause acme --note "they move house"'))
def pause(
    name: TenantArgument,
    *,
    note: NoteOption = "",
    actor: PauserOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Pause a tenant: none of its jobs is started from now on.

    What runs goes on, and calls are still taken. A pause that is there already stays as it is.
    """
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.PauseTenantRequest(name=tenant_name(name), note=note)
        stub(gateway).PauseTenant(request, timeout=RPC_SECONDS, metadata=gateway.metadata(*by(actor)))
    say_paused("tenant", name)


@app.command(epilog=examples("rowcall tenants resume acme"))
def resume(name: TenantArgument, *, address: AddressOption = DEFAULT_ADDRESS, tenant: CallerOption = None) -> None:
    """End a tenant's pause, if there is one."""
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.ResumeTenantRequest(name=tenant_name(name))
        stub(gateway).ResumeTenant(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    say_resumed("tenant", name)


@app.command(epilog=examples("rowcall tenants weight acme 3"))
def weight(
    name: TenantArgument,
    value: Annotated[
        float,
        typer.Argument(
            metavar="WEIGHT", min=0.01, max=100, help="0.01 to 100; of every tenant: 1.", show_default=False
        ),
    ],
    *,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Set a tenant's share of the workers: one of weight 3 is served three times as often as one of weight 1 while both wait.

    Jobs that are submitted from now on count by it.
    """
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.SetTenantWeightRequest(name=tenant_name(name), weight=value)
        stub(gateway).SetTenantWeight(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    say(f"The tenant {name} has the weight {value:g}.")


def _failure(group: FailureGroup) -> tuple[str, ...]:
    return (str(group.job_count), str(group.tenant_count), *group_cells(group))


def _row(tenant: Tenant) -> tuple[str, ...]:
    today = tenant.today
    return (
        parse_tenant_name(tenant.name) or tenant.name,
        tenant.shard,
        state_word(tenant.state),
        f"{tenant.weight:g}" if tenant.state else "",
        _percent(tenant.due_share),
        _percent(tenant.share),
        *(
            _known(tenant, count)
            for count in (tenant.waiting, today.accepted, today.succeeded, today.failed, today.dead)
        ),
        time_text(tenant.pause_time),
        tenant.pause_actor,
        tenant.pause_note,
    )


def _known(tenant: Tenant, count: int) -> str:
    """A count, where its shard answered."""
    return str(count) if tenant.HasField("today") else ""


def _percent(share: float) -> str:
    return f"{share:.0%}" if share else ""


def _fields(tenant: Tenant) -> Sequence[tuple[str, str]]:
    jobs, erasure = tenant.jobs, tenant.erasure
    paused = [time_text(tenant.pause_time), tenant.pause_actor and f"by {tenant.pause_actor}"]
    erased = [f"{each.rows} {each.kind}" for each in erasure.erased]
    return [
        ("tenant", tenant.name),
        ("shard", tenant.shard),
        ("state", state_word(tenant.state)),
        ("weight", f"{tenant.weight:g}" if tenant.state else ""),
        ("paused", ", ".join(filter(None, paused))),
        ("note", tenant.pause_note),
        ("scheduled", _count(jobs.scheduled)),
        ("ready", _count(jobs.ready)),
        ("held", _count(jobs.held)),
        ("running", _count(jobs.running)),
        ("waiting", _count(jobs.waiting)),
        ("today", _today(tenant) if tenant.HasField("today") else ""),
        ("share", f"{_percent(tenant.share)}, due {_percent(tenant.due_share)}" if tenant.share else ""),
        ("more", "there are more: only 10000 were looked at" if jobs.capped else ""),
        ("erasure", f"{erasure.number}, begun {time_text(erasure.begin_time)}" if erasure.number else ""),
        ("erased", ", ".join(erased)),
        ("finished", time_text(erasure.finish_time)),
    ]


def _today(tenant: Tenant) -> str:
    names = ("accepted", "started", "succeeded", "failed", "dead", "cancelled")
    return ", ".join(f"{getattr(tenant.today, name)} {name}" for name in names)


def _count(jobs: int) -> str:
    return str(jobs) if jobs else ""


def state_word(state: TenantState.ValueType) -> str:
    """A state as people write it; empty where it is not known."""
    found = TenantState.DESCRIPTOR.values_by_number.get(state)
    return found.name.removeprefix("TENANT_STATE_").lower() if found is not None and state else ""


def stub(gateway: Gateway) -> tenant_service_pb2_grpc.TenantServiceStub:
    """What calls the gateway's TenantService."""
    return tenant_service_pb2_grpc.TenantServiceStub(gateway.channel)
