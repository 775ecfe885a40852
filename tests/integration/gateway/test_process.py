"""`rowcall-gateway` as a process: its ready line, signals, exit codes, log, health check, spans, reflection."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

from rowcall.errors import read_envelope, status_of
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from tests.fix_cluster import Cluster
from tests.fix_commands import environment
from tests.fix_gateway import jobs, keyed, tenant
from tests.fix_images import ImageBuilder
from tests.fix_services import END_SECONDS, ServiceProcess, Services
from tests.support.collector import Collector

NOW = ("prefer", "wait=0")
BIN = Path(sys.executable).parent


def submit(address: str, payload: bytes = b"4111-1111") -> str:
    """Submits a job over a connection of its own; the operation's name."""
    with grpc.insecure_channel(address) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        return probe.Run(RunRequest(payload=payload), timeout=20, metadata=tenant("acme", *keyed("k", NOW))).name


def healthcheck(address: str) -> tuple[int, str]:
    """What the health check says of a gateway that is told to listen there: exit code and line."""
    ended = subprocess.run(
        [sys.executable, "-m", "rowcall_gateway.healthcheck"],
        env=environment({"ROWCALL_LISTEN": address}),
        capture_output=True,
        check=False,
        text=True,
        timeout=END_SECONDS,
    )
    return ended.returncode, ended.stdout.strip()


def test_it_is_ready_serves_logs_and_drains(services: Services, cluster: Cluster) -> None:
    gateway = services.gateway()
    address = gateway.address()
    assert address.startswith("127.0.0.1:")

    name = submit(address)
    assert jobs(cluster, "name") == [(name,)]
    assert healthcheck(address) == (0, f"rowcall-gateway: {address} is SERVING")

    assert gateway.end() == 0
    code, line = healthcheck(address)
    assert (code, line) == (1, f"rowcall-gateway: {address} does not answer: UNAVAILABLE")
    lines = [json.loads(line) for line in gateway.log]
    (call,) = [line for line in lines if line["event"] == "call"]
    assert (call["method"], call["code"], call["tenant"]) == ("rowcall.probe.v1.ProbeService/Run", "OK", "acme")
    assert (call["request_id"], call["job"], call["service"]) == ("k", name, "gateway")
    assert len(call["trace_id"]) == 32
    assert all("unlisted" not in line for line in lines), "every field is one that may be written"
    assert "4111" not in "".join(gateway.log)


def test_it_drains_while_a_call_waits(services: Services, cluster: Cluster) -> None:
    gateway = services.gateway(ROWCALL_GRACE="1s")
    with grpc.insecure_channel(gateway.address()) as channel, ThreadPoolExecutor(1) as thread:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        call = thread.submit(lambda: probe.Echo(EchoRequest(), timeout=60))
        end = time.monotonic() + END_SECONDS
        while not jobs(cluster, "name"):
            assert time.monotonic() < end

        started = time.monotonic()
        assert gateway.end() == 0

        assert time.monotonic() - started < 10
        with pytest.raises(grpc.RpcError) as error:
            call.result()
        info = read_envelope(status_of(error.value))
        assert info is not None
        assert info.reason == "GATEWAY_DRAINING"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(services: Services, cluster: Cluster, number: signal.Signals) -> None:
    gateway = services.gateway(ROWCALL_GRACE="1h", ROWCALL_DRAIN_NOTICE="1h")
    submit(gateway.address())

    gateway.process.send_signal(number)
    end = time.monotonic() + END_SECONDS
    while not any('"draining"' in line for line in gateway.log):
        assert time.monotonic() < end

    assert gateway.end(number) == 128 + number
    assert len(jobs(cluster, "name")) == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ROWCALL_LISTEN": "0.0.0.0:0", "ROWCALL_MAX_WAITERS": "0"}, ["insecure-network", "ROWCALL_MAX_WAITERS"]),
        (
            {
                "ROWCALL_LISTEN": "0.0.0.0:0",
                "ROWCALL_IDENTITY": "unknown",
                "ROWCALL_IMAGES": "/no/such/image.binpb",
                "ROWCALL_CATALOGUE": "postgresql://u:s3cret@h:99999/c",
            },
            [
                "ROWCALL_LISTEN (--listen) names '0.0.0.0'",
                "ROWCALL_IDENTITY (--identity)",
                "ROWCALL_IMAGES (--image) names what cannot be read: '/no/such/image.binpb'",
                "ROWCALL_CATALOGUE (--catalogue) has the port '99999'",
            ],
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "zipkin"},
            ["OTEL_TRACES_EXPORTER is 'zipkin'"],
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "prometheus"},
            ["OTEL_METRICS_EXPORTER is 'prometheus'; this process has otlp and none"],
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"},
            ["OTEL_EXPORTER_OTLP_COMPRESSION is 'zstd'; this process has gzip"],
        ),
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, ["OTEL_TRACES_SAMPLER is 'sometimes'; this process has always_on, "]),
        (
            {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:1", "OTEL_LOGS_EXPORTER": "console"},
            ["OTEL_LOGS_EXPORTER is 'console'"],
        ),
        (
            {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/json"},
            ["OTEL_EXPORTER_OTLP_LOGS_PROTOCOL is 'http/json'"],
        ),
    ],
)
def test_wrong_settings_are_named_and_end_it_with_2(
    services: Services, variables: dict[str, str], said: list[str]
) -> None:
    gateway = services.start("rowcall-gateway", **variables)

    assert gateway.process.wait(END_SECONDS) == 2
    gateway._reader.join(END_SECONDS)
    assert all(word in "".join(gateway.log) for word in said)


def test_a_network_address_needs_a_word_and_gets_a_warning(services: Services) -> None:
    gateway = services.gateway("0.0.0.0:0", ROWCALL_IDENTITY="insecure-network")
    address = gateway.address()

    submit(address.replace("0.0.0.0", "127.0.0.1"))
    assert healthcheck(address)[0] == 0
    assert gateway.end() == 0
    (warning,) = [line for line in map(json.loads, gateway.log) if "EVERY CALLER IS BELIEVED" in line["event"]]
    assert warning["level"] == "warning"


def refusal(gateway: ServiceProcess) -> tuple[int, str]:
    code = gateway.process.wait(END_SECONDS)
    gateway._reader.join(END_SECONDS)
    return code, "".join(line for line in gateway.log if line.startswith("rowcall-gateway: "))


def test_what_keeps_it_from_starting_is_said_and_ends_it_with_1(services: Services) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = refusal(services.gateway(f"127.0.0.1:{taken.getsockname()[1]}"))
    assert (code, "cannot listen on 127.0.0.1" in said) == (1, True)


def test_images_that_cannot_be_served_are_said_and_end_it_with_2(
    services: Services, tmp_path: Path, build_image: ImageBuilder
) -> None:
    """As settings do: starting it again would not mend them."""
    (tmp_path / "not-an-image").write_text("hello")
    code, said = refusal(services.gateway("127.0.0.1:0", "--image", str(tmp_path / "not-an-image")))
    assert (code, "not-an-image" in said) == (2, True)

    ruled = SHOP.replace('{queue: "shop"};', '{queue: "shop"}; option (rowcall.options.v1.access) = {roles: "viewer"};')
    ruled = ruled.replace("options/v1/job.proto", 'options/v1/access.proto";\nimport "rowcall/options/v1/job.proto')
    image = build_image({"acme/v1/shop.proto": ruled})
    code, said = refusal(services.gateway("127.0.0.1:0", "--image", str(image)))
    assert code == 2
    assert said == (
        f"rowcall-gateway: acme/v1/shop.proto ({image}): method acme.v1.ShopService/Order: option (rowcall.options.v1.access) "
        "names the role 'viewer'; images may name caller, operator, admin, *: leave it out, or allow it by ROWCALL_IMAGE_ROLES "
        "(--image-role)\n"
    )


def test_spans_are_exported_where_the_environment_says(services: Services, collector: Collector) -> None:
    gateway = services.gateway(OTEL_TRACES_SAMPLER="always_on", **collector.variables)
    submit(gateway.address())

    # What is still in its buffer is sent when it ends.
    assert gateway.end() == 0

    assert {(each.service, each.span.name) for each in collector.spans} == {
        ("rowcall-gateway", "rowcall.probe.v1.ProbeService/Run"),
        ("rowcall-gateway", "send probe"),
    }


def test_heads_of_the_audit_are_exported_where_the_environment_says(
    services: Services, cluster: Cluster, collector: Collector
) -> None:
    with psycopg.connect(cluster.catalogue_dsn, autocommit=True) as connection:
        connection.execute("select rowcall_catalogue.record_action('{}', 'x', 'y', null, null)")
        row = connection.execute("select encode(hash, 'hex') from rowcall_catalogue.audit").fetchone()
    assert row is not None
    gateway = services.gateway(
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=collector.address,
        OTEL_EXPORTER_OTLP_INSECURE="true",
        OTEL_BLRP_SCHEDULE_DELAY="50",
    )
    gateway.address()
    end = time.monotonic() + END_SECONDS
    while not collector.records and time.monotonic() < end:
        time.sleep(0.05)
    assert gateway.end() == 0
    [(event, said)] = collector.records
    assert (event, said["rowcall.audit.database"], said["rowcall.audit.hash"]) == (
        "rowcall.audit.head",
        "catalogue",
        row[0],
    )


SHOP = """\
syntax = "proto3";
package acme.v1;
import "buf/validate/validate.proto";
import "rowcall/options/v1/job.proto";
service ShopService {
  rpc Order(OrderRequest) returns (OrderResponse) { option (rowcall.options.v1.job) = {queue: "shop"}; }
}
message OrderRequest { string item = 1 [(buf.validate.field).string.min_len = 1]; }
message OrderResponse { string receipt = 1; }
"""


def buf_curl(address: str, path: str, data: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A call with no proto at hand: buf asks the gateway's reflection for all it needs."""
    return subprocess.run(
        [
            BIN / "buf",
            "curl",
            "--protocol",
            "grpc",
            "--http2-prior-knowledge",
            "-d",
            data,
            *more,
            f"http://{address}/{path}",
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def list_services(address: str) -> subprocess.CompletedProcess[str]:
    """The services that reflection shows."""
    return subprocess.run(
        [BIN / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--list-services", f"http://{address}"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_buf_curl_calls_what_reflection_shows(services: Services, build_image: ImageBuilder) -> None:
    image = build_image({"acme/v1/shop.proto": SHOP})
    address = services.gateway("127.0.0.1:0", "--image", str(image)).address()
    services.worker().ready()

    listed = list_services(address)
    assert listed.returncode == 0
    assert set(listed.stdout.split()) == {
        "acme.v1.ShopService",
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "rowcall.probe.v1.ProbeService",
        "rowcall.v1.AccessService",
        "rowcall.v1.ActionService",
        "rowcall.v1.AdmissionService",
        "rowcall.v1.AuditService",
        "rowcall.v1.CatalogueService",
        "rowcall.v1.ErrorService",
        "rowcall.v1.JobService",
        "rowcall.v1.QueueService",
        "rowcall.v1.TenantService",
        "rowcall.v1.WorkerService",
    }

    echo = buf_curl(address, "rowcall.probe.v1.ProbeService/Echo", '{"payload": "aGVsbG8="}')
    assert json.loads(echo.stdout)["payload"] == "aGVsbG8="
    run = buf_curl(
        address, "rowcall.probe.v1.ProbeService/Run", '{"payload": "aGVsbG8="}', "--header", "prefer: wait=10"
    )
    operation = json.loads(run.stdout)
    assert operation["response"]["@type"] == "type.googleapis.com/rowcall.probe.v1.RunResponse"
    assert operation["metadata"]["state"] == "JOB_STATE_SUCCEEDED"
    got = buf_curl(address, "google.longrunning.Operations/GetOperation", json.dumps({"name": operation["name"]}))
    assert json.loads(got.stdout) == operation

    refused = json.loads(buf_curl(address, "acme.v1.ShopService/Order", "{}").stderr)
    assert refused["code"] == "invalid_argument"
    details = {each["type"]: base64.b64decode(each["value"] + "==") for each in refused["details"]}
    assert ErrorInfo.FromString(details["google.rpc.ErrorInfo"]).reason == "INVALID_REQUEST"
    (violation,) = BadRequest.FromString(details["google.rpc.BadRequest"]).field_violations
    assert (violation.field, violation.reason) == ("item", "string.min_len")


def test_two_images_with_two_versions_of_one_file_are_served_together(
    services: Services, tills: tuple[str, ...], cluster: Cluster
) -> None:
    """Each service is described, and its calls are read, as its own image has it. With grpcurl: tests/polyglot."""
    address = services.gateway("127.0.0.1:0", *tills).address()

    def pay(team: str, amount: dict[str, object]) -> dict[str, object]:
        """Nobody serves it, so its end is a refusal: that of a request that cannot be, or a job that waits."""
        data = json.dumps({"amount": amount})
        called = buf_curl(address, f"{team}.v1.TillService/Pay", data, "--header", "prefer: wait=0")
        return (
            cast("dict[str, object]", json.loads(called.stderr))
            if called.stderr.startswith("{")
            else {"said": called.stderr}
        )

    assert pay("blue", {"units": 3, "currency": "EUR"})["code"] == "deadline_exceeded"
    assert pay("red", {"units": 3})["code"] == "deadline_exceeded"
    assert "currency" in str(pay("red", {"units": 3, "currency": "EUR"})["said"]), "the client found no such field"
    assert sorted(jobs(cluster, "method")) == [("blue.v1.TillService/Pay",), ("red.v1.TillService/Pay",)]


def test_reflection_can_be_switched_off(services: Services) -> None:
    address = services.gateway(ROWCALL_REFLECTION="false").address()

    assert list_services(address).returncode != 0
    assert submit(address)
