"""What the gateway does not take, and how it says so: always an envelope, and nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
import pytest
from google.longrunning.operations_pb2 import GetOperationRequest

from rowcall.errors import status_of
from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, info_of, jobs, keyed, tenant, trailer, violations_of
from tests.support.waiting import until

ECHO = "/rowcall.probe.v1.ProbeService/Echo"


def written(cluster: Cluster) -> int:
    """How many jobs there are."""
    return len(jobs(cluster, "name"))


async def refused(
    channel: grpc.aio.Channel, path: str, request: bytes, metadata: tuple[tuple[str, str], ...] = ()
) -> grpc.aio.AioRpcError:
    stub: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(path)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub(request, timeout=20, metadata=metadata)
    return error.value


class Refused(NamedTuple):
    """A call that is refused, and how."""

    reason: str
    code: str = "INVALID_ARGUMENT"
    keys: Mapping[str, str] = MappingProxyType({})
    path: str = ECHO
    request: bytes = b""
    metadata: tuple[tuple[str, str], ...] = ()


REFUSED = (
    Refused("UNKNOWN_METHOD", "UNIMPLEMENTED", {"method": "no.Such/Method"}, path="/no.Such/Method"),
    Refused("UNKNOWN_METHOD", "UNIMPLEMENTED", {"method": f"{ECHO[1:]}o"}, path=f"{ECHO}o"),
    Refused("UNDECODABLE_REQUEST", keys={"type": "rowcall.probe.v1.EchoRequest"}, request=b"\xff\xff"),
    Refused(
        "UNDECODABLE_REQUEST",
        keys={"type": "google.longrunning.GetOperationRequest"},
        path="/google.longrunning.Operations/GetOperation",
        request=b"\xff\xff",
    ),
    Refused("UNKNOWN_METADATA", keys={"key": "rowcall-priorty"}, metadata=(("rowcall-priorty", "high"),)),
    Refused(
        "INVALID_METADATA",
        keys={"key": "rowcall-on-done"},
        metadata=(("rowcall-on-done", "a.B/C"),),
    ),
    Refused("INVALID_METADATA", keys={"key": "rowcall-run-at"}, metadata=(("rowcall-run-at", "soon"),)),
    Refused("INVALID_TENANT", metadata=(("rowcall-tenant", "A_B"),)),
)


@pytest.mark.parametrize("call", REFUSED, ids=lambda call: f"{call.reason} {call.path}")
async def test_a_refusal_has_code_reason_and_keys(gateways: Gateways, cluster: Cluster, call: Refused) -> None:
    channel = await gateways.channel(await gateways.start())

    error = await refused(channel, call.path, call.request, call.metadata)

    info = info_of(error)
    assert (error.code().name, info.reason, info.domain) == (call.code, call.reason, "rowcall.dev")
    assert info.metadata["origin"] == "GATEWAY"
    assert re.fullmatch("[0-9a-f]{32}", info.metadata["trace_id"])
    assert {key: value for key, value in info.metadata.items() if key not in {"origin", "trace_id"}} == call.keys
    assert status_of(error).message == error.details()
    assert written(cluster) == 0


async def test_the_callers_trace_is_in_the_error(gateways: Gateways) -> None:
    channel = await gateways.channel(await gateways.start())
    parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")

    error = await refused(channel, "/no.Such/Method", b"", (parent,))

    assert info_of(error).metadata["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_the_probes_own_rules_hold(gateways: Gateways, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start())
    request = RunRequest(fail_attempts=-1, response_bytes=-1)
    request.work.FromSeconds(-1)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await probe.Run(request, timeout=20)

    assert set(violations_of(error.value)) == {"work", "fail_attempts", "response_bytes"}
    assert written(cluster) == 0


async def test_a_request_of_a_mebibyte_is_taken_and_no_larger_one(gateways: Gateways, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start())
    now = tenant("acme", ("prefer", "wait=0"))
    room = 1024 * 1024 - len(EchoRequest(payload=b"x" * 1_000_000).SerializeToString()) + 1_000_000

    await probe.Run(RunRequest(payload=b"x" * room), timeout=20, metadata=now)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await probe.Run(RunRequest(payload=b"x" * (room + 1)), timeout=20, metadata=now)

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(error.value).reason == "REQUEST_TOO_LARGE"
    assert info_of(error.value).metadata["limit_bytes"] == "1048576"
    assert info_of(error.value).metadata["size_bytes"] == "1048577"
    assert written(cluster) == 1


async def test_a_request_that_is_too_large_is_not_repeated(gateways: Gateways) -> None:
    """Its code is that of what comes in later, which stock clients repeat."""
    channel = await gateways.channel(await gateways.start())
    request = EchoRequest(payload=bytes(1024 * 1024 + 1)).SerializeToString()
    error = await refused(channel, ECHO, request, keyed("k"))
    assert info_of(error).reason == "REQUEST_TOO_LARGE"
    assert trailer(error, "grpc-retry-pushback-ms") == "-1"


async def test_grpcs_own_limit_stands_behind_ours(gateways: Gateways) -> None:
    channel = await gateways.channel(await gateways.start(max_request_bytes=1000, max_batch_bytes=1000))

    ours = await refused(channel, ECHO, b"x" * 2000)
    theirs = await refused(channel, ECHO, b"x" * 2001)

    assert info_of(ours).reason == "REQUEST_TOO_LARGE"
    assert theirs.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not status_of(theirs).details


async def test_callers_of_others_keys_are_served(gateways: Gateways) -> None:
    """What Google's own clients send along."""
    probe = await gateways.probe(await gateways.start())
    metadata = (("x-goog-request-params", "name=x"), ("x-goog-api-client", "gl-python/3.11"), ("prefer", "wait=0"))

    assert (await probe.Run(RunRequest(), timeout=20, metadata=metadata)).name


async def test_as_many_calls_wait_as_may_and_the_next_is_refused_unwritten(
    gateways: Gateways, cluster: Cluster
) -> None:
    gateway = await gateways.start(max_waiters=2)
    probe = await gateways.probe(gateway)
    waiting = [probe.Echo(EchoRequest(), timeout=20, metadata=keyed(f"k{number}")) for number in range(2)]
    await until(lambda: written(cluster) == 2)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k2"))

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(error.value).reason == "TOO_MANY_WAITERS"
    assert info_of(error.value).metadata["limit"] == "2"
    pushback: Any = dict(error.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]
    assert 1000 <= int(pushback) <= 2000
    assert written(cluster) == 2
    for call in waiting:
        call.cancel()


async def test_another_tenants_operation_is_not_found(gateways: Gateways) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    mine = await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", ("prefer", "wait=0")))
    channel = await gateways.channel(gateway)
    get = "/google.longrunning.Operations/GetOperation"
    other = mine.name.replace("tenants/acme/", "tenants/rival/")

    errors = [
        await refused(channel, get, GetOperationRequest(name=name).SerializeToString(), tenant(who))
        for who, name in (("rival", mine.name), ("rival", other), ("acme", other), ("nobody", mine.name))
    ]

    assert {error.code() for error in errors} == {grpc.StatusCode.NOT_FOUND}
    assert {info_of(error).reason for error in errors} == {"JOB_NOT_FOUND"}
    # Word for word the same, whether it is another's or nobody's.
    assert len({error.details() for error in errors}) == 1
