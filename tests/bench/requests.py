"""What the benchmarks send: requests of 200 bytes of payload, each call under a key of its own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration

from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, RunRequest
from rowcall.v1.job_service_pb2 import BatchSubmitRequest, JobSpec
from tests.bench.load import Load
from tests.bench.stage import TENANT
from tests.bench.wire import PLACE

PAYLOAD: Final = bytes(200)
RESPONSE_BYTES: Final = 100
"""Of the responses that Run is asked for."""

_SERVICE: Final = "rowcall.probe.v1.ProbeService"
_KEYED: Final = (("rowcall-tenant", TENANT), ("idempotency-key", PLACE.decode()))
"""Metadata of a call that has all that a call can have."""


def echo(
    address: str,
    *,
    in_flight: int,
    seconds: float | None = None,
    calls: int | None = None,
    tokens: Path | None = None,
) -> Load:
    """Typed calls, each answered with its response."""
    return Load(
        address,
        f"/{_SERVICE}/Echo",
        EchoRequest(payload=PAYLOAD).SerializeToString(),
        _KEYED,
        in_flight,
        seconds,
        calls,
        tokens=tokens,
    )


def submit(
    address: str,
    *,
    in_flight: int,
    seconds: float | None = None,
    calls: int | None = None,
    tokens: Path | None = None,
) -> Load:
    """Calls that are acknowledged with their operation as soon as it is durable."""
    request = RunRequest(payload=PAYLOAD, response_bytes=RESPONSE_BYTES)
    return Load(
        address,
        f"/{_SERVICE}/Run",
        request.SerializeToString(),
        (*_KEYED, ("prefer", "wait=0")),
        in_flight,
        seconds,
        calls,
        tokens=tokens,
    )


def waiting(address: str, *, calls: int, work: timedelta, rate: float) -> Load:
    """Typed calls that all wait at once, for jobs that take so long; begun at so many a second.

    (gRPC's server cancels calls of which too many come before it has taken up those that are there.)
    """
    request = AwaitRequest(payload=PAYLOAD, work=_duration(work))
    return Load(address, f"/{_SERVICE}/Await", request.SerializeToString(), _KEYED, calls, None, calls, rate)


def batch(
    address: str,
    *,
    size: int,
    in_flight: int,
    seconds: float | None = None,
    calls: int | None = None,
    method: str = "Run",
) -> Load:
    """BatchSubmit of so many jobs of Run or Echo, each under a key of its own."""
    request = AnyMessage()
    request.Pack(
        RunRequest(payload=PAYLOAD, response_bytes=RESPONSE_BYTES) if method == "Run" else EchoRequest(payload=PAYLOAD)
    )
    specs = [
        JobSpec(method=f"{_SERVICE}/{method}", request=request, request_id=f"{PLACE.decode()}-{number}")
        for number in range(size)
    ]
    return Load(
        address,
        "/rowcall.v1.JobService/BatchSubmit",
        BatchSubmitRequest(jobs=specs).SerializeToString(),
        (("rowcall-tenant", TENANT),),
        in_flight,
        seconds,
        calls,
    )


def _duration(length: timedelta) -> Duration:
    found = Duration()
    found.FromTimedelta(length)
    return found
