"""`rowcall admission`: bounds on what is let in, listed, set and deleted, through the gateway's AdmissionService."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final

import typer
from google.protobuf.duration_pb2 import Duration

from rowcall.bounds import EACH_TENANT
from rowcall.names import parse_tenant_name, tenant_name
from rowcall.v1 import admission_service_pb2, admission_service_pb2_grpc
from rowcall_cli.answers import as_dict, second_text
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.flags import span_flag
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, Gateway, connect
from rowcall_cli.output import WideOption, examples, result_json, result_table, say
from rowcall_cli.pausing import NoteOption, by

app = typer.Typer(
    no_args_is_help=True,
    help="Bound what is let in, by tenant, queue, method and pairs of them. To set and delete is for admins.",
)

COLUMNS = (
    "tenant",
    "queue",
    "method",
    "rate",
    "in flight",
    "waiters",
    "backlog",
    "oldest age",
    "budget",
    "set",
    "by",
    "note",
)

_BUDGET: Final = re.compile(r"(\d+(?:\.\d+)?):([A-Z]{3})/(day|month)", re.ASCII)

TenantOption = Annotated[
    str, typer.Option("--tenant", metavar="NAME", help="Of this tenant: NAME, or tenants/NAME.", show_default=False)
]
EachOption = Annotated[
    bool, typer.Option("--each-tenant", help="Of each tenant by itself, but for those that have a bound of their own.")
]
QueueOption = Annotated[str, typer.Option("--queue", metavar="QUEUE", help="Of this queue.", show_default=False)]
MethodOption = Annotated[
    str,
    typer.Option("--method", metavar="METHOD", help="Of this method, package.Service/Method.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ActorOption = Annotated[
    str | None,
    typer.Option(
        "--actor",
        metavar="NAME",
        help="Who does it, where callers are believed; a credential says it itself.",
        show_default=False,
    ),
]


@app.command("list", epilog=examples("rowcall admission list", "rowcall admission list --json"))
def list_(
    *,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Show the bounds: to admins all, to others those that their tenant is let in by."""
    with connect(address, "") as gateway:
        answer = _stub(gateway).ListBounds(admission_service_pb2.ListBoundsRequest(), timeout=RPC_SECONDS)
    if as_json:
        result_json({"bounds": [_as_dict(bound) for bound in answer.bounds]})
    elif answer.bounds:
        result_table(COLUMNS, map(_row, answer.bounds), prose=("note",), wide=wide)
    else:
        say("Nothing is bounded.")


@app.command(
    "set",
    epilog=examples(
        "rowcall admission set --tenant acme --rate 50 --in-flight 200",
        "rowcall admission set --each-tenant --queue documents --backlog 10000",
        "rowcall admission set --tenant acme --budget 250:EUR/month",
        'rowcall admission set --queue documents --oldest-age 10m --note "the index is slow today"',
    ),
)
def set_(
    *,
    of_tenant: TenantOption = "",
    each_tenant: EachOption = False,
    queue: QueueOption = "",
    method: MethodOption = "",
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", min=0, help="Jobs a second.", show_default=False)
    ] = None,
    in_flight: Annotated[
        int | None, typer.Option("--in-flight", metavar="N", min=0, help="Calls at a time.", show_default=False)
    ] = None,
    waiters: Annotated[
        int | None,
        typer.Option(
            "--waiters", metavar="N", min=0, help="Calls that wait for their jobs at a time.", show_default=False
        ),
    ] = None,
    backlog: Annotated[
        int | None,
        typer.Option(
            "--backlog",
            metavar="N",
            min=0,
            help="Jobs of a tenant that wait for a worker, in each priority of a queue; of --queue alone: in all of it.",
            show_default=False,
        ),
    ] = None,
    oldest_age: Annotated[
        str,
        typer.Option(
            "--oldest-age",
            metavar="SPAN",
            help="For how long the oldest job of --queue has waited: 90s, 10m, 2h.",
            show_default=False,
        ),
    ] = "",
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            metavar="AMOUNT:CURRENCY/PERIOD",
            help="What calls of models and providers of --tenant, or --each-tenant, may cost in a day or month of UTC: 250:EUR/month.",
            show_default=False,
        ),
    ] = "",
    note: NoteOption = "",
    actor: ActorOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Set a bound as a whole: what it bounded before and is not given now is bounded no more.

    Say what it is of, by one or two of --tenant (or --each-tenant), --queue and --method. Without a tenant it is of each shard by itself.
    Every gateway goes by it within two seconds. What is above it is refused with RESOURCE_EXHAUSTED and a time to call again.
    """
    target = _target(of_tenant, queue, method, each_tenant=each_tenant)
    bound = admission_service_pb2.Bound(
        target=target, rate=rate, in_flight=in_flight, waiters=waiters, backlog=backlog, note=note
    )
    age = span_flag("--oldest-age", oldest_age)
    if age is not None:
        bound.oldest_age.FromTimedelta(age)
    if budget:
        bound.budget.CopyFrom(_budget(budget))
    if not any(bound.HasField(name) for name in ("rate", "in_flight", "waiters", "backlog", "oldest_age", "budget")):
        raise CommandError(
            "Say how much is let in: --rate, --in-flight, --waiters, --backlog, --oldest-age or --budget. To let in all there is: "
            "rowcall admission delete.",
            ExitCode.USAGE,
        )
    with connect(address, "") as gateway:
        request = admission_service_pb2.SetBoundRequest(bound=bound)
        answer = _stub(gateway).SetBound(request, timeout=RPC_SECONDS, metadata=by(actor))
    if as_json:
        result_json(_as_dict(answer.bound))
    else:
        say(f"The bound of {_described(target)} is set.")


@app.command(
    epilog=examples(
        "rowcall admission delete --tenant acme", "rowcall admission delete --each-tenant --queue documents"
    )
)
def delete(
    *,
    of_tenant: TenantOption = "",
    each_tenant: EachOption = False,
    queue: QueueOption = "",
    method: MethodOption = "",
    actor: ActorOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """Take a bound away, if there is one."""
    target = _target(of_tenant, queue, method, each_tenant=each_tenant)
    with connect(address, "") as gateway:
        request = admission_service_pb2.DeleteBoundRequest(target=target)
        _stub(gateway).DeleteBound(request, timeout=RPC_SECONDS, metadata=by(actor))
    say(f"There is no bound of {_described(target)}.")


def _target(tenant: str, queue: str, method: str, *, each_tenant: bool) -> admission_service_pb2.BoundTarget:
    if tenant and each_tenant:
        raise CommandError("Say --tenant NAME, or --each-tenant, not both.", ExitCode.USAGE)
    name = EACH_TENANT if each_tenant else parse_tenant_name(tenant) or tenant
    if sum(map(bool, (name, queue, method))) not in (1, 2):
        raise CommandError(
            "Say what the bound is of: one or two of --tenant (or --each-tenant), --queue and --method.", ExitCode.USAGE
        )
    return admission_service_pb2.BoundTarget(
        tenant=tenant_name(name) if name else "", queue=queue, method=method.removeprefix("/")
    )


def _budget(text: str) -> admission_service_pb2.Budget:
    found = _BUDGET.fullmatch(text)
    if found is None:
        raise CommandError(f"--budget is {text!r}; write 250:EUR/month, or 9.50:USD/day.", ExitCode.USAGE)
    amount, currency, period = found.groups()
    return admission_service_pb2.Budget(
        amount=amount,
        currency=currency,
        period=admission_service_pb2.BudgetPeriod.Value(f"BUDGET_PERIOD_{period.upper()}"),
    )


def _described(target: admission_service_pb2.BoundTarget) -> str:
    tenant = target.tenant.removeprefix("tenants/")
    parts = (
        ("each tenant" if tenant == EACH_TENANT else f"the tenant {tenant}") if tenant else "",
        f"the queue {target.queue}" if target.queue else "",
        f"the method {target.method}" if target.method else "",
    )
    return " and ".join(filter(None, parts))


def _row(bound: admission_service_pb2.Bound) -> tuple[str, ...]:
    tenant = bound.target.tenant.removeprefix("tenants/")
    return (
        "each" if tenant == EACH_TENANT else tenant or "all",
        bound.target.queue,
        bound.target.method,
        f"{bound.rate:g}/s" if bound.HasField("rate") else "",
        str(bound.in_flight) if bound.HasField("in_flight") else "",
        str(bound.waiters) if bound.HasField("waiters") else "",
        str(bound.backlog) if bound.HasField("backlog") else "",
        _span(bound.oldest_age) if bound.HasField("oldest_age") else "",
        _budget_text(bound.budget) if bound.HasField("budget") else "",
        second_text(bound.update_time),
        bound.actor,
        bound.note,
    )


def _span(duration: Duration) -> str:
    seconds: timedelta = duration.ToTimedelta()
    return f"{seconds.total_seconds():g}s"


def _budget_text(budget: admission_service_pb2.Budget) -> str:
    period = admission_service_pb2.BudgetPeriod.Name(budget.period).removeprefix("BUDGET_PERIOD_").lower()
    return f"{budget.amount}:{budget.currency}/{period}"


def _as_dict(bound: admission_service_pb2.Bound) -> dict[str, object]:
    """The bound for scripts; its backlog as a number, which protobuf's JSON would write as a text."""
    return as_dict(bound) | ({"backlog": bound.backlog} if bound.HasField("backlog") else {})


def _stub(gateway: Gateway) -> admission_service_pb2_grpc.AdmissionServiceStub:
    return admission_service_pb2_grpc.AdmissionServiceStub(gateway.channel)
