"""`rowcall trace` and `rowcall actions`: one action from its first byte to its last cost, and which there were, through the gateway's
ActionService."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Final

import typer
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from rich.console import Console

from rowcall.v1.action_service_pb2 import ActionSummary, GetActionRequest, GetActionResponse, ListActionsRequest
from rowcall.v1.action_service_pb2_grpc import ActionServiceStub
from rowcall.v1.job_pb2 import JobState
from rowcall_cli.answers import as_dict, second_text
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.flags import past_flag, span_flag
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, connect, default_tenant
from rowcall_cli.job_actions import NameTenantOption
from rowcall_cli.job_filters import MethodOption, SinceOption, StateOption, UntilOption
from rowcall_cli.job_names import FORMS, TRACE_FORMS, is_name, read_names, trace_named
from rowcall_cli.output import WideOption, examples, result_fields, result_json, result_table, say
from rowcall_cli.waterfall import DRAWN, PLAIN, headline, took_text, waterfall

TRACE_EXAMPLES: Final = examples(
    "rowcall trace 0af7651916cd43dd8448eb211c80319c --tenant acme",
    "rowcall trace tenants/acme/operations/0196a4c5-7a2e-7c3f-9e1b-3f0f5c9d2b11",
    "rowcall trace 0196a4c5-7a2e-7c3f-9e1b-3f0f5c9d2b11 --tenant acme --json",
)
LIST_EXAMPLES: Final = examples(
    "rowcall actions --tenant acme --since 1h",
    "rowcall actions --tenant acme --state failed --min-duration 30s",
    "rowcall actions --tenant acme --min-cost 0.50:EUR --json",
)

_COLUMNS: Final = ("began", "took", "method", "state", "attempts", "cost", "operation", "trace")
_PIPED: Final = 120
"""Columns of what is no terminal."""
_WIDE: Final = 200
_COST: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?):([A-Z]{3})")


def trace(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"A trace, by W3C: {TRACE_FORMS}; or any of its operations: {FORMS}.",
            show_default=False,
        ),
    ],
    *,
    tenant: NameTenantOption = None,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show all that belongs to one action, as a waterfall: its jobs, how long they waited and ran, each attempt and its error, what
    handlers called and what that cost, and what operators did.

    Of many jobs below one those that failed and those that took longest are shown, and the others counted. Operators' actions are
    shown to operators and admins. What is in no row, as the spans of handlers, is there as far as it was recorded.
    """
    tenant, request = _read(name, tenant)
    with connect(address, tenant) as gateway:
        answer = ActionServiceStub(gateway.channel).GetAction(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    if as_json:
        result_json(as_dict(answer, whole=True))
    else:
        result_fields(headline(answer))
        print()
        show(answer, Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED), wide=wide)
    if answer.partial:
        say(
            "There is more than this: more jobs than are counted, or, of a trace, live ones that were not looked through: name an operation "
            "to have what belongs to it."
        )


def show(answer: GetActionResponse, console: Console, *, wide: bool = False) -> None:
    """Prints an action's waterfall, as wide as the console is."""
    glyphs = PLAIN if console.options.ascii_only else DRAWN
    for line in waterfall(answer, max(console.width, _WIDE) if wide else console.width, glyphs=glyphs):
        console.print(line, soft_wrap=True)


def actions(
    *,
    state: StateOption = None,
    method: MethodOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    min_duration: Annotated[
        str, typer.Option("--min-duration", metavar="SPAN", help="That took as long or longer: 90s, 10m, 2h.")
    ] = "",
    min_cost: Annotated[
        str, typer.Option("--min-cost", metavar="AMOUNT:CURRENCY", help="That cost as much or more: 0.50:EUR.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="How many at most.")] = 50,
    tenant: NameTenantOption = None,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List a tenant's actions, newest first: calls that no other job caused, how long each took and what all of it cost."""
    request = ListActionsRequest(
        start_from=past_flag("--since", since),
        start_to=past_flag("--until", until),
        states=[JobState.Value(f"JOB_STATE_{each.upper()}") for each in dict.fromkeys(state or [])],
        method=method,
    )
    least = span_flag("--min-duration", min_duration)
    if least is not None:
        request.min_duration.FromTimedelta(least)
    if min_cost:
        cost = _COST.fullmatch(min_cost)
        if cost is None:
            raise CommandError(f"--min-cost {min_cost!r} is no amount of money: write 0.50:EUR.", ExitCode.USAGE)
        request.min_cost, request.currency = cost[1], cost[2]
    found: list[ActionSummary] = []
    with connect(address, default_tenant() if tenant is None else tenant) as gateway:
        stub = ActionServiceStub(gateway.channel)
        while len(found) < limit:
            request.page_size = limit - len(found)
            page = stub.ListActions(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
            found += page.actions
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    if as_json:
        result_json({"actions": [as_dict(each, whole=True) for each in found], "more": bool(request.page_token)})
    elif found:
        result_table(_COLUMNS, map(_row, found), wide=wide)
    else:
        say("No action matches.")
    if request.page_token:
        say("There are more: --limit N shows more of them.")


def _read(name: str, tenant: str | None) -> tuple[str, GetActionRequest]:
    """Whose action is meant, and which.

    Raises:
        CommandError: USAGE: the name is none.
    """
    trace_id = trace_named(name)
    if trace_id is not None:
        return default_tenant() if tenant is None else tenant, GetActionRequest(trace_id=trace_id)
    if not is_name(name):
        raise CommandError(f"{name!r} is neither a trace ({TRACE_FORMS}) nor an operation: {FORMS}.", ExitCode.USAGE)
    tenant, [operation] = read_names([name], tenant)
    return tenant, GetActionRequest(operation=operation)


def _row(one: ActionSummary) -> tuple[str, ...]:
    state = JobState.Name(one.state).removeprefix("JOB_STATE_")
    return (
        second_text(one.start_time),
        _took(one.duration) if one.HasField("duration") else "",
        one.method,
        f"{state} ({Code.Name(one.code)})" if one.code else state,
        str(one.attempts),
        ", ".join(f"{each.cost} {each.currency}" if each.currency else "not known" for each in one.costs),
        one.operation,
        one.trace_id,
    )


def _took(duration: Duration) -> str:
    return took_text(duration.ToTimedelta().total_seconds())
