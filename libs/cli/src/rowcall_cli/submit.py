"""`rowcall submit`: one call of any job type, from JSON, through the gateway's JobService."""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import typer
from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any

from rowcall.options.v1 import job_pb2 as options_pb2
from rowcall.v1 import job_service_pb2, job_service_pb2_grpc
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.flags import future_flag, label_flags
from rowcall_cli.gateway import (
    DEFAULT_ADDRESS,
    DEFAULT_TENANT,
    RPC_SECONDS,
    AddressOption,
    TenantOption,
    connect,
    explain_status,
)
from rowcall_cli.job_output import payload_json
from rowcall_cli.output import examples, result_json, say
from rowcall_cli.reflection import Types

EXAMPLES = examples(
    """rowcall submit rowcall.probe.v1.ProbeService/Echo --json '{"payload": "aGVsbG8="}' --key hello-1 --wait 5""",
    "rowcall submit acme.v1.PrintService/Print --json - --label team=clocks --run-at 2h --priority low < request.json",
)


class Priority(enum.StrEnum):
    """A lane, as people write it."""

    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


def submit(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="package.Service/Method", show_default=False)],
    *,
    request: Annotated[str, typer.Option("--json", metavar="JSON", help="The request; - reads it from stdin.")] = "{}",
    key: Annotated[str, typer.Option(metavar="KEY", help="The idempotency key: the same key joins the same job.")] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="KEY=VALUE", help="A label to find the job by; repeatable.", show_default=False
        ),
    ] = None,
    run_at: Annotated[
        str,
        typer.Option(
            "--run-at",
            metavar="TIME",
            help="Start no sooner. A time (2031-05-04T13:30, in this machine's zone unless it says one) or how long from "
            "now (90m, 2h, 3d).",
        ),
    ] = "",
    priority: Annotated[
        Priority | None, typer.Option(help="The lane, instead of the method's.", show_default=False)
    ] = None,
    wait: Annotated[int, typer.Option(min=0, max=3600, metavar="SECONDS", help="How long to wait for the result.")] = 0,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
) -> None:
    """Submit one call of any job type.

    Prints its operation as JSON. Needs the gateway's reflection, which turns the JSON into the method's request. Exits with 0 when the job is
    written (and, with --wait, has succeeded), with 1 when it failed, with 4 when it was not finished within the wait.
    """
    labels, run_time = label_flags(label), future_flag("--run-at", run_at)
    lane = options_pb2.Priority.Value(f"PRIORITY_{'UNSPECIFIED' if priority is None else priority.name}")
    text = sys.stdin.read() if request == "-" else request
    with connect(address, tenant) as gateway:
        types = Types(gateway.channel)
        packed = Any()
        packed.Pack(types.parse(text, types.request_of(method)))
        spec = job_service_pb2.JobSpec(
            method=method.lstrip("/"), request=packed, request_id=key, labels=labels, run_time=run_time, priority=lane
        )
        metadata = gateway.metadata(("prefer", f"wait={wait}"))
        stub = job_service_pb2_grpc.JobServiceStub(gateway.channel)
        answer = stub.Submit(job_service_pb2.SubmitRequest(job=spec), timeout=RPC_SECONDS + wait, metadata=metadata)
        operation = answer.operation
        result_json(_fields(operation, types, method, joined=answer.joined))
    if operation.HasField("error"):
        raise CommandError(
            f"The job failed: {explain_status(operation.error)}\nWhat happened to it: rowcall trace {operation.name}"
        )
    if wait > 0 and not operation.done:
        raise CommandError(
            f"Not finished within {wait} s; it goes on. Look again: rowcall jobs show {operation.name}",
            ExitCode.UNFINISHED,
        )
    if answer.joined:
        say("The key named a job that was there already: joined it.")


def _fields(operation: operations_pb2.Operation, types: Types, method: str, *, joined: bool) -> dict[str, object]:
    fields: dict[str, object] = {"name": operation.name, "done": operation.done, "joined": joined}
    if operation.HasField("response"):
        fields["response"] = payload_json(operation.response, types, method)
    if operation.HasField("error"):
        fields["error"] = explain_status(operation.error)
    return fields
