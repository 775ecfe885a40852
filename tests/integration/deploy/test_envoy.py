"""deploy/envoy, started for real: calls through it as gRPC, gRPC-Web and JSON, and what it does not let through."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import psutil
import psycopg
import pytest
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import GetOperationRequest, Operation
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rowcall.errors import read_envelope, status_of
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse, RunRequest
from tests.fix_cluster import Cluster
from tests.fix_envoy import Behind, exchange, filters_of, serial_of
from tests.fix_gateway import jobs
from tests.fix_images import ImageBuilder
from tests.fix_services import END_SECONDS
from tests.support.pages import call_with_a_token
from tests.support.tokens import TokenIssuer

T = TypeVar("T")
Start = Callable[..., Behind]
ECHO = "/rowcall.probe.v1.ProbeService/Echo"
GET = "/google.longrunning.Operations/GetOperation"
NOBODYS = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"


def code_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """What a call is refused with: code and reason, "" where it has no envelope."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    info = read_envelope(status_of(caught.value))
    return cast("grpc.Call", caught.value).code(), "" if info is None else info.reason


def calls_seen(behind: Behind) -> list[str]:
    """The methods that the gateway was called for."""
    lines = [json.loads(line) for line in list(behind.system.log) if line.startswith("{")]
    return [line["method"] for line in lines if line["event"] == "call"]


ACME = """\
syntax = "proto3";
package acme.v1;
import "google/longrunning/operations.proto";
import "rowcall/options/v1/job.proto";
message PrintRequest { string text = 1; }
message PrintResponse { int32 pages = 1; }
service PrintService {
  rpc Print(PrintRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "PrintResponse" metadata_type: "rowcall.v1.JobMetadata" };
    option (rowcall.options.v1.job) = {};
  }
}
"""


def test_a_call_is_the_same_call_as_grpc_as_grpc_web_and_as_json(
    behind_envoy: Start, build_image: ImageBuilder, cluster: Cluster, tmp_path: Path
) -> None:
    image = build_image({"acme/v1/print.proto": ACME})

    def change(made: dict[str, Any]) -> None:
        filters_of(made)["envoy.filters.http.grpc_json_transcoder"]["services"].append("acme.v1.PrintService")

    behind = behind_envoy(images=(image,), change=change)
    who = behind.bearer(sub="ada")

    with behind.channel() as channel:
        answer = probe_pb2_grpc.ProbeServiceStub(channel).Echo(
            EchoRequest(payload=b"hello"), timeout=30, metadata=tuple(who.items())
        )
        refused = code_of(
            lambda: operations_pb2_grpc.OperationsStub(channel).GetOperation(
                GetOperationRequest(name=NOBODYS), timeout=30, metadata=tuple(who.items())
            )
        )
    assert answer.payload == b"hello"
    assert refused == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")

    for as_text in (False, True):
        web = behind.grpc_web(ECHO, EchoRequest(payload=b"web").SerializeToString(), who, as_text=as_text)
        [message], trailers = web.frames
        assert (web.status, trailers["grpc-status"]) == (200, "0")
        assert EchoResponse.FromString(message).payload == b"web"
        assert trailers["rowcall-operation"].startswith("tenants/acme/operations/")
    web = behind.grpc_web(GET, GetOperationRequest(name=NOBODYS).SerializeToString(), who)
    messages, trailers = web.frames
    assert (messages, trailers["grpc-status"]) == ([], "5")
    envelope = read_envelope(_decoded(trailers["grpc-status-details-bin"]))
    assert envelope is not None
    assert envelope.reason == "JOB_NOT_FOUND"

    answered = behind.json(ECHO, {"payload": "anNvbg=="}, {**who, "idempotency-key": "once"})
    assert answered.status == 200, answered
    assert answered.json["payload"] == "anNvbg=="
    refused_json = behind.json("/rowcall.v1.JobService/GetJob", {"name": NOBODYS}, who)
    assert refused_json.status == 404
    assert refused_json.json["code"] == 5
    [info] = [each for each in refused_json.json["details"] if each["@type"].endswith("/google.rpc.ErrorInfo")]
    assert (info["reason"], info["domain"]) == ("JOB_NOT_FOUND", "rowcall.dev")

    # Types of the caller's own, of an image that was put behind ours.
    printed = behind.json("/acme.v1.PrintService/Print", {"text": "x"}, {**who, "prefer": "wait=0"})
    assert printed.status == 200, printed
    assert printed.json["name"].startswith("tenants/acme/operations/")
    assert printed.json["metadata"]["@type"] == "type.googleapis.com/rowcall.v1.JobMetadata"

    # As the page has it, which asks for the types through it too.
    (tmp_path / "ca.pem").write_bytes(behind.authority.pem)
    bearer = who["authorization"].removeprefix("Bearer ")
    said = call_with_a_token(
        "deploy/envoy/README.md", f"localhost:{behind.port}", bearer, cwd=tmp_path, ca=tmp_path / "ca.pem"
    )
    assert '"payload": "aGVsbG8="' in said, said

    # Who called is what the token says, and what the row has.
    assert {actor for (actor,) in jobs(cluster, "actor")} == {"ada"}
    assert len(jobs(cluster, "name")) == 6


def _decoded(value: str) -> Status:
    import base64

    return Status.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))


def test_nothing_gets_through_without_a_good_token(behind_envoy: Start, cluster: Cluster) -> None:
    behind = behind_envoy()
    stranger = TokenIssuer("https://elsewhere.example")
    stranger.rotate("two")
    impostor = TokenIssuer(behind.issuer.name)
    impostor.keys = {"one": TokenIssuer(algorithm="ES256").keys["one"]}
    impostor.algorithm = "ES256"
    now = int(time.time())
    bad = {
        "none": {},
        "garbage": {"authorization": "Bearer garbage"},
        "no bearer": {"authorization": "Basic YTpi"},
        "expired": behind.bearer(exp=now - 600),
        "not yet": behind.bearer(nbf=now + 600),
        "another audience": behind.bearer(aud="elsewhere"),
        "no end": behind.bearer(exp=None),
        "another issuer": dict(stranger.metadata()),
        "another key": dict(impostor.metadata()),
    }
    message = EchoRequest(payload=b"x").SerializeToString()
    with behind.channel() as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        for name, headers in bad.items():
            metadata = tuple(headers.items())
            refused = code_of(lambda metadata=metadata: probe.Echo(EchoRequest(), timeout=30, metadata=metadata))  # type: ignore[misc]
            # Envoy tells a token that is for somebody else from one that is none.
            code, status = ("PERMISSION_DENIED", 403) if name == "another audience" else ("UNAUTHENTICATED", 401)
            assert refused[0].name == code, name
            assert behind.grpc_web(ECHO, message, headers).frames[1]["grpc-status"] == str(refused[0].value[0]), name
            assert behind.json(ECHO, {"payload": ""}, headers).status == status, name
        assert calls_seen(behind) == [], "what is refused costs the gateway nothing"
        assert jobs(cluster, "name") == []

        # What has no secret is told to all who balance over gateways.
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert behind.http("/healthz", b"", method="GET").status == 200

        # A key that is exchanged at the issuer's is taken by both: of the gateway's own look nothing is spared.
        forged = behind.bearer(roles=["nonsense"])
        assert code_of(lambda: probe.Echo(EchoRequest(), timeout=30, metadata=tuple(forged.items())))[0] is (
            grpc.StatusCode.PERMISSION_DENIED
        )
    assert jobs(cluster, "name") == []


def test_who_calls_too_often_is_refused_and_others_are_not(behind_envoy: Start) -> None:
    def few_for_a_tenant(made: dict[str, Any]) -> None:
        [tenants] = filters_of(made)["envoy.filters.http.local_ratelimit.tenants"]["descriptors"]
        tenants["token_bucket"] = {"max_tokens": 4, "tokens_per_fill": 1, "fill_interval": "3600s"}

    behind = behind_envoy(change=few_for_a_tenant)
    acme, bolt = behind.bearer(tenant="acme"), behind.bearer(tenant="bolt")
    message = EchoRequest(payload=b"x").SerializeToString()
    with behind.channel() as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        for _ in range(4):
            probe.Echo(EchoRequest(), timeout=30, metadata=tuple(acme.items()))
        refused = code_of(lambda: probe.Echo(EchoRequest(), timeout=30, metadata=tuple(acme.items())))
        assert refused[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert behind.grpc_web(ECHO, message, acme).frames[1]["grpc-status"] == "14"
        limited = behind.json(ECHO, {"payload": ""}, acme)
        assert (limited.status, limited.headers["retry-after"]) == (429, "1")
        # Another tenant from the same address.
        assert probe.Echo(EchoRequest(payload=b"y"), timeout=30, metadata=tuple(bolt.items())).payload == b"y"


def test_an_address_that_floods_is_refused_before_its_tokens_are_looked_at(behind_envoy: Start) -> None:
    def few_for_an_address(made: dict[str, Any]) -> None:
        [addresses] = filters_of(made)["envoy.filters.http.local_ratelimit"]["descriptors"]
        addresses["token_bucket"] = {"max_tokens": 5, "tokens_per_fill": 1, "fill_interval": "3600s"}

    behind = behind_envoy(change=few_for_an_address)
    statuses = [behind.json(ECHO, {"payload": ""}, {"authorization": "Bearer garbage"}).status for _ in range(8)]
    assert statuses == [401] * 5 + [429] * 3


def test_headers_sizes_and_time(behind_envoy: Start, cluster: Cluster) -> None:
    behind = behind_envoy("--max-request-bytes", "100000")
    who = behind.bearer()
    metadata = tuple(who.items())

    # What speaks to Envoy from inside says nothing from outside.
    for name, value in (
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("x-forwarded-client-cert", "By=spiffe://x/admin"),
    ):
        answered = behind.json(ECHO, {"payload": "eA=="}, {**who, name: value})
        assert (answered.status, answered.headers["server"]) == (200, "rowcall"), name
        assert not [each for each in answered.headers if each.startswith("x-envoy")]
    # A tenant that contradicts the token is refused by the gateway.
    assert behind.json(ECHO, {"payload": ""}, {**who, "rowcall-tenant": "rival"}).status in (401, 403)
    assert behind.json(ECHO, {"payload": ""}, {**who, "x_underscored": "1"}).status == 400

    # Sizes: Envoy's own, then the gateway's, with its reason.
    assert behind.json(ECHO, {"payload": ""}, {**who, "x-large": "y" * 20_000}).status == 431
    too_large = behind.json(ECHO, {"payload": "A" * 400_000}, who)
    assert [each["reason"] for each in too_large.json["details"] if "reason" in each] == ["REQUEST_TOO_LARGE"]
    assert behind.json("/rowcall.probe.v1.ProbeService/Nothing", {}, who).status == 404

    # Time: a call may wait, and its own deadline is the gateway's, which says what became of the job.
    with behind.channel() as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        waited = probe.Await(AwaitRequest(payload=b"z", work=Duration(seconds=3)), timeout=60, metadata=metadata)
        assert waited.payload == b"z"
        still = code_of(lambda: probe.Await(AwaitRequest(work=Duration(seconds=60)), timeout=2, metadata=metadata))
        assert still == (grpc.StatusCode.DEADLINE_EXCEEDED, "STILL_RUNNING")
    by_json = behind.json("/rowcall.probe.v1.ProbeService/Await", {"work": "60s"}, {**who, "grpc-timeout": "2S"})
    assert by_json.status == 504
    assert [each["reason"] for each in by_json.json["details"] if "reason" in each] == ["STILL_RUNNING"]

    # A browser asks first.
    asked = behind.http(
        ECHO,
        b"",
        {
            "origin": "https://console.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-grpc-web",
        },
        method="OPTIONS",
    )
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, "https://console.example")
    assert (
        "access-control-allow-origin"
        not in behind.http(
            ECHO, b"", {"origin": "https://evil.example", "access-control-request-method": "POST"}, method="OPTIONS"
        ).headers
    )


def test_a_gateway_that_goes_is_left_alone_and_no_call_is_made_twice(behind_envoy: Start, cluster: Cluster) -> None:
    """There is another gateway, which would take the call: it has no key, and must not be made again."""
    behind = behind_envoy("--processes", "2", "--grace", "2s")
    metadata = tuple(behind.bearer().items())
    with behind.channel() as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        going = probe.Await.future(AwaitRequest(work=Duration(seconds=60)), timeout=60, metadata=metadata)
        held(lambda: bool(jobs(cluster, "name")))
        for member in behind.system.members().values():
            if not going.done():
                os.kill(member, signal.SIGKILL)
                with suppress(grpc.FutureTimeoutError):
                    going.exception(timeout=3)
        error = going.exception(timeout=END_SECONDS)
        # INTERNAL where the operation's name had gone ahead of the answer: the stream is then broken off.
        assert cast("grpc.Call", error).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
        # What comes after it gets through, whoever serves it.
        later = held(lambda: probe.Run(RunRequest(), timeout=10, metadata=(*metadata, ("prefer", "wait=0"))))
        assert later.name in {name for (name,) in jobs(cluster, "name")}
        assert len(jobs(cluster, "name")) == 2

        behind.system.process.kill()
        assert behind.system.all_gone()
        gone = code_of(lambda: probe.Run(RunRequest(), timeout=10, metadata=metadata))
        assert gone[0] is grpc.StatusCode.UNAVAILABLE
        # Whoever balances over Envoys is told.
        held(lambda: behind.http("/healthz", b"", method="GET").status == 503)


def test_a_call_that_a_gateway_may_have_begun_is_made_once(behind_envoy: Start, cluster: Cluster) -> None:
    """Nothing of its answer has come yet, so Envoy could make it again; and cannot know that its row is being written."""
    behind = behind_envoy("--processes", "2", "--grace", "2s")
    with ExitStack() as stack:
        for dsn in cluster.shards.values():
            stack.enter_context(psycopg.connect(dsn)).execute("lock table rowcall.job in exclusive mode")
        channel = stack.enter_context(behind.channel())
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        metadata = (*behind.bearer().items(), ("prefer", "wait=0"))
        going = probe.Run.future(RunRequest(), timeout=60, metadata=metadata)

        os.kill(held(lambda: writing(cluster, behind.system.members().values())), signal.SIGKILL)

        # The other one would wait for the lock, too.
        assert cast("grpc.Call", going.exception(timeout=10)).code() is grpc.StatusCode.UNAVAILABLE
    assert len(jobs(cluster, "name")) <= 1


def writing(cluster: Cluster, processes: Iterable[int]) -> int | None:
    """Which of these processes submits, and waits for a lock."""
    ports: set[int] = set()
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            found = connection.execute(
                "select client_port from pg_stat_activity where wait_event_type = 'Lock' and query like '%submit_jobs%'"
            )
            ports.update(port for (port,) in found)
    for process in processes:
        if any(each.laddr.port in ports for each in psutil.Process(process).net_connections("tcp")):
            return process
    return None


def held(look: Callable[[], T | None]) -> T:
    """Waits until something holds, and is not refused; what it gives."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        with suppress(grpc.RpcError):
            if found := look():
                return found
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_certificate_is_exchanged_without_a_restart(behind_envoy: Start) -> None:
    behind = behind_envoy()
    metadata = tuple(behind.bearer().items())
    before = serial_of(behind)
    with behind.channel() as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        probe.Echo(EchoRequest(), timeout=30, metadata=metadata)

        exchange(behind)

        held(lambda: serial_of(behind) != before)
        assert probe.Echo(EchoRequest(payload=b"old"), timeout=30, metadata=metadata).payload == b"old"
    with behind.channel() as channel:
        answer = probe_pb2_grpc.ProbeServiceStub(channel).Echo(
            EchoRequest(payload=b"new"), timeout=30, metadata=metadata
        )
    assert answer.payload == b"new"


def test_no_token_is_in_what_it_writes_and_who_connects_is_whom_it_names(behind_envoy: Start) -> None:
    behind = behind_envoy()
    who = behind.bearer()
    elsewhere = {"x-forwarded-for": "10.9.8.7"}
    assert behind.json(ECHO, {"payload": "c2VjcmV0LXBheWxvYWQ="}, {**who, **elsewhere}).status == 200
    assert behind.json(ECHO, {"payload": ""}, {"authorization": "Bearer garbage-token"}).status == 401
    deadline = time.monotonic() + END_SECONDS
    # Its lines are written in time, ten seconds at most by themselves.
    while "".join(behind.log).count('"method"') < 2:
        assert time.monotonic() < deadline, "".join(behind.log)
        time.sleep(0.1)
    written = "".join(behind.log)
    for secret in (
        who["authorization"].removeprefix("Bearer "),
        "garbage-token",
        "c2VjcmV0LXBheWxvYWQ=",
        "secret-payload",
    ):
        assert secret not in written
    assert '"http_status":401' in written.replace(" ", "")
    assert '"peer":"127.0.0.1"' in written.replace(" ", "")
    assert elsewhere["x-forwarded-for"] not in written, "what a caller says of where it calls from"


def test_the_files_are_the_ones_that_the_readme_names() -> None:
    folder = Path(__file__).parents[3] / "deploy" / "envoy"
    readme = (folder / "README.md").read_text("utf-8")
    assert {path.name for path in folder.iterdir()} == {"README.md", "envoy.yaml", "certificate.yaml"}
    for name in ("envoy.yaml", "certificate.yaml", "images.binpb"):
        assert f"`{name}`" in readme
    assert Operation.DESCRIPTOR.full_name.startswith("google.longrunning")
