"""`rowcall errors`: what went wrong by the system's own fault, through the gateway's ErrorService."""

from __future__ import annotations

from typing import Annotated

import typer
from google.rpc.code_pb2 import Code

from rowcall.v1.error_service_pb2 import (
    GetIncidentRequest,
    Incident,
    IncidentState,
    ListIncidentsRequest,
    ResolveIncidentRequest,
)
from rowcall.v1.error_service_pb2_grpc import ErrorServiceStub
from rowcall_cli.answers import as_dict, complete, second_text
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, connect
from rowcall_cli.output import WideOption, examples, result_fields, result_json, result_table, say
from rowcall_cli.pausing import by

app = typer.Typer(no_args_is_help=True, help="Look at what went wrong by the system's own fault. For admins.")

COLUMNS = ("fingerprint", "state", "count", "last", "method", "code", "what", "version")

FingerprintArgument = Annotated[
    str, typer.Argument(metavar="FINGERPRINT", help="As rowcall errors list shows it.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command("list", epilog=examples("rowcall errors list", "rowcall errors list --all --json"))
def list_(
    *,
    all_: Annotated[bool, typer.Option("--all", help="Those that are resolved, too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="As many at most.")] = 100,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Show the kinds of failures that were met last: by whom, how often, since when.

    What ended as INTERNAL, UNKNOWN, DATA_LOSS or UNAVAILABLE without anybody having meant it. Exits with 3 when a shard did not answer.
    """
    states = [] if all_ else [IncidentState.INCIDENT_STATE_OPEN, IncidentState.INCIDENT_STATE_REGRESSED]
    with connect(address, "") as gateway:
        answer = ErrorServiceStub(gateway.channel).ListIncidents(
            ListIncidentsRequest(page_size=limit, states=states), timeout=RPC_SECONDS
        )
    if as_json:
        result_json(
            {
                "incidents": [as_dict(each) for each in answer.incidents],
                "unreachable_shards": list(answer.unreachable_shards),
            }
        )
    elif answer.incidents:
        result_table(COLUMNS, map(_row, answer.incidents), prose=("what",), wide=wide)
    else:
        say("Nothing went wrong." if all_ else "Nothing is open.")
    complete(answer.unreachable_shards)


@app.command(epilog=examples("rowcall errors show 5f0c8c9be0f5be0f6f6f1f0c8c9be0f5"))
def show(
    fingerprint: FingerprintArgument, *, address: AddressOption = DEFAULT_ADDRESS, as_json: JsonOption = False
) -> None:
    """Show one kind of failure. The log has the rest, under its trace id."""
    with connect(address, "") as gateway:
        answer = ErrorServiceStub(gateway.channel).GetIncident(
            GetIncidentRequest(fingerprint=fingerprint), timeout=RPC_SECONDS
        )
    if as_json:
        result_json({**as_dict(answer.incident), "unreachable_shards": list(answer.unreachable_shards)})
    else:
        result_fields(_fields(answer.incident))
    complete(answer.unreachable_shards)


@app.command(epilog=examples('rowcall errors resolve 5f0c8c9be0f5be0f6f6f1f0c8c9be0f5 --note "fixed in 0.2.1"'))
def resolve(
    fingerprint: FingerprintArgument,
    *,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What was done about it.")] = "",
    actor: Annotated[
        str | None,
        typer.Option(
            "--actor",
            metavar="NAME",
            help="Who says so, where callers are believed; a credential says it itself.",
            show_default=False,
        ),
    ] = None,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """Say that a kind of failure is done with. Met again, it is shown as regressed."""
    with connect(address, "") as gateway:
        ErrorServiceStub(gateway.channel).ResolveIncident(
            ResolveIncidentRequest(fingerprint=fingerprint, note=note), timeout=RPC_SECONDS, metadata=by(actor)
        )
    say(f"{fingerprint} is resolved.")


def _row(one: Incident) -> tuple[str, ...]:
    return (
        one.fingerprint,
        _state(one),
        str(one.count),
        second_text(one.last_time),
        one.method,
        Code.Name(one.code),
        one.kind,
        one.last_version,
    )


def _fields(one: Incident) -> list[tuple[str, str]]:
    return [
        ("fingerprint", one.fingerprint),
        ("state", _state(one)),
        ("met by", one.service),
        ("method", one.method),
        ("code", Code.Name(one.code)),
        ("what", one.kind),
        ("where", one.location),
        ("count", str(one.count)),
        ("first", f"{second_text(one.first_time)} (version {one.first_version})"),
        ("last", f"{second_text(one.last_time)} (version {one.last_version})"),
        ("trace", one.trace_id),
        ("resolved", second_text(one.resolve_time) if one.HasField("resolve_time") else ""),
        ("by", one.actor),
        ("note", one.note),
        ("regressions", str(one.regressions) if one.regressions else ""),
    ]


def _state(one: Incident) -> str:
    return IncidentState.Name(one.state).removeprefix("INCIDENT_STATE_").lower()
