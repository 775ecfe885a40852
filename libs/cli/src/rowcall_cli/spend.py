"""`rowcall spend`: what calls of models and providers cost, in sums, through the gateway's ActionService."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated, Final

import typer

from rowcall.v1.action_service_pb2 import GetSpendRequest, SpendDimension, SpendSum
from rowcall.v1.action_service_pb2_grpc import ActionServiceStub
from rowcall_cli.answers import as_dict, complete
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, connect, default_tenant
from rowcall_cli.job_actions import NameTenantOption
from rowcall_cli.job_names import FORMS, TRACE_FORMS, read_names, trace_named
from rowcall_cli.output import WideOption, examples, result_json, result_table, say

EXAMPLES: Final = examples(
    "rowcall spend --tenant acme",
    "rowcall spend --tenant acme --from 2031-05-01 --by day --by model",
    "rowcall spend --all-tenants --by tenant --by method --json",
    "rowcall spend --operation tenants/acme/operations/0196a4c5-7a2e-7c3f-9e1b-3f0f5c9d2b11 --by model",
)


class By(StrEnum):
    """What sums are made by."""

    TENANT = "tenant"
    DAY = "day"
    METHOD = "method"
    PROVIDER = "provider"
    MODEL = "model"


_DIMENSIONS: Final = {each: SpendDimension.Value(f"SPEND_DIMENSION_{each.name}") for each in By}


def spend(
    *,
    tenant: NameTenantOption = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="Of all tenants together. For admins.")] = False,
    first: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="DAY",
            help="The first day of UTC, 2031-05-04; thirty days if left out.",
            show_default=False,
        ),
    ] = "",
    last: Annotated[
        str, typer.Option("--to", metavar="DAY", help="The last day; today if left out.", show_default=False)
    ] = "",
    operation: Annotated[
        str,
        typer.Option(
            "--operation",
            metavar="NAME",
            help=f"Of this operation alone, which may be deleted: {FORMS}.",
            show_default=False,
        ),
    ] = "",
    trace: Annotated[
        str,
        typer.Option(
            "--trace", metavar="ID", help=f"Of all that belongs to this trace: {TRACE_FORMS}.", show_default=False
        ),
    ] = "",
    method: Annotated[
        str,
        typer.Option("--method", metavar="METHOD", help="Of this method, package.Service/Method.", show_default=False),
    ] = "",
    provider: Annotated[
        str, typer.Option("--provider", metavar="NAME", help="Of this provider.", show_default=False)
    ] = "",
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Of this model.", show_default=False)] = "",
    by: Annotated[
        list[By] | None,
        typer.Option("--by", help="What sums are made by; several times for several.", show_default=False),
    ] = None,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show what calls of models and providers cost that handlers made and recorded.

    Each currency is a sum of its own. Exits with 3 when a shard did not answer.
    """
    _check_days(first, last)
    dimensions = list(dict.fromkeys(by or []))
    if operation:
        tenant, [operation] = read_names([operation], tenant)
    elif tenant is None:
        tenant = default_tenant()
    trace_id = trace_named(trace) if trace else ""
    if trace_id is None:
        raise CommandError(f"--trace {trace!r} is no trace: write {TRACE_FORMS}.", ExitCode.USAGE)
    request = GetSpendRequest(
        parent="tenants/-" if all_tenants else "",
        first_day=first,
        last_day=last,
        operation=operation,
        trace_id=trace_id,
        method=method,
        provider=provider,
        model=model,
        group_by=[_DIMENSIONS[each] for each in dimensions],
    )
    with connect(address, tenant) as gateway:
        answer = ActionServiceStub(gateway.channel).GetSpend(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    if as_json:
        result_json(
            {
                "sums": [as_dict(each) for each in answer.sums],
                "more": answer.more,
                "unreachable_shards": list(answer.unreachable_shards),
            }
        )
    elif answer.sums:
        columns = (*(each.value for each in dimensions), "calls", "input", "output", "cost", "currency")
        result_table(columns, (_row(each, dimensions) for each in answer.sums), wide=wide)
    else:
        say("Nothing was spent.")
    if answer.more:
        say("There are more sums than these: ask for fewer days, or by less.")
    complete(answer.unreachable_shards)


def _check_days(*days: str) -> None:
    for day in days:
        try:
            date.fromisoformat(day or "2031-05-04")
        except ValueError:
            raise CommandError(f"{day!r} is no day; write 2031-05-04.", ExitCode.USAGE) from None


def _row(one: SpendSum, dimensions: list[By]) -> tuple[str, ...]:
    return (
        *(str(getattr(one, each.value)) for each in dimensions),
        str(one.calls),
        str(one.input_tokens),
        str(one.output_tokens),
        one.cost or "not known",
        one.currency,
    )
