"""AuditService, as a gateway's callers see it: everything that operators and admins do is in it, and what is done to it is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
import psycopg
import pytest
from google.longrunning.operations_pb2 import CancelOperationRequest, DeleteOperationRequest, GetOperationRequest
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.rpc.status_pb2 import Status
from structlog.testing import capture_logs

from rowcall.probe.v1 import probe_pb2
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER, VIEWER
from rowcall.v1 import (
    access_service_pb2,
    admission_service_pb2,
    catalogue_service_pb2,
    job_service_pb2,
    queue_service_pb2,
    tenant_service_pb2,
)
from rowcall.v1.access_service_pb2_grpc import AccessServiceStub
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from rowcall.v1.audit_service_pb2 import (
    AuditEntry,
    AuditFaultKind,
    AuditHead,
    AuditPlace,
    ListAuditEntriesRequest,
    ListAuditHeadsRequest,
    VerifyAuditChainRequest,
    VerifyAuditChainResponse,
)
from rowcall.v1.audit_service_pb2_grpc import AuditServiceStub
from rowcall.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, refused
from tests.support.rpcs import ECHO, HELLO_IMAGE
from tests.support.tokens import ISSUER, TokenIssuer
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")
KEY = b"0123456789abcdef0123456789abcdef"


class Client:
    """A gateway that knows its callers, and its services."""

    def __init__(self, channel: grpc.aio.Channel, issuer: TokenIssuer, cluster: Cluster, bench: Bench) -> None:
        self.channel = channel
        self.issuer = issuer
        self.cluster = cluster
        self.bench = bench
        self.audit = AuditServiceStub(channel)
        self.jobs = JobServiceStub(channel)
        self.operations = OperationsStub(channel)

    def who(self, *roles: str, actor: str = "olga", tenant: str | None = "acme", reason: str = "") -> Metadata:
        said = (("rowcall-reason", reason),) if reason else ()
        return (*self.issuer.metadata(sub=actor, tenant=tenant, roles=list(roles)), TRACEPARENT, *said)

    async def job(self, actor: str = "ada") -> str:
        request = job_service_pb2.SubmitRequest()
        request.job.method = ECHO
        request.job.request.Pack(probe_pb2.EchoRequest(payload=b"secret"))
        answer = await self.jobs.Submit(request, timeout=20, metadata=self.who(CALLER, actor=actor))
        return str(answer.operation.name)

    async def failed(self) -> str:
        name = await self.job()
        [held] = await self.bench.claim()
        await self.bench.fail(held, Status(code=9, message="no"))
        return name

    async def entries(self, chain: str = "", who: Metadata | None = None, **asked: object) -> list[AuditEntry]:
        request = ListAuditEntriesRequest(chain=chain, **asked)  # type: ignore[arg-type]
        answer = await self.audit.ListAuditEntries(request, timeout=20, metadata=who or self.who(OPERATOR))
        return list(answer.entries)

    async def system(self) -> list[AuditEntry]:
        return await self.entries("system", self.who(ADMIN, tenant=None))

    async def sealed(self) -> AuditHead:
        """The head of acme's chain, once all of it has its place."""
        head = AuditHead()

        async def there() -> bool:
            nonlocal head
            for dsn in self.cluster.shards.values():
                with psycopg.connect(dsn, autocommit=True) as connection:
                    connection.execute("select from rowcall.seal_audit(1000)")
            answer = await self.audit.ListAuditHeads(ListAuditHeadsRequest(), timeout=20, metadata=self.who(OPERATOR))
            [head] = answer.heads
            return head.unsealed == 0

        await until(there)
        return head

    async def verify(self, *earlier: AuditHead, start: AuditPlace | None = None) -> VerifyAuditChainResponse:
        request = VerifyAuditChainRequest(
            earlier_heads=[AuditPlace(place=each.place, hash=each.hash) for each in earlier], start=start
        )
        answer: VerifyAuditChainResponse = await self.audit.VerifyAuditChain(
            request, timeout=20, metadata=self.who(OPERATOR)
        )
        return answer

    async def faults(self, *earlier: AuditHead) -> list[tuple[str, int]]:
        """Kinds and places."""
        return [
            (AuditFaultKind.Name(each.kind).removeprefix("AUDIT_FAULT_KIND_"), each.place)
            for each in (await self.verify(*earlier)).faults
        ]

    def tamper(self, *statements: str) -> None:
        """What somebody with the database's password does, on acme's shard."""
        for dsn in self.cluster.shards.values():
            with psycopg.connect(dsn, autocommit=True) as connection:
                if connection.execute("select 1 from rowcall.audit where tenant = 'acme' limit 1").fetchone():
                    for statement in statements:
                        connection.execute(statement.encode())


@pytest.fixture
async def client(gateways: Gateways, tmp_path: Path, cluster: Cluster, bench: Bench) -> Client:
    issuer = TokenIssuer()
    (tmp_path / "key").write_bytes(KEY)
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path), audit_key_file=tmp_path / "key")
    return Client(await gateways.channel(gateway), issuer, cluster, bench)


def actions(entries: Sequence[AuditEntry]) -> list[str]:
    return [each.action for each in entries]


async def chain_of(client: Client, count: int = 5) -> AuditHead:
    """A chain of so many cancellations; its head."""
    for _ in range(count):
        await client.jobs.CancelJob(
            job_service_pb2.CancelJobRequest(name=await client.job()), timeout=20, metadata=client.who(OPERATOR)
        )
    return await client.sealed()


async def test_each_thing_that_operators_do_to_jobs_is_in_it_with_who_and_why(client: Client) -> None:
    retried, resolved = await client.failed(), await client.failed()
    cancelled = await client.job()
    who = client.who(OPERATOR, reason="dr%C3%BCben")
    await client.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=cancelled), timeout=20, metadata=who)
    await client.jobs.RetryJob(job_service_pb2.RetryJobRequest(name=retried), timeout=20, metadata=who)
    await client.jobs.ResolveJob(job_service_pb2.ResolveJobRequest(name=resolved, note="n"), timeout=20, metadata=who)
    caller = client.who(CALLER, reason="dr%C3%BCben")
    await client.operations.CancelOperation(CancelOperationRequest(name=retried), timeout=20, metadata=caller)
    await client.operations.DeleteOperation(DeleteOperationRequest(name=cancelled), timeout=20, metadata=caller)
    found = await client.entries()
    assert [(each.action, each.target) for each in found] == [
        ("job.delete", cancelled),
        ("job.cancel", retried),
        ("job.resolve", resolved),
        ("job.retry", retried),
        ("job.cancel", cancelled),
    ]
    assert {(each.actor, each.credential, each.trace_id) for each in found} == {("olga", f"jwt {ISSUER}", TRACE)}
    assert [list(each.roles) for each in found] == [[CALLER], [CALLER], [OPERATOR], [OPERATOR], [OPERATOR]]
    assert [each.reason for each in found] == ["drüben", "drüben", "n", "drüben", "drüben"]


async def test_many_jobs_at_once_are_as_many_entries(client: Client) -> None:
    names = [await client.job() for _ in range(3)]
    selection = job_service_pb2.JobSelection(names=names)
    await client.jobs.BatchCancelJobs(
        job_service_pb2.BatchCancelJobsRequest(selection=selection), timeout=20, metadata=client.who(OPERATOR)
    )
    assert {each.target for each in await client.entries(action="job.cancel")} == {*names}


async def test_pauses_and_weights_are_in_the_chain_of_whom_they_concern(client: Client) -> None:
    await client.job()
    operator, admin = client.who(OPERATOR), client.who(ADMIN, tenant=None)
    for_acme = (*admin, ("rowcall-tenant", "acme"))
    queues, tenants = QueueServiceStub(client.channel), TenantServiceStub(client.channel)
    methods = CatalogueServiceStub(client.channel)
    await tenants.PauseTenant(
        tenant_service_pb2.PauseTenantRequest(name="tenants/acme", note="storm"), timeout=20, metadata=operator
    )
    await tenants.ResumeTenant(
        tenant_service_pb2.ResumeTenantRequest(name="tenants/acme"), timeout=20, metadata=operator
    )
    await tenants.SetTenantWeight(
        tenant_service_pb2.SetTenantWeightRequest(name="tenants/acme", weight=3), timeout=20, metadata=for_acme
    )
    assert actions(await client.entries()) == ["tenant.weight", "tenant.resume", "tenant.pause"]
    await queues.PauseQueue(queue_service_pb2.PauseQueueRequest(name="probe"), timeout=20, metadata=admin)
    await methods.PauseMethod(catalogue_service_pb2.PauseMethodRequest(name=ECHO), timeout=20, metadata=admin)
    found = await client.system()
    shards = sorted(client.cluster.shards)
    assert sorted((each.action, each.target, each.database) for each in found) == sorted(
        (action, target, shard)
        for shard in shards
        for action, target in (("queue.pause", "queues/probe"), ("method.pause", f"methods/{ECHO}"))
    )
    assert json.loads(found[0].after)["paused"]


async def test_revocations_are_in_the_chain_of_the_system_and_it_verifies(client: Client) -> None:
    admin = client.who(ADMIN, tenant=None)
    access = AccessServiceStub(client.channel)
    for subject in ("eve", "mallory"):
        await access.RevokeCredentials(
            access_service_pb2.RevokeCredentialsRequest(issuer=ISSUER, subject=subject, note="left"),
            timeout=20,
            metadata=admin,
        )
    found = [each for each in await client.system() if each.database == "catalogue"]
    assert [(each.action, each.target, each.reason, each.place) for each in found] == [
        ("credentials.revoke", f"{ISSUER} mallory", "left", 2),
        ("credentials.revoke", f"{ISSUER} eve", "left", 1),
    ]
    request = VerifyAuditChainRequest(chain="system", database="catalogue")
    whole = await client.audit.VerifyAuditChain(request, timeout=20, metadata=admin)
    assert (list(whole.faults), whole.checked, whole.end.hash) == ([], 2, found[0].hash)
    with psycopg.connect(client.cluster.catalogue_dsn, autocommit=True) as connection:
        connection.execute("update rowcall_catalogue.audit set actor = 'nobody' where place = 1")
    broken = await client.audit.VerifyAuditChain(request, timeout=20, metadata=admin)
    assert [(each.kind, each.place) for each in broken.faults] == [(AuditFaultKind.AUDIT_FAULT_KIND_CHANGED, 1)]


async def test_bounds_and_images_are_in_the_chain_of_the_system_with_what_was_before(client: Client) -> None:
    admin = client.who(ADMIN, actor="root", tenant=None, reason="drill")
    admission, catalogue = AdmissionServiceStub(client.channel), CatalogueServiceStub(client.channel)
    target = admission_service_pb2.BoundTarget(tenant="tenants/acme", queue="mail")
    for rate in (5, 2.5):
        bound = admission_service_pb2.Bound(target=target, rate=rate, note="they flood" if rate == 5 else "")
        await admission.SetBound(admission_service_pb2.SetBoundRequest(bound=bound), timeout=20, metadata=admin)
    await admission.DeleteBound(
        admission_service_pb2.DeleteBoundRequest(target=target), timeout=20, metadata=client.who(ADMIN, tenant=None)
    )
    # The other one has a field that nobody knows.
    for content in (HELLO_IMAGE, HELLO_IMAGE + b"\xf8\x07\x01"):
        await catalogue.PublishImage(
            catalogue_service_pb2.PublishImageRequest(name="hello", content=content, note="a new one"),
            timeout=20,
            metadata=admin,
        )
    await catalogue.RollbackImage(catalogue_service_pb2.RollbackImageRequest(name="hello"), timeout=20, metadata=admin)
    found = [each for each in reversed(await client.system()) if each.database == "catalogue"]
    assert [(each.action, each.target, each.actor, each.reason) for each in found] == [
        ("bound.set", "bounds/tenant=acme,queue=mail", "root", "they flood"),
        ("bound.set", "bounds/tenant=acme,queue=mail", "root", "drill"),
        ("bound.delete", "bounds/tenant=acme,queue=mail", "olga", ""),
        ("image.publish", "images/hello", "root", "a new one"),
        ("image.publish", "images/hello", "root", "a new one"),
        ("image.rollback", "images/hello", "root", "drill"),
    ]
    assert {each.trace_id for each in found} == {TRACE}
    first, second, gone, new, newer, back = ((each.before, each.after) for each in found)
    assert (first[0], json.loads(first[1])) == ("", {"rate": 5, "by": "root", "note": "they flood"})
    assert (second[0], json.loads(second[1])["rate"]) == (first[1], 2.5)
    assert gone == (second[1], "")
    assert (new[0], json.loads(new[1])["revision"]) == ("", 1)
    assert (json.loads(newer[0]), json.loads(newer[1])["revision"]) == (json.loads(new[1]), 2)
    assert json.loads(back[1]) == {**json.loads(new[1]), "revision": 3, "rolled_back_to": 1}


async def test_what_cannot_be_recorded_of_the_catalogue_is_not_done(client: Client) -> None:
    admin = client.who(ADMIN, tenant=None)
    admission, catalogue = AdmissionServiceStub(client.channel), CatalogueServiceStub(client.channel)
    target = admission_service_pb2.BoundTarget(queue="mail")
    bound = admission_service_pb2.SetBoundRequest(bound=admission_service_pb2.Bound(target=target, rate=1))
    image = catalogue_service_pb2.PublishImageRequest(name="hello", content=HELLO_IMAGE)
    with psycopg.connect(client.cluster.catalogue_dsn, autocommit=True) as connection:
        connection.execute(
            "alter table rowcall_catalogue.audit add constraint nothing_goes check (place < 0) not valid"
        )
    failed = [
        await refused(admission.SetBound(bound, timeout=20, metadata=admin)),
        await refused(catalogue.PublishImage(image, timeout=20, metadata=admin)),
    ]
    assert {error.code() for error in failed} == {grpc.StatusCode.INTERNAL}
    bounds = await admission.ListBounds(admission_service_pb2.ListBoundsRequest(), timeout=20, metadata=admin)
    images = await catalogue.ListImages(catalogue_service_pb2.ListImagesRequest(), timeout=20, metadata=admin)
    assert (list(bounds.bounds), list(images.images)) == ([], [])
    assert [each for each in await client.system() if each.database == "catalogue"] == []


async def test_payloads_that_somebody_else_sees_are_in_it_and_the_callers_own_are_not(client: Client) -> None:
    name = await client.job("ada")
    full = job_service_pb2.GetJobRequest(name=name, view=job_service_pb2.JOB_VIEW_FULL)
    await client.jobs.GetJob(full, timeout=20, metadata=client.who(CALLER, actor="ada"))
    await client.jobs.GetJob(full, timeout=20, metadata=client.who(VIEWER, actor="victor"))
    assert await client.entries() == [], "she submitted it herself, and he sees no payload"
    await client.jobs.GetJob(full, timeout=20, metadata=client.who(VIEWER, PAYLOAD_VIEWER, actor="paula"))
    [seen] = await client.entries()
    assert (seen.action, seen.target, seen.actor) == ("payload.read", name, "paula")
    listed = job_service_pb2.ListJobsRequest(view=job_service_pb2.JOB_VIEW_FULL)
    await client.jobs.ListJobs(listed, timeout=20, metadata=client.who(VIEWER, PAYLOAD_VIEWER, actor="paula"))
    assert actions(await client.entries()) == ["payload.read"] * 2
    [held] = await client.bench.claim()
    await client.bench.answer(held, probe_pb2.EchoResponse(payload=b"answer"))
    operation = GetOperationRequest(name=name)
    await client.operations.GetOperation(operation, timeout=20, metadata=client.who(CALLER, actor="bob"))
    assert len(await client.entries()) == 2, "callers poll each other's operations as they please"
    await client.operations.GetOperation(
        operation, timeout=20, metadata=client.who(VIEWER, PAYLOAD_VIEWER, actor="paula")
    )
    assert len(await client.entries()) == 3


async def test_refusals_leave_nothing(client: Client) -> None:
    name = await client.job()
    viewer = client.who(VIEWER)
    denied = await refused(
        client.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name), timeout=20, metadata=viewer)
    )
    assert info_of(denied).reason == "MISSING_ROLE"
    assert await client.entries() == []


async def test_refusals_are_counted_and_told_instead(
    gateways: Gateways, tmp_path: Path, cluster: Cluster, bench: Bench
) -> None:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    client = Client(await gateways.channel(gateway), issuer, cluster, bench)
    name = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"
    cancel = job_service_pb2.CancelJobRequest(name=name)
    for who in (client.who(VIEWER), client.who(VIEWER), ()):
        await refused(client.jobs.CancelJob(cancel, timeout=20, metadata=who))
    error = await refused(client.jobs.CancelJob(cancel, timeout=20, metadata=client.who(OPERATOR)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    with capture_logs() as told:
        await gateway.stop()
    counts = {(line["reason"], line["method"]): line["count"] for line in told if line["event"] == "calls were refused"}
    assert counts == {
        ("MISSING_ROLE", "rowcall.v1.JobService/CancelJob"): 2,
        ("CREDENTIALS_REQUIRED", "rowcall.v1.JobService/CancelJob"): 1,
    }


async def test_another_tenants_chain_and_the_systems_are_not_for_operators(client: Client) -> None:
    await client.job()
    for chain, reason in (("tenants/bolt", "NOT_KNOWN"), ("system", "MISSING_ROLE"), ("acme", "INVALID_NAME")):
        error = await refused(
            client.audit.ListAuditEntries(
                ListAuditEntriesRequest(chain=chain), timeout=20, metadata=client.who(OPERATOR)
            )
        )
        assert info_of(error).reason == reason, chain


async def test_pages_go_through_all_databases(client: Client) -> None:
    admin = client.who(ADMIN, tenant=None)
    queues = QueueServiceStub(client.channel)
    for _ in range(3):
        await queues.PauseQueue(queue_service_pb2.PauseQueueRequest(name="probe"), timeout=20, metadata=admin)
    whole = await client.system()
    seen: list[AuditEntry] = []
    token = ""
    while True:
        answer = await client.audit.ListAuditEntries(
            ListAuditEntriesRequest(chain="system", page_size=2, page_token=token), timeout=20, metadata=admin
        )
        seen += answer.entries
        token = answer.next_page_token
        if not token:
            break
    assert [(each.database, each.create_time.ToNanoseconds()) for each in seen] == [
        (each.database, each.create_time.ToNanoseconds()) for each in whole
    ]
    broken = await refused(
        client.audit.ListAuditEntries(
            ListAuditEntriesRequest(chain="system", page_token="x"), timeout=20, metadata=admin
        )
    )
    assert info_of(broken).reason == "INVALID_PAGE_TOKEN"


async def test_a_chain_that_nobody_touched_is_what_it_was(client: Client) -> None:
    early = await chain_of(client, 2)
    head = await chain_of(client, 3)
    verified = await client.verify(early, head)
    assert list(verified.faults) == []
    assert (verified.checked, verified.more, verified.end.place, verified.end.hash) == (5, False, 5, head.hash)
    again = await client.verify(early, head, start=AuditPlace(place=early.place, hash=early.hash))
    assert (list(again.faults), again.checked) == ([], 3)


async def test_a_changed_entry_is_found(client: Client) -> None:
    await chain_of(client)
    client.tamper("update rowcall.audit set actor = 'somebody else' where id = (select min(id) + 2 from rowcall.audit)")
    assert await client.faults() == [("CHANGED", 3)]


async def test_a_missing_entry_is_found(client: Client) -> None:
    await chain_of(client)
    client.tamper("delete from rowcall.audit where id = (select min(id) + 2 from rowcall.audit)")
    assert await client.faults() == [("MISSING", 3)]


async def test_an_entry_that_is_gone_with_its_place_is_found(client: Client) -> None:
    await chain_of(client)
    client.tamper(
        "delete from rowcall.audit where id = (select min(id) + 2 from rowcall.audit)",
        "delete from rowcall.audit_seal where place = 3",
    )
    assert await client.faults() == [("MISSING", 3)]


async def test_an_inserted_entry_is_found(client: Client) -> None:
    """One among those that were sealed; one of now would be sealed as what it is, the latest."""
    await chain_of(client)
    client.tamper(
        "insert into rowcall.audit (tenant, xid, at, action, target) "
        "select 'acme', min(xid), min(at), 'job.cancel', 'x' from rowcall.audit"
    )
    assert await client.faults() == [("INSERTED", 0)]


async def test_a_cut_tail_is_found_by_an_earlier_head_and_by_nothing_else(client: Client) -> None:
    head = await chain_of(client)
    client.tamper(
        "delete from rowcall.audit where id > (select min(id) + 2 from rowcall.audit)",
        "delete from rowcall.audit_seal where place > 3",
    )
    assert await client.faults() == []
    assert await client.faults(head) == [("CUT", 5)]


async def test_a_chain_that_was_hashed_anew_is_found_by_an_earlier_head(client: Client) -> None:
    head = await chain_of(client)
    client.tamper(
        "update rowcall.audit set actor = 'somebody else' where id = (select min(id) + 2 from rowcall.audit)",
        "delete from rowcall.audit_seal",
        "update rowcall.audit_sealer set frontier = '0'",
    )
    anew = await client.sealed()
    assert anew.place == head.place
    assert await client.faults() == []
    assert await client.faults(head) == [("REWRITTEN", 5)]


async def test_a_beginning_that_is_gone_is_found_and_so_is_a_checkpoint_of_somebody_else(client: Client) -> None:
    await chain_of(client)
    cut = (
        "delete from rowcall.audit where id < (select min(id) + 3 from rowcall.audit)",
        "delete from rowcall.audit_seal where place < 3",
    )
    client.tamper(*cut)
    assert ("MISSING", 1) in await client.faults()
    client.tamper(
        "insert into rowcall.audit_checkpoint (tenant, place, hash, made_at, signature) "
        "select tenant, place, hash, now(), '\\x00' from rowcall.audit_seal where place = 3"
    )
    assert await client.faults() == [("UNSIGNED", 3)]


async def test_erased_entries_leave_the_chain_what_it_was_and_merely_marked_ones_are_missing(client: Client) -> None:
    head = await chain_of(client)
    client.tamper("select rowcall.erase_audit('acme', 0, 3, '{\"actor\": \"root\"}')")
    await client.sealed()
    verified = await client.verify(head)
    assert (list(verified.faults), verified.checked, verified.erased) == ([], 6, 3)
    assert actions(await client.entries()) == ["audit.erase", "job.cancel", "job.cancel"]
    client.tamper(
        "update rowcall.audit_seal set erased_at = now() where place = 4",
        "delete from rowcall.audit a using rowcall.audit_seal s where s.id = a.id and s.place = 4",
    )
    assert await client.faults(head) == [("MISSING", 4)]


async def test_a_chain_of_a_tenant_without_a_shard_is_empty(client: Client) -> None:
    assert await client.entries(who=client.who(OPERATOR, tenant="nobody-yet")) == []
