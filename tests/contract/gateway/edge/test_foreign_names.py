"""Every RPC, with every field that names something of a tenant naming another tenant's: as if it did not exist, in code, body and
effect.

Made from the descriptors. A field that is new must be said of whether it names something of a tenant (`NAMES`, `OF_NOBODY`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from rowcall.catalogue.grants import built_in_rules
from rowcall.errors import status_of
from rowcall.probe.v1 import probe_pb2
from rowcall.security.roles import ADMIN, ROLES
from rowcall.v1 import job_service_pb2
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, refused
from tests.support.contents import Contents, changes, contents, told_of_its_methods
from tests.support.rpcs import ECHO, EVERY, PROBE, Rpc
from tests.support.tokens import TokenIssuer
from tests.support.waiting import until

OPERATION: Final = "operation"
TENANT: Final = "tenant"
TOKEN: Final = "page token"
KEY: Final = "key"
ACTOR: Final = "actor"
FINGERPRINT: Final = "fingerprint"
LABEL: Final = "label"

NAMES: Final[Mapping[str, str]] = {
    "google.longrunning.CancelOperationRequest.name": OPERATION,
    "google.longrunning.DeleteOperationRequest.name": OPERATION,
    "google.longrunning.GetOperationRequest.name": OPERATION,
    "google.longrunning.ListOperationsRequest.name": TENANT,
    "google.longrunning.ListOperationsRequest.page_token": TOKEN,
    "google.longrunning.WaitOperationRequest.name": OPERATION,
    "rowcall.v1.CancelJobRequest.name": OPERATION,
    "rowcall.v1.GetActionRequest.operation": OPERATION,
    "rowcall.v1.GetActionRequest.parent": TENANT,
    "rowcall.v1.GetJobRequest.name": OPERATION,
    "rowcall.v1.GetSpendRequest.operation": OPERATION,
    "rowcall.v1.GetSpendRequest.parent": TENANT,
    "rowcall.v1.JobFilter.LabelsEntry.value": LABEL,
    "rowcall.v1.JobFilter.actor": ACTOR,
    "rowcall.v1.JobFilter.error_fingerprint": FINGERPRINT,
    "rowcall.v1.JobFilter.parent": OPERATION,
    "rowcall.v1.JobFilter.request_id": KEY,
    "rowcall.v1.JobSelection.names": OPERATION,
    "rowcall.v1.JobSpec.request_id": KEY,
    "rowcall.v1.ListActionsRequest.page_token": TOKEN,
    "rowcall.v1.ListActionsRequest.parent": TENANT,
    "rowcall.v1.ListAuditEntriesRequest.chain": TENANT,
    "rowcall.v1.ListAuditHeadsRequest.chain": TENANT,
    "rowcall.v1.VerifyAuditChainRequest.chain": TENANT,
    "rowcall.v1.ListFailureGroupsRequest.parent": TENANT,
    "rowcall.v1.ListJobsRequest.page_token": TOKEN,
    "rowcall.v1.ListJobsRequest.parent": TENANT,
    "rowcall.v1.EraseTenantRequest.name": TENANT,
    "rowcall.v1.ExportTenantRequest.name": TENANT,
    "rowcall.v1.ExportTenantRequest.page_token": TOKEN,
    "rowcall.v1.GetTenantRequest.name": TENANT,
    "rowcall.v1.PauseTenantRequest.name": TENANT,
    "rowcall.v1.ReopenTenantRequest.name": TENANT,
    "rowcall.v1.ResolveJobRequest.name": OPERATION,
    "rowcall.v1.ResumeTenantRequest.name": TENANT,
    "rowcall.v1.RetryJobRequest.name": OPERATION,
    "rowcall.v1.SetTenantWeightRequest.name": TENANT,
}
"""What of a tenant a field of a request names."""

OF_NOBODY: Final = frozenset(
    {
        # Methods and queues are one name for all tenants.
        "google.longrunning.ListOperationsRequest.filter",
        "rowcall.v1.GetQueueRequest.name",
        "rowcall.v1.JobFilter.method",
        "rowcall.v1.JobFilter.queue",
        "rowcall.v1.JobSpec.method",
        "rowcall.v1.JobSpec.on_done",
        "rowcall.v1.ListFailureGroupsRequest.method",
        "rowcall.v1.PauseMethodRequest.name",
        "rowcall.v1.PauseQueueRequest.name",
        "rowcall.v1.ResumeMethodRequest.name",
        "rowcall.v1.ResumeQueueRequest.name",
        # Text that is kept.
        "rowcall.v1.BatchResolveJobsRequest.note",
        "rowcall.v1.JobFilter.LabelsEntry.key",
        "rowcall.v1.JobSpec.LabelsEntry.key",
        "rowcall.v1.JobSpec.LabelsEntry.value",
        "rowcall.v1.JobSpec.fairness_key",
        "rowcall.v1.PauseMethodRequest.note",
        "rowcall.v1.PauseQueueRequest.note",
        "rowcall.v1.EraseTenantRequest.note",
        "rowcall.v1.PauseTenantRequest.note",
        "rowcall.v1.PublishImageRequest.note",
        "rowcall.v1.ResolveJobRequest.note",
        "rowcall.v1.RevokeCredentialsRequest.note",
        "rowcall.v1.RollbackImageRequest.note",
        # Of what happened, which is the tenant's own.
        "rowcall.v1.GetActionRequest.trace_id",
        "rowcall.v1.ListActionsRequest.currency",
        "rowcall.v1.ListActionsRequest.method",
        "rowcall.v1.ListActionsRequest.min_cost",
        # Of what was spent, which is the tenant's own.
        "rowcall.v1.GetSpendRequest.first_day",
        "rowcall.v1.GetSpendRequest.last_day",
        "rowcall.v1.GetSpendRequest.method",
        "rowcall.v1.GetSpendRequest.model",
        "rowcall.v1.GetSpendRequest.provider",
        "rowcall.v1.GetSpendRequest.trace_id",
        # Of what the chain has, which is the tenant's own.
        "rowcall.v1.ListAuditEntriesRequest.action",
        "rowcall.v1.ListAuditEntriesRequest.actor",
        "rowcall.v1.ListAuditEntriesRequest.page_token",
        "rowcall.v1.ListAuditEntriesRequest.target",
        "rowcall.v1.VerifyAuditChainRequest.database",
        "rowcall.v1.AuditPlace.hash",
        # Admins', of no tenant.
        "rowcall.v1.Bound.actor",
        "rowcall.v1.Bound.note",
        "rowcall.v1.Budget.amount",
        "rowcall.v1.Budget.currency",
        "rowcall.v1.BoundTarget.method",
        "rowcall.v1.BoundTarget.queue",
        "rowcall.v1.BoundTarget.tenant",
        "rowcall.v1.GetIncidentRequest.fingerprint",
        "rowcall.v1.ResolveIncidentRequest.fingerprint",
        "rowcall.v1.ResolveIncidentRequest.note",
        "rowcall.v1.ListImagesRequest.name",
        "rowcall.v1.ListImagesRequest.page_token",
        "rowcall.v1.ListRevocationsRequest.issuer",
        "rowcall.v1.ListRevocationsRequest.page_token",
        # A worker is nobody's; of what it runs the caller's own is told.
        "rowcall.v1.GetWorkerRequest.name",
        "rowcall.v1.ListWorkersRequest.page_token",
        # All tenants are what is listed.
        "rowcall.v1.ListTenantFailuresRequest.method",
        "rowcall.v1.ListTenantsRequest.page_token",
        "rowcall.v1.ListTenantsRequest.shard",
        "rowcall.v1.PublishImageRequest.name",
        "rowcall.v1.RevokeCredentialsRequest.issuer",
        "rowcall.v1.RevokeCredentialsRequest.subject",
        "rowcall.v1.RollbackImageRequest.name",
    }
)
"""Fields of text that name nothing of a tenant, and why."""

OURS: Final = "acme"
THEIRS: Final = "bolt"
SECRET: Final = "secret of "
"""What a tenant's requests, responses and errors hold, before its name."""
Step = tuple[FieldDescriptor, ...]


def text_fields(kind: Descriptor, way: Step = ()) -> Iterator[Step]:
    """Every field of text in a message, at any depth, as the fields that lead to it."""
    for field in kind.fields:
        if field.message_type is not None and field.message_type.full_name.startswith(
            ("rowcall.v1.", "google.longrunning.")
        ):
            yield from text_fields(field.message_type, (*way, field))
        elif field.type == FieldDescriptor.TYPE_STRING:
            yield (*way, field)


CASES = [
    (rpc, way)
    for rpc in EVERY
    if not rpc.name.startswith(PROBE)
    for way in text_fields(rpc.descriptor.input_type)
    if way[-1].full_name in NAMES
]


def test_it_is_said_of_every_field_whether_it_names_something_of_a_tenant() -> None:
    found = {
        way[-1].full_name
        for rpc in EVERY
        if not rpc.name.startswith(PROBE)
        for way in text_fields(rpc.descriptor.input_type)
    }
    assert found - NAMES.keys() - OF_NOBODY == set(), "say it in NAMES or OF_NOBODY"
    assert (NAMES.keys() | OF_NOBODY) - found == set(), "these are gone"


def test_every_rpc_that_names_a_tenants_things_is_tried() -> None:
    assert {rpc.name.partition("/")[0] for rpc, _ in CASES} == {
        "google.longrunning.Operations", "rowcall.v1.ActionService", "rowcall.v1.AuditService", "rowcall.v1.JobService",
        "rowcall.v1.TenantService",
    }  # fmt: skip


def put(message: Message, way: Sequence[FieldDescriptor], value: str) -> None:
    """Puts a text where the way leads."""
    field, *rest = way
    inner = getattr(message, field.name)
    if not rest:
        if field.is_repeated:
            del inner[:]
            inner.append(value)
        else:
            setattr(message, field.name, value)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner["whose"] = value
    elif field.is_repeated:
        put(inner[0], rest, value)
    else:
        if field.full_name == "rowcall.v1.JobSelection.filter":
            message.ClearField("names")  # it has one or the other
        put(inner, rest, value)


@dataclass(frozen=True, slots=True)
class World:
    """A gateway that knows its callers, and two tenants with jobs that have ended well, have failed, run and wait."""

    channel: grpc.aio.Channel
    issuer: TokenIssuer
    cluster: Cluster
    there: Mapping[str, Sequence[str]]
    """What the other tenant has, by what kind of thing it is."""

    def attacker(self, rpc: Rpc) -> Metadata:
        """Who may call it in the tenant acme, and in no other: with every role but admin, where one of those is enough."""
        roles = sorted(ROLES - {ADMIN})
        if built_in_rules()[rpc.name].roles.isdisjoint(roles):
            return (*self.issuer.metadata(tenant=OURS, roles=sorted(ROLES)), ("rowcall-tenant", OURS))
        return self.issuer.metadata(tenant=OURS, roles=roles)

    def victim(self) -> Metadata:
        """The other tenant's own people."""
        return self.issuer.metadata(tenant=THEIRS, sub="bob", roles=sorted(ROLES - {ADMIN}))

    async def named(self, rpc: Rpc, kind: str) -> Sequence[str]:
        """The names that the other tenant's things of a kind have."""
        if kind != TOKEN:
            return self.there[kind]
        request = rpc.request(tenant=THEIRS)
        if "page_size" in rpc.descriptor.input_type.fields_by_name:
            request.page_size = 1
        victim = self.victim()
        if built_in_rules()[rpc.name].roles == {ADMIN}:
            victim = (*self.issuer.metadata(tenant=THEIRS, roles=sorted(ROLES)), ("rowcall-tenant", THEIRS))
        answer = GetMessageClass(rpc.descriptor.output_type).FromString(await rpc.call(self.channel, request, victim))
        token: str = getattr(answer, "next_page_token")  # noqa: B009 - a class made of a descriptor
        assert token
        return [token]


NOWHERE: Final[Mapping[str, str]] = {
    OPERATION: f"tenants/{THEIRS}/operations/0199d1f0-0000-7000-8000-00000000dead",
    TENANT: "tenants/nobody",
    TOKEN: base64.urlsafe_b64encode(bytes(28)).decode(),
    KEY: "nobodys-key",
    ACTOR: "nobody",
    FINGERPRINT: "0" * 32,
    LABEL: "nobody",
}
"""Names of the same kinds, that nobody has."""


@pytest.fixture
async def world(gateways: Gateways, bench: Bench, cluster: Cluster, tmp_path: Path) -> World:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    channel = await gateways.channel(gateway)
    stub = JobServiceStub(channel)
    found: dict[str, list[str]] = {OURS: [], THEIRS: []}

    async def submit(*numbers: int) -> None:
        for tenant, names in found.items():
            batch = job_service_pb2.BatchSubmitRequest()
            for number in numbers:
                spec = batch.jobs.add(method=ECHO, request_id=f"{tenant}-{number}", labels={"whose": tenant})
                spec.request.Pack(probe_pb2.EchoRequest(payload=f"{SECRET}{tenant}".encode()))
            metadata = issuer.metadata(tenant=tenant, sub="ada" if tenant == OURS else "bob")
            answer = await stub.BatchSubmit(batch, timeout=20, metadata=metadata)
            names += [result.operation.name for result in answer.results]

    await submit(0, 1, 2)
    held = {each.name: each for each in await bench.claim(6)}
    for code, (tenant, (succeeds, fails, _)) in zip((3, 9), found.items(), strict=True):
        await bench.answer(held[succeeds], probe_pb2.EchoResponse(payload=f"{SECRET}{tenant}".encode()))
        # Not alike: each tenant's failures have a fingerprint that the other's have not.
        await bench.fail(held[fails], Status(code=code, message=f"{SECRET}{tenant}"))
    await submit(3)
    await until(lambda: told_of_its_methods(cluster))
    made = World(channel, issuer, cluster, {})
    request = job_service_pb2.GetJobRequest(name=found[THEIRS][1])
    failed = (await stub.GetJob(request, timeout=20, metadata=made.victim())).job
    assert failed.error_fingerprint
    return replace(
        made,
        there={
            OPERATION: found[THEIRS],
            TENANT: [f"tenants/{THEIRS}"],
            KEY: [f"{THEIRS}-0", f"{THEIRS}-3"],
            ACTOR: ["bob"],
            FINGERPRINT: [failed.error_fingerprint],
            LABEL: [THEIRS],
        },
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to, without what differs from call to call: ids, times, and the name that it named."""

    code: str
    body: str
    effect: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A call, and all that can be seen of it."""

    outcome: Outcome
    changed: Sequence[str]
    """The rows that it changed."""
    told: bytes
    """What it was answered with, as it came: what lies in an Any is in it too."""


async def seen(world: World, rpc: Rpc, way: Step, value: str, before: Contents) -> tuple[Seen, Contents]:
    """What a call came to, and what is there after it."""
    request = rpc.request()
    put(request, way, value)
    try:
        answer = await rpc.call(world.channel, request, world.attacker(rpc))
    except grpc.aio.AioRpcError as error:
        every = list(error.trailing_metadata() or ())
        trailers = [each for each in every if each[0] != "grpc-status-details-bin"]
        told = f"{error.details()} {every}".encode() + status_of(error).SerializeToString()
        code, body = error.code().name, f"{error.details()} {status_of(error)} {trailers}"
    else:
        told = answer
        text = str(GetMessageClass(rpc.descriptor.output_type).FromString(answer))
        # An operation's metadata is bytes here, with the time in it.
        code, body = "OK", re.sub(r'value: "(\\.|[^"\\])*"', "value: BYTES", text)
    after = contents(world.cluster)
    changed = changes(before, after)
    came_to = Outcome(code, alike(body, value), tuple(alike(row, value) for row in changed))
    return Seen(came_to, changed, told), after


def alike(text: str, value: str) -> str:
    """A text without what is another one in each call."""
    text = text.replace(value, "THE NAME")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32}\b|\\\\x[0-9a-f]+", "ID", text)
    # A span's number may be negative.
    return re.sub(r"-?\d+", "N", text)


async def test_a_name_of_another_tenants_is_a_name_that_nobody_has(world: World) -> None:
    wrong: list[str] = []
    tried = 0
    there = contents(world.cluster)
    for rpc, way in CASES:
        field = f"{rpc.short} {'.'.join(each.name for each in way)}"
        kind = NAMES[way[-1].full_name]
        expected, there = await seen(world, rpc, way, NOWHERE[kind], there)
        for value in await world.named(rpc, kind):
            found, there = await seen(world, rpc, way, value, there)
            tried += 1
            if found.outcome != expected.outcome:
                wrong.append(f"{field} = {value}: {found.outcome} instead of {expected.outcome}")
            # A key that another tenant has used is as good as new: the job is ours.
            wrong += [
                f"{field} = {value} changed {row}"
                for row in found.changed
                if not row[row.index("(") :].startswith(f"({OURS},")
            ]
            if found.changed and kind != KEY:
                wrong.append(f"{field} = {value} changed {found.changed}")
            if f"{SECRET}{THEIRS}".encode() in found.told:
                wrong.append(f"{field} = {value} told {found.told!r}")
    assert not wrong, "\n".join(wrong)
    assert tried >= 3 * len(CASES) / 2


async def test_the_same_names_are_found_by_those_whose_they_are(world: World) -> None:
    """Or the test before this one would say nothing."""
    lost: list[str] = []
    told = b""
    for rpc, way in sorted(CASES, key=lambda case: case[0].short == "Operations/DeleteOperation"):
        if NAMES[way[-1].full_name] != OPERATION:
            continue
        request = rpc.request()
        put(request, way, world.there[OPERATION][1])
        try:
            told += await rpc.call(world.channel, request, world.victim())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                lost.append(rpc.name)
    assert lost == []
    assert f"{SECRET}{THEIRS}".encode() in told, "they see what nobody else does"


async def test_an_admin_acts_for_the_tenant_that_it_names_and_no_other(world: World) -> None:
    stub = JobServiceStub(world.channel)
    name = world.there[OPERATION][0]
    admin = world.issuer.metadata(tenant=OURS, roles=[ADMIN])
    request = job_service_pb2.GetJobRequest(name=name)

    job = (await stub.GetJob(request, timeout=20, metadata=(*admin, ("rowcall-tenant", THEIRS)))).job
    assert job.name == name
    error = await refused(stub.GetJob(request, timeout=20, metadata=(*admin, ("rowcall-tenant", OURS))))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    others = (*world.issuer.metadata(tenant=OURS, roles=sorted(ROLES - {ADMIN})), ("rowcall-tenant", THEIRS))
    error = await refused(stub.GetJob(request, timeout=20, metadata=others))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.PERMISSION_DENIED, "IDENTITY_MISMATCH")
