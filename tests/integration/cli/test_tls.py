"""The command over TLS, against servers that speak it well, badly, or not at all: what it says where gRPC says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import grpc
import pytest

from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import queue_service_pb2
from rowcall_cli.errors import ExitCode
from tests.fix_commands import Ran
from tests.support.pki import DAY, Authority, Files, Issued

NAME: Final = "gateway.example"
MARKER: Final = "eyJ.geheim.4111"
START_ONE: Final = "Start one (rowcall dev)"

OURS = Authority("Ours")
CALLERS = Authority("Callers")
OTHERS = Authority("Others")

Rowcall = Callable[..., Ran]


class Servers(grpc.GenericRpcHandler):
    """Start servers that know one queue and echo probes, and note what they are called with."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.heard: list[dict[str, str | bytes]] = []
        """The metadata of each call."""
        self.callers: list[bytes] = []
        """The certificate of each call's connection."""
        self.on_call: Callable[[], None] = lambda: None

    def start(self, shown: Issued | None = None, *, callers: Authority | None = None) -> str:
        """A server's address. With a certificate it speaks TLS, and asks for a caller's where who signs those is named."""
        server = grpc.server(self._stack.enter_context(ThreadPoolExecutor(4)))
        server.add_generic_rpc_handlers((self,))
        if shown is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pairs = [(shown.key_pem, shown.cert_pem)]
            roots = None if callers is None else callers.pem
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pairs, roots, roots is not None))
        server.start()
        self._stack.callback(lambda: server.stop(0).wait())
        return f"127.0.0.1:{port}"

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """As gRPC calls it."""
        echo = str(handler_call_details.method).endswith("/Echo")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.heard.append({str(key): value for key, value in context.invocation_metadata()})
            # The stubs have one value where there are several.
            shown: Any = context.auth_context().get("x509_pem_cert", ())
            self.callers += shown
            self.on_call()
            if echo:
                asked = probe_pb2.EchoRequest.FromString(request)
                return probe_pb2.EchoResponse(payload=asked.payload, worker="w").SerializeToString()
            queue = queue_service_pb2.Queue(name="only-one")
            return queue_service_pb2.ListQueuesResponse(queues=[queue]).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The caller's certificate, and who signed the gateway's."""
    files = Files(tmp_path)
    files.put(CALLERS.issue("caller.example"), OURS.pem)
    return files


def failed(ran: Ran) -> str:
    """What is said of a gateway that cannot be called."""
    assert ran.code == ExitCode.UNREACHABLE, ran.err
    assert "Traceback" not in ran.err
    return ran.err


def trusting(files: Files, name: str = NAME) -> tuple[str, ...]:
    return ("--tls-ca", str(files.ca), "--tls-name", name)


def showing(files: Files) -> tuple[str, ...]:
    return ("--tls-cert", str(files.cert), "--tls-key", str(files.key))


def listing(address: str, *flags: str) -> tuple[str, ...]:
    return ("queues", "list", "--address", address, *flags)


def test_a_gateway_is_called_over_tls(rowcall: Rowcall, servers: Servers, files: Files) -> None:
    ran = rowcall(*listing(servers.start(OURS.issue(NAME)), *trusting(files)))

    assert (ran.code, ran.err) == (0, "")
    assert "only-one" in ran.out
    assert servers.heard[0]["rowcall-tenant"] == "default"


def test_the_environment_says_it_as_well(rowcall: Rowcall, servers: Servers, files: Files) -> None:
    ran = rowcall(
        *listing(servers.start(OURS.issue(NAME), callers=CALLERS)),
        ROWCALL_CLI_TLS="true",
        ROWCALL_CLI_TLS_CA=str(files.ca),
        ROWCALL_CLI_TLS_CERT=str(files.cert),
        ROWCALL_CLI_TLS_KEY=str(files.key),
        ROWCALL_CLI_TLS_NAME=NAME,
    )
    assert ran.code == 0, ran.err
    # The certificate says whose call it is.
    assert "rowcall-tenant" not in servers.heard[0]
    assert servers.callers == [files.cert.read_bytes()]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (OTHERS.issue(NAME), "signed by nobody in"),
        (OURS.issue("other.example"), f"is not for '{NAME}'"),
        (OURS.issue("10.0.0.9"), f"is not for '{NAME}'"),
        (OURS.issue(NAME, begins=-2 * DAY, ends=-DAY), "has expired"),
        (OURS.issue(NAME, begins=DAY, ends=2 * DAY), "not valid yet, by this machine's clock"),
        (None, "It speaks no TLS"),
    ],
)
def test_what_is_wrong_with_a_gateway_is_told(
    rowcall: Rowcall, servers: Servers, files: Files, shown: Issued | None, said: str
) -> None:
    assert said in failed(rowcall(*listing(servers.start(shown), *trusting(files))))
    assert servers.heard == []


def test_the_name_of_the_address_must_be_the_certificates(rowcall: Rowcall, servers: Servers, files: Files) -> None:
    address = servers.start(OURS.issue(NAME))
    said = failed(rowcall(*listing(address, "--tls-ca", str(files.ca))))
    assert "is not for '127.0.0.1'" in said
    assert "--tls-name" in said


def test_a_signer_of_ones_own_must_be_named(rowcall: Rowcall, servers: Servers, files: Files) -> None:
    address = servers.start(OURS.issue(NAME))
    assert "with --tls-ca FILE" in failed(rowcall(*listing(address, "--tls", "--tls-name", NAME)))


def test_a_gateway_that_speaks_tls_is_told_of_to_who_does_not(rowcall: Rowcall, servers: Servers) -> None:
    assert "It speaks TLS: say --tls" in failed(rowcall(*listing(servers.start(OURS.issue(NAME)))))


def test_callers_certificates_are_asked_for(rowcall: Rowcall, servers: Servers, files: Files) -> None:
    address = servers.start(OURS.issue(NAME), callers=CALLERS)

    assert rowcall(*listing(address, *trusting(files), *showing(files))).code == 0
    said = failed(rowcall(*listing(address, *trusting(files))))
    assert "asks for the caller's certificate: name one with --tls-cert and --tls-key" in said
    for wrong in (OTHERS.issue("x"), CALLERS.issue("x", begins=-2 * DAY, ends=-DAY)):
        files.put(wrong, OURS.pem)
        said = failed(rowcall(*listing(address, *trusting(files), *showing(files))))
        assert "does not take the caller's certificate" in said


def test_a_gateway_that_is_not_there_is_not_blamed_on_tls(rowcall: Rowcall, servers: Servers, files: Files) -> None:
    assert START_ONE in failed(rowcall(*listing("127.0.0.1:1", *trusting(files))))
    assert START_ONE in failed(rowcall(*listing("127.0.0.1:1")))


def test_a_token_goes_with_every_call(rowcall: Rowcall, servers: Servers, files: Files, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(MARKER)
    address = servers.start(OURS.issue(NAME))

    assert rowcall(*listing(address, *trusting(files), "--token-file", str(token))).code == 0
    assert rowcall(*listing(address, *trusting(files)), ROWCALL_TOKEN=MARKER).code == 0
    assert rowcall(*listing(address, *trusting(files), "--tenant", "acme"), ROWCALL_TOKEN=MARKER).code == 0
    assert [call["authorization"] for call in servers.heard] == [f"Bearer {MARKER}"] * 3
    assert [call.get("rowcall-tenant") for call in servers.heard] == [None, None, "acme"]


def test_a_token_does_not_leave_the_machine_without_tls(rowcall: Rowcall) -> None:
    ran = rowcall(*listing("gateway.example:50051"), ROWCALL_TOKEN=MARKER)
    assert ran.code == ExitCode.USAGE
    assert "without TLS" in ran.err
    assert MARKER not in ran.err


def test_what_runs_for_long_has_the_token_and_the_certificate_of_the_hour(
    rowcall: Rowcall, servers: Servers, files: Files, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    address = servers.start(OURS.issue(NAME), callers=CALLERS)
    shown = [files.cert.read_bytes()]

    def exchange() -> None:
        number = len(servers.heard)
        token.write_text(f"{MARKER}-{number}")
        files.put(CALLERS.issue("caller.example"), OURS.pem)
        shown.append(files.cert.read_bytes())

    token.write_text(f"{MARKER}-0")
    servers.on_call = exchange
    ran = rowcall(
        *("probe", "--count", "3", "--address", address, "--token-file", str(token)), *trusting(files), *showing(files)
    )

    assert ran.code == 0, ran.err
    assert [call["authorization"] for call in servers.heard] == [f"Bearer {MARKER}-{number}" for number in range(3)]
    assert servers.callers == shown[:3]
    assert MARKER not in ran.out + ran.err


def test_probes_tell_what_is_wrong_too(rowcall: Rowcall, servers: Servers, files: Files) -> None:
    address = servers.start(OTHERS.issue(NAME))
    assert "signed by nobody in" in failed(rowcall("probe", "--address", address, *trusting(files)))


def test_what_a_command_is_for_goes_with_its_calls_in_any_language(rowcall: Rowcall, servers: Servers) -> None:
    address = servers.start()
    assert rowcall(*listing(address, "--reason", "Übung 7, 100 % \n")).code == ExitCode.OK
    assert rowcall(*listing(address), ROWCALL_REASON="drill", ROWCALL_TOKEN="abc").code == ExitCode.OK
    assert rowcall(*listing(address)).code == ExitCode.OK
    assert [unquote(str(each.get("rowcall-reason", ""))) for each in servers.heard] == [
        "Übung 7, 100 % \n",
        "drill",
        "",
    ]
    assert servers.heard[1]["authorization"] == "Bearer abc"
    for wrong in ("", "x" * 1001):
        refused = rowcall(*listing(address, "--reason", wrong))
        assert (refused.code, "--reason has" in refused.err) == (ExitCode.USAGE, True)
