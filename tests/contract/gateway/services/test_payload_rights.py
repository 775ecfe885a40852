"""Who sees payloads: every RPC, under every role, by what it answers of jobs that have something in every place that holds a payload.

A marker stands in each of these places. What is looked at are the answers' bytes, and the errors' with all their details.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.longrunning.operations_pb2 import GetOperationRequest, Operation
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from rowcall.catalogue.grants import built_in_rules
from rowcall.errors import handler_status, read_envelope
from rowcall.probe.v1 import probe_pb2
from rowcall.queue.model import Progress, Running
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER, ROLES, VIEWER
from rowcall.v1 import job_service_pb2
from rowcall.v1.job_pb2 import Job, Withheld
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.fix_gateway import Bench, Gateways, HeldJob, Metadata
from tests.support.rpcs import ECHO, EVERY, Rpc
from tests.support.tokens import TokenIssuer

REQUEST: Final = b"<in the request>"
RESPONSE: Final = b"<in the response>"
DETAIL: Final = b"<in a detail of the error>"
INFO: Final = b"<in the handler's own ErrorInfo>"
MESSAGE: Final = b"<in the error's message>"
LABEL: Final = b"<in a label>"
PROGRESS: Final = b"<in the progress>"
LOCATION: Final = b"<where it raised>"
PAYLOADS: Final = frozenset({REQUEST, RESPONSE, DETAIL, INFO})
SAID: Final = frozenset({MESSAGE, LABEL, PROGRESS})
"""What is said for whoever looks: the same in the views that are read by SQL."""

SEEN: Final[Mapping[str, frozenset[bytes]]] = {
    CALLER: PAYLOADS | SAID,
    OPERATOR: SAID | {LOCATION},
    VIEWER: SAID,
    PAYLOAD_VIEWER: PAYLOADS | SAID,
    ADMIN: SAID | {LOCATION},
}
"""What each role sees of its tenant's jobs, by whichever RPCs."""


def failure(name: str) -> Status:
    """What the handler of a job ends it with, as the worker stores it."""
    own = Status(code=9, message=MESSAGE.decode())
    for detail in (
        StringValue(value=DETAIL.decode()),
        ErrorInfo(reason="GONE", domain="acme.v1", metadata={"a": INFO.decode()}),
    ):
        own.details.add().Pack(detail)
    return handler_status(own, operation=name, attempt=1, trace_id="0" * 32)


class Known:
    """A gateway that knows its callers, and jobs of a tenant each."""

    def __init__(self, channel: grpc.aio.Channel, issuer: TokenIssuer, bench: Bench) -> None:
        self.channel = channel
        self.issuer = issuer
        self._bench = bench

    def metadata(self, tenant: str, *roles: str) -> Metadata:
        return self.issuer.metadata(tenant=tenant, roles=list(roles))

    async def jobs(self, tenant: str) -> tuple[str, str, str]:
        """Three jobs, one that succeeded, one that failed, one that runs: their names."""
        batch = job_service_pb2.BatchSubmitRequest()
        for number in range(3):
            batch.jobs.add(method=ECHO, request_id=str(number), labels={"a": LABEL.decode()}).request.Pack(
                probe_pb2.EchoRequest(payload=REQUEST)
            )
        answer = await JobServiceStub(self.channel).BatchSubmit(
            batch, timeout=20, metadata=self.metadata(tenant, CALLER)
        )
        succeeded, failed, running = (each.operation.name for each in answer.results)
        held: dict[str, HeldJob] = {}
        while not held.keys() >= {succeeded, failed, running}:
            # Calls of other roles have left jobs too.
            held |= {each.name: each for each in await self._bench.claim()}
        for each in (held[succeeded], held[failed], held[running]):
            running_now = Running(each.job.tenant, each.job.job_id, each.job.lease)
            await self._bench.report(each.shard, Progress(running_now, 0.5, PROGRESS.decode()))
        await self._bench.answer(held[succeeded], probe_pb2.EchoResponse(payload=RESPONSE))
        await self._bench.fail(held[failed], failure(failed), location=LOCATION.decode())
        return succeeded, failed, running

    async def told(self, rpc: Rpc, request: Any, metadata: Metadata) -> bytes:
        """All that a call is answered with, well or not."""
        try:
            return await rpc.call(self.channel, request, metadata)
        except grpc.aio.AioRpcError as error:
            return b"".join(
                [str(error.details()).encode()]
                + [
                    value if isinstance(value, bytes) else value.encode()
                    for _, value in error.trailing_metadata() or ()
                ]
            )


@pytest.fixture
async def known(gateways: Gateways, bench: Bench, tmp_path: Path) -> Known:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    return Known(await gateways.channel(gateway), issuer, bench)


def order(rpc: Rpc) -> tuple[bool, bool]:
    """What looks comes before what changes something, and what erases it last."""
    return "Delete" in rpc.name, not any(word in rpc.short for word in ("Get", "List", "Wait"))


async def test_each_role_sees_what_it_may_by_every_rpc(known: Known) -> None:
    wrong: list[str] = []
    for role, may in SEEN.items():
        tenant = f"of-{role}"
        named = await known.jobs(tenant)
        metadata = known.metadata(tenant, role)
        seen: set[bytes] = set()
        for rpc in sorted(EVERY, key=order):
            if role not in built_in_rules()[rpc.name].roles:
                continue
            for name in named:
                request = rpc.request(operation=name, tenant=tenant)
                if rpc.short in ("JobService/Submit", "JobService/BatchSubmit"):
                    _joining(request, named.index(name))
                answer = await known.told(rpc, request, metadata)
                found = {marker for marker in PAYLOADS | SAID | {LOCATION} if marker in answer}
                if found - may:
                    wrong.append(f"{role} {rpc.name} {named.index(name)}: {sorted(found - may)}")
                seen |= found
        # All of it is to be had, or nothing is proved.
        wrong += [f"{role} never sees {marker!r}" for marker in may - seen]
    assert wrong == []


def _joining(request: Any, number: int) -> None:
    """Has a submission join one of the jobs that are there: a join is answered with the job's answer."""
    spec = request.jobs[0] if hasattr(request, "jobs") else request.job
    spec.request_id = str(number)
    spec.labels["a"] = LABEL.decode()
    spec.request.Pack(probe_pb2.EchoRequest(payload=REQUEST))


async def test_the_answer_of_a_methods_own_call_is_its_callers(known: Known) -> None:
    """A typed call that joins a job gets what that was answered, whole."""
    await known.jobs("acme")
    call: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = known.channel.unary_unary(f"/{ECHO}")
    request = probe_pb2.EchoRequest(payload=REQUEST).SerializeToString()
    metadata = known.metadata("acme", CALLER)

    answer = await call(request, timeout=20, metadata=(*metadata, ("idempotency-key", "0")))
    assert RESPONSE in answer
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(request, timeout=20, metadata=(*metadata, ("idempotency-key", "1")))
    details = b"".join(value for _, value in error.value.trailing_metadata() or () if isinstance(value, bytes))
    assert DETAIL in details
    assert INFO in details


async def test_what_is_withheld_is_told_by_type_and_size(known: Known) -> None:
    succeeded, failed, _ = await known.jobs("acme")
    jobs, operations = JobServiceStub(known.channel), OperationsStub(known.channel)
    viewer = known.metadata("acme", VIEWER)

    async def job(name: str) -> Job:
        request = job_service_pb2.GetJobRequest(name=name, view=job_service_pb2.JOB_VIEW_FULL)
        return (await jobs.GetJob(request, timeout=20, metadata=viewer)).job

    request, response = probe_pb2.EchoRequest(payload=REQUEST), probe_pb2.EchoResponse(payload=RESPONSE)
    shown = await job(succeeded)
    assert withheld(shown.request) == ("rowcall.probe.v1.EchoRequest", request.ByteSize())
    assert withheld(shown.response) == ("rowcall.probe.v1.EchoResponse", response.ByteSize())
    operation: Operation = await operations.GetOperation(
        GetOperationRequest(name=succeeded), timeout=20, metadata=viewer
    )
    assert withheld(operation.response) == withheld(shown.response)
    # It is no answer of the method's, and is not taken for one.
    assert not operation.response.Unpack(probe_pb2.EchoResponse())

    for error in ((await job(failed)).error, (await job(failed)).attempts[0].error):
        assert (error.code, error.message) == (9, MESSAGE.decode())
        info = read_envelope(error)
        assert info is not None
        assert (info.reason, info.domain, info.metadata["operation"]) == ("HANDLER_ERROR", "rowcall.dev", failed)
        types = [Withheld.FromString(each.value).type for each in error.details if each.Is(Withheld.DESCRIPTOR)]
        assert types[:2] == ["google.protobuf.StringValue", "google.rpc.ErrorInfo"]


def withheld(payload: Any) -> tuple[str, int]:
    found = Withheld()
    assert payload.Unpack(found)
    return found.type, found.size_bytes


async def test_payloads_are_of_the_methods_that_one_may_call(known: Known) -> None:
    """A role beside caller does not take them away, and none but caller and payload-viewer gives them."""
    succeeded, _, _ = await known.jobs("acme")
    operations = OperationsStub(known.channel)
    for roles, sees in (
        ((CALLER, VIEWER), True),
        ((VIEWER, PAYLOAD_VIEWER), True),
        ((ADMIN, PAYLOAD_VIEWER), True),
        ((VIEWER, OPERATOR, ADMIN), False),
        (tuple(ROLES), True),
    ):
        request = GetOperationRequest(name=succeeded)
        operation = await operations.GetOperation(request, timeout=20, metadata=known.metadata("acme", *roles))
        assert (RESPONSE in operation.response.value) is sees, roles
