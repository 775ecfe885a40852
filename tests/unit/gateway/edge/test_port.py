"""Where a gateway that takes tokens may have a port without TLS, and when gRPC is given another certificate."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from rowcall.address import Address
from rowcall_gateway.edge.identity import IdentityMode
from rowcall_gateway.edge.port import Plaintext, check_plaintext, open_port

TOKENS = [IdentityMode.JWT, IdentityMode.JWT_MTLS]
LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "localhost"]
OTHERS = ["0.0.0.0", "::", "10.0.0.1", "gateway.example", "fe80::1"]


@pytest.mark.parametrize("identity", TOKENS)
@pytest.mark.parametrize("host", OTHERS)
def test_tokens_are_not_taken_without_tls_from_elsewhere(identity: IdentityMode, host: str) -> None:
    with pytest.raises(ValueError, match="everybody on the way") as refused:
        check_plaintext(identity, Plaintext.LOOPBACK, host)
    for todo in ("ROWCALL_TLS_CERT", "ROWCALL_TLS_KEY", "ROWCALL_PLAINTEXT=behind-proxy", repr(host)):
        assert todo in str(refused.value)

    check_plaintext(identity, Plaintext.BEHIND_PROXY, host)


@pytest.mark.parametrize("identity", TOKENS)
@pytest.mark.parametrize("host", LOOPBACK)
def test_they_are_on_the_machine_itself(identity: IdentityMode, host: str) -> None:
    check_plaintext(identity, Plaintext.LOOPBACK, host)


@pytest.mark.parametrize("identity", [mode for mode in IdentityMode if mode not in TOKENS])
def test_where_no_token_comes_there_is_none_to_be_read(identity: IdentityMode) -> None:
    check_plaintext(identity, Plaintext.LOOPBACK, "0.0.0.0")


class Certificate:
    """What is served with, as long as it is not exchanged."""

    asks_callers = False

    def __init__(self) -> None:
        self.current = grpc.ssl_server_certificate_configuration([(b"key", b"certificate")])

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return self.current


class Opened:
    """What gRPC asks at each handshake, of a port that was opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, certificate: Certificate) -> None:
        found: list[Any] = []

        def credentials(given: Any, fetch: Any, asks: bool) -> Any:
            found.extend((given, fetch, asks))
            return grpc.dynamic_ssl_server_credentials(given, fetch, asks)

        class Server:
            def add_secure_port(self, _address: str, _credentials: Any) -> int:
                return 1

        class Grpc:
            dynamic_ssl_server_credentials = staticmethod(credentials)

        monkeypatch.setattr("rowcall_gateway.edge.port.grpc", Grpc)
        server: Any = Server()
        open_port(server, Address("127.0.0.1", 0), certificate)
        self.given, self.fetch, self.asks = found


def test_grpc_is_given_a_certificate_when_there_is_another_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = Certificate()
    opened = Opened(monkeypatch, certificate)
    naps: list[float] = []
    monkeypatch.setattr("rowcall_gateway.edge.port.time.sleep", naps.append)

    assert opened.given is certificate.current
    assert [opened.fetch() for _ in range(3)] == [None, None, None]
    assert not naps

    certificate.current = Certificate().current
    assert opened.fetch() is certificate.current
    # Of many, as a process that is stopped lets one pass without having run.
    assert len(naps) == 10
    assert sum(naps) == pytest.approx(0.5)
    assert [opened.fetch() for _ in range(3)] == [None, None, None]
    assert len(naps) == 10
