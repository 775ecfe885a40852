"""`rowcall probe`: canary calls, through gateway, row and worker and back."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Collection
from typing import Annotated

import grpc
import typer

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import DEFAULT_ADDRESS, DEFAULT_TENANT, AddressOption, TenantOption, connect, explain
from rowcall_cli.output import examples, result_fields, result_json, say

EXAMPLES = examples("rowcall probe --count 20")


def probe(
    *,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many calls, one after the other.")] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="The deadline of each call.")] = 5,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Make canary calls through the queue and back.

    Each is an Echo of the ProbeService: it becomes a row, is run by a worker and answered. Exits with 0 when every call was answered with what it sent; with 1 when one was refused, failed or was answered with something else; with 3 when no gateway answers, or none in time, which ends the probe; with 4 when nothing worse happened than that a call became a row and no worker had answered it within --timeout.
    """
    seconds: list[float] = []
    workers: set[str] = set()
    failures: list[CommandError] = []
    with connect(address, tenant) as gateway:
        for _ in range(count):
            # Of the channel as it is then: a probe may outlive its certificate.
            stub = probe_pb2_grpc.ProbeServiceStub(gateway.channel)
            payload = secrets.token_bytes(16)
            started = time.perf_counter()
            try:
                answer = stub.Echo(probe_pb2.EchoRequest(payload=payload), timeout=timeout, metadata=gateway.metadata())
            except grpc.RpcError as error:
                failures.append(explain(error, address))
                if failures[-1].exit_code is ExitCode.UNREACHABLE:
                    break
                continue
            seconds.append(time.perf_counter() - started)
            workers.add(answer.worker)
            if answer.payload != payload:
                failures.append(CommandError("A call was answered with something else than it sent."))
    figures = _figures(seconds)
    if as_json:
        result_json({"calls": count, "failed": len(failures), "milliseconds": figures, "workers": sorted(workers)})
    else:
        result_fields(
            [
                ("answered", f"{len(seconds)} of {count}"),
                *((name, f"{value:.1f} ms") for name, value in figures.items()),
                ("worker" if len(workers) == 1 else "workers", ", ".join(sorted(workers))),
            ]
        )
    if failures:
        for failure in failures[:-1]:
            say(str(failure))
        raise CommandError(str(failures[-1]), _exit_code({failure.exit_code for failure in failures}))


def _exit_code(codes: Collection[ExitCode]) -> ExitCode:
    """The worst of the failures', whichever came last: no gateway, then a call that failed, then one that goes on."""
    return next(code for code in (ExitCode.UNREACHABLE, ExitCode.FAILED, ExitCode.UNFINISHED) if code in codes)


def _figures(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    milliseconds = sorted(round(value * 1e3, 3) for value in seconds)
    p99 = milliseconds[min(len(milliseconds) - 1, len(milliseconds) * 99 // 100)]
    return {"p50": statistics.median(milliseconds), "p99": p99, "max": milliseconds[-1]}
