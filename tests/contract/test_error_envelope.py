"""The error envelope as clients see it: every reason with its code, and every error readable off the wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from rowcall import errors
from rowcall.errors import Origin, RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.support.places import ROOT

PROTO = ROOT / "protos/rowcall/v1/error_reason.proto"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RETRYING = """{"methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""


def documented() -> dict[str, str]:
    """Each value of the enum with its comment, on one line."""
    source = PROTO.read_text()
    body = source[source.index("enum ErrorReason {") :]
    found = re.findall(r"((?:^ *//.*\n)+) *(ERROR_REASON_[A-Z0-9_]+) = \d+;", body, re.MULTILINE)
    return {name: " ".join(re.sub(r"^ *// ?", "", line) for line in text.splitlines()) for text, name in found}


def test_every_reason_is_documented() -> None:
    assert set(documented()) == set(ErrorReason.keys())


@pytest.mark.parametrize("name", [name for name in ErrorReason.keys() if not name.endswith("_UNSPECIFIED")])  # noqa: SIM118  no mapping
def test_reason_has_the_code_of_its_comment(name: str) -> None:
    leading = re.match(r"([A-Z_]+|Any code)[.,]", documented()[name])
    assert leading is not None, "the comment begins with the code"
    code = errors.CODES.get(ErrorReason.Value(name))
    if leading[1] == "Any code":
        assert code is None
    else:
        assert code is grpc.StatusCode[leading[1]]


def test_table_has_no_others() -> None:
    assert ErrorReason.ERROR_REASON_UNSPECIFIED not in errors.CODES
    assert set(errors.CODES) <= set(ErrorReason.values())


@pytest.mark.parametrize("name", ErrorReason.keys())
def test_reason_is_one_that_error_info_takes(name: str) -> None:
    """google.rpc.ErrorInfo: UPPER_SNAKE_CASE, 63 characters at most."""
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", errors.reason_name(ErrorReason.Value(name)))
    assert len(errors.reason_name(ErrorReason.Value(name))) <= 63


class Refusing:
    """A served method that refuses each call with what it is told to."""

    def __init__(self) -> None:
        self.status = Status()
        self.no_retry = False
        self.recovers = False
        self.calls = 0
        self.target = ""

    async def call(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.calls += 1
        if not self.recovers or self.calls == 1:
            await self.refuse(context)
        return request

    async def refuse(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(
            errors.grpc_code(self.status),
            self.status.message,
            errors.trailers(self.status, no_retry=self.no_retry),
        )


@pytest.fixture
async def refusing() -> AsyncIterator[Refusing]:
    served = Refusing()
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(served.call)  # type: ignore[var-annotated]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"M": method}),))
    served.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield served
    await server.stop(None)


async def failure(target: str, options: tuple[tuple[str, str], ...] = ()) -> grpc.aio.AioRpcError:
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/M", bytes, bytes)(b"", timeout=10)
    return caught.value


def plain_failure(target: str) -> grpc.RpcError:
    """The same through a client without asyncio."""
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/M", bytes, bytes)(b"", timeout=10)
    return caught.value


def invalid(count: int) -> Status:
    request = BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field=f"items[{number}].name", description="must be a name", reason="string.name")
            for number in range(count)
        ]
    )
    error = RowcallError(ErrorReason.ERROR_REASON_INVALID_REQUEST, "é%\n" * 100, details=[request])
    return errors.envelope(error, origin=Origin.GATEWAY, trace_id=TRACE, request_id="r-1")


async def test_clients_read_the_status_that_was_sent(refusing: Refusing) -> None:
    refusing.status = invalid(2)
    error = await failure(refusing.target)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == refusing.status.message
    assert errors.status_of(error) == refusing.status
    assert errors.status_of(await asyncio.to_thread(plain_failure, refusing.target)) == refusing.status


async def test_grpcs_own_reader_agrees(refusing: Refusing) -> None:
    refusing.status = invalid(2)
    error: Any = await asyncio.to_thread(plain_failure, refusing.target)
    assert rpc_status.from_call(error) == refusing.status


async def test_largest_error_reaches_every_client(refusing: Refusing) -> None:
    """gRPC refuses large trailers at random: an error slightly too large would pass one run and fail the next."""
    refusing.status = invalid(1000)
    async with grpc.aio.insecure_channel(refusing.target) as channel:
        method = channel.unary_unary("/t.T/M", bytes, bytes)
        outcomes = await asyncio.gather(*(method(b"", timeout=30) for _ in range(300)), return_exceptions=True)
    for error in outcomes:
        assert isinstance(error, grpc.aio.AioRpcError)
        status = errors.status_of(error)
        assert errors.read_envelope(status) == errors.read_envelope(refusing.status)
        violations = BadRequest()
        assert status.details[1].Unpack(violations)
        assert len(violations.field_violations) > 30


async def test_error_of_the_clients_own_making(refusing: Refusing) -> None:
    """Nobody answers: there is no envelope, but code and message are there."""
    async with grpc.aio.insecure_channel(refusing.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Other", bytes, bytes)(b"", timeout=10)
    status = errors.status_of(caught.value)
    assert status.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert status.message
    assert errors.read_envelope(status) is None


@pytest.mark.parametrize(
    "data", [b"\xff\xff", Status(code=5, message="another").SerializeToString()], ids=["unreadable", "of another code"]
)
def test_trailers_that_do_not_fit_the_call(data: bytes) -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        initial_metadata=grpc.aio.Metadata(),
        trailing_metadata=grpc.aio.Metadata((errors.DETAILS_KEY, data)),
        details="the proxy's",
    )
    assert errors.status_of(error) == Status(code=14, message="the proxy's")


def unavailable(*, retry_after: timedelta | None) -> Status:
    error = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "down", retry_after=retry_after)
    return errors.envelope(error, origin=Origin.GATEWAY, trace_id=TRACE)


def says_nothing(refusing: Refusing) -> None:
    refusing.status = unavailable(retry_after=None)


def asks_for_another(refusing: Refusing) -> None:
    refusing.status = unavailable(retry_after=timedelta(milliseconds=5))


@pytest.mark.parametrize("prepare", [says_nothing, asks_for_another])
async def test_grpcs_own_retries_go_on(refusing: Refusing, prepare: Callable[[Refusing], None]) -> None:
    prepare(refusing)
    refusing.recovers = True
    async with grpc.aio.insecure_channel(refusing.target, options=(("grpc.service_config", RETRYING),)) as channel:
        assert await channel.unary_unary("/t.T/M", bytes, bytes)(b"x", timeout=10) == b"x"
    assert refusing.calls == 2


async def test_grpcs_own_retries_wait_as_told(refusing: Refusing) -> None:
    refusing.status = unavailable(retry_after=timedelta(milliseconds=300))
    refusing.recovers = True
    start = asyncio.get_running_loop().time()
    async with grpc.aio.insecure_channel(refusing.target, options=(("grpc.service_config", RETRYING),)) as channel:
        await channel.unary_unary("/t.T/M", bytes, bytes)(b"x", timeout=10)
    assert asyncio.get_running_loop().time() - start >= 0.3
    delay = RetryInfo()
    assert refusing.status.details[1].Unpack(delay)
    assert delay.retry_delay.ToTimedelta() == timedelta(milliseconds=300)


async def test_grpcs_own_retries_stop_when_told(refusing: Refusing) -> None:
    refusing.status = unavailable(retry_after=timedelta(milliseconds=5))
    refusing.no_retry = True
    error = await failure(refusing.target, (("grpc.service_config", RETRYING),))
    assert errors.status_of(error) == refusing.status
    assert refusing.calls == 1
