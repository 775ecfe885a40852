"""The benchmarks' own load generator against a real server: what it counts is what was answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import grpc
import grpc.aio
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from tests.bench import load
from tests.bench.load import Load
from tests.bench.wire import PLACE

PATH = "/rowcall.probe.v1.ProbeService/Echo"


@dataclass
class Seen:
    """What the server has got."""

    requests: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most: int = 0
    now: int = 0


@dataclass
class Served:
    server: grpc.aio.Server
    address: str
    seen: Seen


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server that echoes, refuses the payload "bad", and sleeps over "slow"."""
    seen = Seen()

    async def echo(request: EchoRequest, context: grpc.aio.ServicerContext[EchoRequest, EchoResponse]) -> EchoResponse:
        seen.now += 1
        seen.most = max(seen.most, seen.now)
        try:
            seen.requests.append(request.payload)
            metadata = dict(context.invocation_metadata() or ())
            seen.keys.append(str(metadata.get("idempotency-key", "")))
            if request.payload == b"bad":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")
            if request.payload == b"slow":
                await asyncio.sleep(60)
            # Time for others to come meanwhile.
            await asyncio.sleep(0.01)
            return EchoResponse(payload=request.payload, worker="w", attempt=1)
        finally:
            seen.now -= 1

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=EchoRequest.FromString,
        response_serializer=EchoResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("rowcall.probe.v1.ProbeService", {"Echo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Served(server, f"127.0.0.1:{port}", seen)
    await server.stop(None)


def calls(served: Served, payload: bytes, **changed: object) -> Load:
    made = Load(served.address, PATH, EchoRequest(payload=payload).SerializeToString(), in_flight=8, calls=100)
    return replace(made, **changed)  # type: ignore[arg-type]  # a test's own words


async def test_every_call_is_sent_once_and_its_answer_counted(served: Served) -> None:
    answered = await load.run(calls(served, b"x" * 200))
    assert answered.statuses == {"0": 100}
    assert answered.times.calls == 100
    assert served.seen.requests == [b"x" * 200] * 100
    assert 1 < served.seen.most <= 8


async def test_each_call_has_its_own_number_in_request_and_metadata(served: Served) -> None:
    await load.run(calls(served, PLACE, metadata=(("idempotency-key", PLACE.decode()),)))
    assert len(set(served.seen.requests)) == 100
    assert [request.decode() for request in served.seen.requests] == served.seen.keys


async def test_two_runs_use_no_number_twice(served: Served) -> None:
    await load.run(calls(served, PLACE))
    await load.run(calls(served, PLACE))
    assert len(set(served.seen.requests)) == 200


async def test_a_refusal_is_counted_as_the_status_that_it_is(served: Served) -> None:
    answered = await load.run(calls(served, b"bad"))
    assert answered.statuses == {str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]): 100}
    assert answered.ok == 0


async def test_an_unknown_method_is_counted_as_such(served: Served) -> None:
    answered = await load.run(calls(served, b"", path=PATH + "Nowhere"))
    assert answered.statuses == {str(grpc.StatusCode.UNIMPLEMENTED.value[0]): 100}


async def test_requests_larger_than_a_frame_go_through_the_windows(served: Served) -> None:
    payload = bytes(range(256)) * 200
    answered = await load.run(calls(served, payload, calls=200, in_flight=32))
    assert answered.statuses == {"0": 200}
    assert served.seen.requests == [payload] * 200


async def test_calls_whose_server_goes_away_are_counted_as_cut(served: Served) -> None:
    running = asyncio.create_task(load.run(calls(served, b"slow", in_flight=4, calls=4)))
    while served.seen.now < 4:  # noqa: ASYNC110  the server's own count
        await asyncio.sleep(0.01)
    await served.server.stop(None)
    answered = await asyncio.wait_for(running, 30)
    assert sum(answered.statuses.values()) == 4
    assert answered.ok == 0


async def test_at_a_rate_calls_are_begun_whatever_becomes_of_others(served: Served) -> None:
    answered = await load.run(calls(served, b"x", rate=500.0, calls=50, in_flight=50, window=10.0))
    assert answered.statuses == {"0": 50}
    assert [each.calls for each in answered.windows] == [50]


async def test_a_process_of_its_own_tells_the_same(served: Served) -> None:
    answered = await load.apart(calls(served, PLACE, metadata=(("idempotency-key", PLACE.decode()),)))
    assert answered.statuses == {"0": 100}
    assert len(set(served.seen.keys)) == 100


async def test_a_process_that_cannot_call_says_why(served: Served) -> None:
    await served.server.stop(None)
    with pytest.raises(RuntimeError, match="the load ended with 1"):
        await load.apart(calls(served, b""))
