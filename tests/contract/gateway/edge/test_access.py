"""Who may call what: every RPC under every role, images' own rules, and the ways around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from rowcall.catalogue.grants import built_in_rules
from rowcall.catalogue.images import ImageError, load_catalogue
from rowcall.options.v1 import access_pb2
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER, ROLES, VIEWER
from rowcall.v1 import job_service_pb2
from rowcall.v1.job_service_pb2 import BatchSubmitRequest, JobSpec, RetryJobRequest, SubmitRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall_gateway.server import Gateway
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, dynamic_stub, info_of, jobs, refused
from tests.fix_images import ImageBuilder
from tests.support.contents import changes, contents, told_of_its_methods
from tests.support.rpcs import EVERY, Rpc
from tests.support.tokens import TokenIssuer
from tests.support.waiting import until

SHOP = """\
syntax = "proto3";
package acme.v1;
import "google/longrunning/operations.proto";
import "rowcall/options/v1/access.proto";
import "rowcall/options/v1/job.proto";
message Order { string item = 1; }
service Shop {
  option (rowcall.options.v1.service_access) = {roles: ["caller", "clerk"]};
  rpc Buy(Order) returns (Order) { option (rowcall.options.v1.job) = {}; }
  rpc Pay(Order) returns (Order) {
    option (rowcall.options.v1.job) = {};
    option (rowcall.options.v1.access) = {roles: "caller" scopes: ["pay", "shop"]};
  }
  rpc Shut(Order) returns (Order) {
    option (rowcall.options.v1.job) = {};
    option (rowcall.options.v1.access) = {};
  }
  rpc Ended(google.longrunning.Operation) returns (Order) {
    option (rowcall.options.v1.job) = {};
    option (rowcall.options.v1.access) = {roles: "operator"};
  }
}
"""
OPEN = """\
syntax = "proto3";
package acme.v1;
import "google/longrunning/operations.proto";
import "rowcall/options/v1/access.proto";
import "rowcall/options/v1/job.proto";
message Order { string item = 1; }
service Shop {
  option (rowcall.options.v1.service_access) = {public: true};
  rpc Buy(Order) returns (Order) { option (rowcall.options.v1.job) = {}; }
  rpc Send(Order) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {response_type: "Order" metadata_type: "rowcall.v1.JobMetadata"};
    option (rowcall.options.v1.job) = {};
  }
}
"""
BARE = SHOP.replace('option (rowcall.options.v1.service_access) = {roles: ["caller", "clerk"]};', "")
NOW = ("prefer", "wait=0")


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
def start(
    gateways: Gateways, issuer: TokenIssuer, tmp_path: Path
) -> Callable[..., Awaitable[tuple[Gateway, grpc.aio.Channel]]]:
    """Starts a gateway that knows its callers by the issuer's tokens."""
    issuers = issuer.write(tmp_path, may_grant=[*ROLES, "clerk"])

    async def run(*images: Path, **settings: Any) -> tuple[Gateway, grpc.aio.Channel]:
        gateway = await gateways.start(identity="jwt", issuers=issuers, images=images, **settings)
        return gateway, await gateways.channel(gateway)

    return run


async def ended(rpc: Rpc, channel: grpc.aio.Channel, metadata: Metadata) -> tuple[str, str]:
    """Code and reason that a good call of it ends with."""
    try:
        await rpc.call(channel, rpc.request(), metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name, info_of(error).reason
    return "OK", ""


async def test_every_rpc_lets_in_the_roles_that_its_rule_names_and_nobody_else(
    start: Any, issuer: TokenIssuer, cluster: Cluster
) -> None:
    _, channel = await start()
    rules = built_in_rules()
    await until(lambda: told_of_its_methods(cluster))
    wrong: list[str] = []
    for role in (*sorted(ROLES), "clerk", None):
        metadata = issuer.metadata(roles=[] if role is None else [role])
        before = contents(cluster)
        for rpc in EVERY:
            if role in rules[rpc.name].roles:
                continue
            found = await ended(rpc, channel, metadata)
            if found != ("PERMISSION_DENIED", "MISSING_ROLE"):
                wrong.append(f"{role} {rpc.name}: {found}")
        wrong += changes(before, contents(cluster))
        for rpc in EVERY:
            if role in rules[rpc.name].roles:
                found = await ended(rpc, channel, metadata)
                if found[0] in (
                    "PERMISSION_DENIED",
                    "UNAUTHENTICATED",
                    "UNIMPLEMENTED",
                    "INTERNAL",
                    "INVALID_ARGUMENT",
                ):
                    wrong.append(f"{role} {rpc.name}: {found}")
    assert wrong == []


async def test_a_refusal_names_what_is_missing(start: Any, issuer: TokenIssuer) -> None:
    _, channel = await start()
    [retry] = [rpc for rpc in EVERY if rpc.short == "JobService/RetryJob"]
    with capture_logs() as lines:
        error = await refused(retry.call(channel, retry.request(), issuer.metadata(roles=["caller", "viewer"])))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == (
        "rowcall.v1.JobService/RetryJob is for callers with the role admin or operator; this one has caller, viewer."
    )
    info = info_of(error)
    assert (info.reason, info.domain, info.metadata["origin"]) == ("MISSING_ROLE", "rowcall.dev", "GATEWAY")
    assert (info.metadata["method"], info.metadata["roles"]) == ("rowcall.v1.JobService/RetryJob", "admin, operator")
    # Whom it was refused is in the log.
    [line] = [line for line in lines if line["event"] == "call"]
    assert (line["reason"], line["tenant"], line["actor"]) == ("MISSING_ROLE", "acme", "ada")


async def test_images_rules_hold_for_their_methods(start: Any, issuer: TokenIssuer, build_image: ImageBuilder) -> None:
    image = build_image({"acme/v1/shop.proto": SHOP})
    _, channel = await start(image)
    methods = load_catalogue([image]).methods

    async def reason(name: str, **claims: Any) -> str:
        method = methods[f"acme.v1.Shop/{name}"]
        metadata = (*issuer.metadata(**claims), NOW)
        error = await refused(dynamic_stub(channel, method)(method.request_class(), timeout=20, metadata=metadata))
        return info_of(error).reason

    assert await reason("Buy", roles=["caller"]) == "STILL_RUNNING"
    assert await reason("Buy", roles=["clerk"]) == "STILL_RUNNING"
    assert await reason("Buy", roles=["operator", "viewer", "admin"]) == "MISSING_ROLE"
    assert await reason("Pay", roles=["caller"], scope="pay shop more") == "STILL_RUNNING"
    assert await reason("Pay", roles=["caller"], scope="shop") == "MISSING_SCOPE"
    assert await reason("Pay", roles=["clerk"], scope="pay shop") == "MISSING_ROLE"
    assert await reason("Shut", roles=["caller", "clerk", "operator", "admin"], scope="pay shop") == "METHOD_CLOSED"


def _spec(method: str, on_done: str = "") -> JobSpec:
    request = AnyMessage(type_url="type.googleapis.com/acme.v1.Order")
    return JobSpec(method=method, request=request, on_done=on_done)


async def test_to_submit_a_job_is_to_call_its_method(
    start: Any, issuer: TokenIssuer, build_image: ImageBuilder, cluster: Cluster
) -> None:
    """By its name in a request, or as what is to follow, no method is called by those who may not call it."""
    _, channel = await start(build_image({"acme/v1/shop.proto": SHOP}))
    stub = JobServiceStub(channel)
    pay, buy, follow = "acme.v1.Shop/Pay", "acme.v1.Shop/Buy", "acme.v1.Shop/Ended"
    caller, able = issuer.metadata(roles=["caller"]), issuer.metadata(roles=["caller", "operator"], scope="pay shop")

    async def denied(call: Awaitable[object]) -> tuple[str, str, str]:
        error = await refused(call)
        info = info_of(error)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        return info.reason, info.metadata["method"], str(error.details()).partition(" ")[0]

    async def submit(spec: JobSpec, *metadata: tuple[str, str]) -> object:
        return await stub.Submit(SubmitRequest(job=spec), timeout=20, metadata=(*caller, *metadata))

    async def batch(*specs: JobSpec, metadata: Metadata = ()) -> object:
        return await stub.BatchSubmit(BatchSubmitRequest(jobs=specs), timeout=20, metadata=(*caller, *metadata))

    assert await denied(submit(_spec(pay))) == ("MISSING_SCOPE", pay, "job.method")
    assert await denied(submit(_spec(f"/{pay}"))) == ("MISSING_SCOPE", pay, "job.method")
    assert await denied(batch(_spec(buy), _spec(pay))) == ("MISSING_SCOPE", pay, "jobs[1].method")
    assert await denied(submit(_spec(buy, follow))) == ("MISSING_ROLE", follow, "job.on_done")
    assert await denied(submit(_spec(buy), ("rowcall-on-done", follow))) == ("MISSING_ROLE", follow, "rowcall-on-done")
    assert await denied(batch(_spec(buy, follow))) == ("MISSING_ROLE", follow, "jobs[0].on_done")
    assert await denied(batch(_spec(buy), metadata=(("rowcall-on-done", follow),))) == (
        "MISSING_ROLE", follow, "rowcall-on-done",
    )  # fmt: skip
    own = channel.unary_unary(f"/{buy}")
    assert await denied(own(b"", timeout=20, metadata=(*caller, ("rowcall-on-done", follow)))) == (
        "MISSING_ROLE", follow, "rowcall-on-done",
    )  # fmt: skip
    assert jobs(cluster, "name") == []

    await stub.BatchSubmit(BatchSubmitRequest(jobs=[_spec(pay, follow), _spec(buy)]), timeout=20, metadata=able)
    assert len(jobs(cluster, "name")) == 2


async def test_an_image_that_makes_retry_public_finds_it_operator_only(
    start: Any, issuer: TokenIssuer, tmp_path: Path
) -> None:
    proto = FileDescriptorProto()
    job_service_pb2.DESCRIPTOR.CopyToProto(proto)
    proto.message_type.add(name="OfANewerRelease")
    proto.service[0].options.Extensions[access_pb2.service_access].public = True
    for method in proto.service[0].method:
        method.options.Extensions[access_pb2.access].CopyFrom(access_pb2.AccessRule(public=True))
    image = tmp_path / "ours.binpb"
    image.write_bytes(FileDescriptorSet(file=[proto]).SerializeToString())
    _, channel = await start(image, public_tenant="public")
    stub = JobServiceStub(channel)
    request = RetryJobRequest(name="tenants/public/operations/0199d1f0-0000-7000-8000-000000000000")

    assert info_of(await refused(stub.RetryJob(request, timeout=20))).reason == "CREDENTIALS_REQUIRED"
    caller = issuer.metadata(roles=["caller"], tenant="public")
    assert info_of(await refused(stub.RetryJob(request, timeout=20, metadata=caller))).reason == "MISSING_ROLE"
    operator = issuer.metadata(roles=["operator"], tenant="public")
    assert info_of(await refused(stub.RetryJob(request, timeout=20, metadata=operator))).reason == "JOB_NOT_FOUND"


async def test_a_gateway_that_knows_its_callers_does_not_start_with_a_method_without_a_rule(
    start: Any, build_image: ImageBuilder
) -> None:
    image = build_image({"acme/v1/shop.proto": BARE})
    with pytest.raises(ImageError) as caught:
        await start(image)
    assert caught.value.problems[:1] == (
        f"acme/v1/shop.proto ({image}): method acme.v1.Shop/Buy: has no access rule, so nobody may call it",
    )
    assert '    option (rowcall.options.v1.access) = {roles: "caller"};' in caught.value.problems
    await start(image, access_default="roles:caller")


async def test_where_callers_are_believed_methods_without_a_rule_are_told_of_in_one_line(
    gateways: Gateways, build_image: ImageBuilder
) -> None:
    two = BARE.replace("rpc Buy", "rpc Ask(Order) returns (Order) { option (rowcall.options.v1.job) = {}; }\n  rpc Buy")
    with capture_logs() as lines:
        await gateways.start(images=[build_image({"acme/v1/shop.proto": two})])
    [line] = [line for line in lines if "without an access rule" in line["event"]]
    assert (line["log_level"], line["methods"]) == ("warning", ["acme.v1.Shop/Ask", "acme.v1.Shop/Buy"])


@pytest.mark.parametrize("identity", ["jwt", "insecure-dev"])
async def test_what_an_image_may_not_grant_keeps_any_gateway_from_starting(
    gateways: Gateways, issuer: TokenIssuer, tmp_path: Path, build_image: ImageBuilder, identity: str
) -> None:
    image = build_image({"acme/v1/shop.proto": OPEN})
    known: Mapping[str, Any] = {"issuers": issuer.write(tmp_path)} if identity == "jwt" else {}
    with pytest.raises(ImageError) as caught:
        await gateways.start(images=[image], identity=identity, **known)
    assert len(caught.value.problems) == 2
    assert all("ROWCALL_PUBLIC_TENANT" in problem for problem in caught.value.problems)


async def test_a_public_method_is_called_without_a_credential(
    start: Any, issuer: TokenIssuer, build_image: ImageBuilder, cluster: Cluster
) -> None:
    image = build_image({"acme/v1/shop.proto": OPEN})
    _, channel = await start(image, public_tenant="public")
    methods = load_catalogue([image]).methods
    send = dynamic_stub(channel, methods["acme.v1.Shop/Send"])
    order = methods["acme.v1.Shop/Send"].request_class(item="pen")

    started = await send(order, timeout=20, metadata=(NOW,))
    assert started.name.startswith("tenants/public/operations/")
    assert (await send(order, timeout=20, metadata=(*issuer.metadata(roles=[]), NOW))).name.startswith("tenants/acme/")
    for metadata, reason in (
        ((("rowcall-tenant", "acme"),), "IDENTITY_MISMATCH"),
        ((("rowcall-actor", "ada"),), "IDENTITY_MISMATCH"),
        ((("authorization", "Bearer nonsense"),), "TOKEN_INVALID"),
        (issuer.metadata(aud="elsewhere"), "TOKEN_INVALID"),
    ):
        error = await refused(send(order, timeout=20, metadata=(*metadata, NOW)))
        assert info_of(error).reason == reason, metadata
    assert sorted(jobs(cluster, "tenant, actor")) == [("acme", "ada"), ("public", None)]
    # All that comes of it is for those who are somebody.
    [get] = [rpc for rpc in EVERY if rpc.short == "Operations/GetOperation"]
    error = await refused(get.call(channel, get.request(operation=started.name)))
    assert info_of(error).reason == "CREDENTIALS_REQUIRED"


@pytest.mark.parametrize("path", ["/rowcall.v1.JobService/GetJob", "/no.Such/Method", "/rowcall.v1.JobService/Nope"])
async def test_those_who_are_nobody_do_not_learn_which_methods_there_are(
    start: Any, issuer: TokenIssuer, path: str
) -> None:
    _, channel = await start()
    call = channel.unary_unary(path)
    error = await refused(call(b"", timeout=20))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REQUIRED")
    assert "method" not in info_of(error).metadata


async def test_health_is_everybodys(start: Any) -> None:
    _, channel = await start()
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def reflected(channel: grpc.aio.Channel, metadata: Metadata = ()) -> list[str]:
    """The services that reflection tells of."""
    # Its stubs know channels of plain gRPC only.
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stream = stub.ServerReflectionInfo(iter([request]), timeout=20, metadata=metadata)
    return [service.name async for answer in stream for service in answer.list_services_response.service]


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_reflection_is_for_those_who_have_a_role(start: Any, issuer: TokenIssuer, role: str) -> None:
    _, channel = await start()
    assert "rowcall.v1.JobService" in await reflected(channel, issuer.metadata(roles=[role]))


async def test_reflection_is_refused_to_others_with_an_envelope(start: Any, issuer: TokenIssuer) -> None:
    _, channel = await start()
    for metadata, code, reason in (
        ((), "UNAUTHENTICATED", "CREDENTIALS_REQUIRED"),
        (issuer.metadata(roles=[]), "PERMISSION_DENIED", "MISSING_ROLE"),
        (issuer.metadata(aud="elsewhere"), "UNAUTHENTICATED", "TOKEN_INVALID"),
    ):
        error = await refused(reflected(channel, metadata))
        assert (error.code().name, info_of(error).reason) == (code, reason)


async def test_reflection_may_be_everybodys_by_setting(start: Any) -> None:
    _, channel = await start(reflection_access="public")
    assert "rowcall.v1.JobService" in await reflected(channel)


def test_which_role_may_what_is_as_the_page_says() -> None:
    """The table of docs/access.md, letter for letter."""
    order = (CALLER, OPERATOR, VIEWER, PAYLOAD_VIEWER, ADMIN)
    rows = [
        f"| `{name.rpartition('.')[2]}` | " + " | ".join("✓" if role in rule.roles else "" for role in order) + " |"
        for name, rule in sorted(built_in_rules().items(), key=lambda item: item[0].rpartition(".")[2])
        if rule.roles
    ]
    page = (Path(__file__).parents[4] / "docs/access.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| `") and "/" in line.split("|")[1]]
    assert table == rows
