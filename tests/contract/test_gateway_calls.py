"""Typed and Operation-returning calls as a client with generated stubs sees them."""

from __future__ import annotations

from rowcall.probe.v1.probe_pb2 import EchoRequest
from tests.fix_gateway import Gateways, tenant
from tests.fix_worker import Workers


async def test_a_typed_call_is_answered_with_its_response(gateways: Gateways, workers: Workers) -> None:
    gateway = await gateways.start()
    worker = await workers.start()
    probe = await gateways.probe(gateway)

    answers = [
        await probe.Echo(EchoRequest(payload=b"hello"), timeout=20, metadata=tenant(f"tenant-{number}"))
        for number in range(6)
    ]

    assert {(answer.payload, answer.worker, answer.attempt) for answer in answers} == {(b"hello", worker.name, 1)}
