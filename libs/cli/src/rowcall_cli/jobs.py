"""`rowcall jobs`: one job looked at, one job cancelled, through the gateway's JobService."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.names import parse_operation_name
from rowcall.options.v1 import job_pb2 as options_pb2
from rowcall.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, connect, explain_status
from rowcall_cli.output import examples, result_fields, result_json, result_table, say
from rowcall_cli.reflection import Types

app = typer.Typer(no_args_is_help=True, help="Look at jobs and cancel them.")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The job's name: tenants/{tenant}/operations/{uuid}.", show_default=False)
]
TenantOption = Annotated[
    str | None,
    typer.Option(
        "--tenant", envvar="ROWCALL_TENANT", metavar="NAME", help="The tenant to call for. [default: the one in NAME]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the job as JSON.")]


@app.command(epilog=examples("rowcall jobs show tenants/default/operations/0199d1f0-… --full"))
def show(
    name: NameArgument,
    *,
    full: Annotated[bool, typer.Option("--full", help="With request and response.")] = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job: where it stands, and every attempt."""
    caller = _caller(name, tenant)
    view = job_service_pb2.JOB_VIEW_FULL if full else job_service_pb2.JOB_VIEW_BASIC
    with connect(address, caller) as gateway:
        stub = job_service_pb2_grpc.JobServiceStub(gateway.channel)
        request = job_service_pb2.GetJobRequest(name=name, view=view)
        job = stub.GetJob(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).job
        _print(job, Types(gateway.channel), as_json=as_json)


@app.command(epilog=examples("rowcall jobs cancel tenants/default/operations/0199d1f0-…"))
def cancel(
    name: NameArgument,
    *,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job that waits, or mark one that runs.

    A marked job is finished by its handler, and not tried again if the handler fails. Exits with 1 when the job was finished already.
    """
    caller = _caller(name, tenant)
    with connect(address, caller) as gateway:
        stub = job_service_pb2_grpc.JobServiceStub(gateway.channel)
        request = job_service_pb2.CancelJobRequest(name=name)
        job = stub.CancelJob(request, timeout=RPC_SECONDS, metadata=gateway.metadata()).job
        if as_json:
            _print(job, Types(gateway.channel), as_json=True)
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        say(f"{name} is cancelled.")
    elif job.cancel_requested and job.state == job_pb2.JOB_STATE_RUNNING:
        say(f"{name} runs (attempt {job.attempt}): it is marked, and its handler decides when it ends.")
    else:
        raise CommandError(f"{name} was {_state(job.state)} already: nothing is left to cancel.")


def _caller(name: str, tenant: str | None) -> str:
    parsed = parse_operation_name(name)
    if parsed is None:
        raise CommandError(
            f"{name!r} is not a job's name: it looks like tenants/{{tenant}}/operations/{{uuid}}.", ExitCode.USAGE
        )
    return tenant or parsed[0]


def _print(job: job_pb2.Job, types: Types, *, as_json: bool) -> None:
    request = types.render(job.request) if job.HasField("request") else None
    response = types.render(job.response) if job.HasField("response") else None
    if as_json:
        job.ClearField("request")
        job.ClearField("response")
        result: dict[str, object] = MessageToDict(job, preserving_proto_field_name=True)
        result |= {} if request is None else {"request": request}
        result |= {} if response is None else {"response": response}
        result_json(result)
        return
    result_fields(
        [
            ("name", job.name),
            ("method", job.method),
            ("state", _state(job.state) + (", cancel requested" if job.cancel_requested else "")),
            ("queue", f"{job.queue}, {_priority(job.priority)}"),
            ("attempt", f"{job.attempt} of {job.max_attempts}"),
            ("created", _time(job.create_time)),
            ("not before", _time(job.run_time)),
            ("started", _time(job.start_time)),
            ("finished", _time(job.finish_time)),
            ("actor", job.actor),
            ("key", job.request_id),
            ("trace", job.trace_id),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))),
            ("error", explain_status(job.error) if job.HasField("error") else ""),
        ]
    )
    if job.attempts:
        result_table(("", "outcome", "started", "seconds", "worker", "error"), [_attempt(one) for one in job.attempts])
    for title, payload in (("request", request), ("response", response)):
        if payload is not None:
            result_json({title: payload})


def _attempt(attempt: job_pb2.Attempt) -> tuple[str, ...]:
    seconds = ""
    if attempt.HasField("start_time") and attempt.HasField("end_time"):
        seconds = f"{(_local(attempt.end_time) - _local(attempt.start_time)).total_seconds():.3f}"
    return (
        str(attempt.attempt),
        job_pb2.AttemptOutcome.Name(attempt.outcome).removeprefix("ATTEMPT_OUTCOME_").lower(),
        _time(attempt.start_time),
        seconds,
        attempt.worker,
        explain_status(attempt.error) if attempt.HasField("error") else "",
    )


def _state(state: job_pb2.JobState.ValueType) -> str:
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()


def _priority(priority: options_pb2.Priority.ValueType) -> str:
    return options_pb2.Priority.Name(priority).removeprefix("PRIORITY_").lower()


def _time(timestamp: Timestamp) -> str:
    if timestamp == Timestamp():
        return ""
    return _local(timestamp).isoformat(sep=" ", timespec="milliseconds")


def _local(timestamp: Timestamp) -> datetime:
    return datetime.fromtimestamp(timestamp.ToNanoseconds() / 1e9).astimezone()
