"""Whose a call is, and where callers who are merely believed may be served."""

from __future__ import annotations

from typing import cast

import pytest

from rowcall.address import Address
from rowcall.errors import RowcallError, reason_name
from rowcall.security.roles import ADMIN
from rowcall_gateway.edge.identity import (
    BelievedCallers,
    IdentityMode,
    Peer,
    Principal,
    ServicerContext,
    check_address,
)
from rowcall_gateway.edge.metadata import CallMetadata

NOBODY = Peer((), cast("ServicerContext", None))
"""Of whom the transport says nothing: it is not asked."""


async def resolved(metadata: CallMetadata) -> Principal:
    return await BelievedCallers().resolve(metadata, NOBODY)


async def test_a_caller_is_believed() -> None:
    principal = await resolved(CallMetadata(tenant="acme", actor="ada"))
    assert (principal.tenant, principal.actor) == ("acme", "ada")
    assert principal.has_role({ADMIN})
    assert principal.has_scopes({"anything"}), "there is no credential that could lack it"
    principal = await resolved(CallMetadata())
    assert (principal.tenant, principal.actor) == ("default", None)


@pytest.mark.parametrize("name", ["", "Acme", "a_b", "-a", "a-", "x" * 64, "a/b", "a b", "ü"])
async def test_a_name_that_is_no_tenants_is_refused(name: str) -> None:
    with pytest.raises(RowcallError) as refused:
        await resolved(CallMetadata(tenant=name))
    assert reason_name(refused.value.reason) == "INVALID_TENANT"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_loopback_address_is_fine_for_development(host: str) -> None:
    check_address(IdentityMode.INSECURE_DEV, host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", "2001:db8::1", "localhost.example.org"])
def test_believed_callers_are_not_served_to_the_network_unless_it_is_said(host: str) -> None:
    with pytest.raises(ValueError, match="ROWCALL_IDENTITY=insecure-network"):
        check_address(IdentityMode.INSECURE_DEV, host)
    check_address(IdentityMode.INSECURE_NETWORK, host)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:50051", "127.0.0.1", 50051), ("[::1]:0", "::1", 0), ("localhost:65535", "localhost", 65535)],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "127.0.0.1", ":50051", "::1:50051", "[::1]", "a:b", "a:65536", "[a]:1", "a:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|ports end at"):
        Address.parse(text)
