"""Where a gateway that takes tokens may have a port without TLS."""

from __future__ import annotations

import pytest

from rowcall_gateway.edge.identity import IdentityMode
from rowcall_gateway.edge.port import Plaintext, check_plaintext

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
