"""The access table held against callers: who is let in, what a refusal says, who sees payloads."""

from __future__ import annotations

from types import MappingProxyType
from typing import cast

import grpc
import pytest

from rowcall.catalogue.access import Source
from rowcall.catalogue.grants import AccessTable, MethodAccess
from rowcall.errors import RowcallError, reason_name
from rowcall.security.access import CLOSED, AccessRule
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.access import Rights
from rowcall_gateway.edge.identity import Peer, Principal
from rowcall_gateway.edge.metadata import CallMetadata

BUY, PAY, SHUT, OPEN = "acme.v1.Shop/Buy", "acme.v1.Shop/Pay", "acme.v1.Shop/Shut", "acme.v1.Shop/Open"
GONE = "acme.v1.Shop/Gone"
"""A method that this gateway does not serve."""

RULES = {
    BUY: AccessRule(frozenset({"caller"})),
    PAY: AccessRule(frozenset({"caller", "clerk"}), frozenset({"pay", "shop"})),
    SHUT: CLOSED,
    OPEN: AccessRule(public=True),
    "acme.v1.Every/*": AccessRule(frozenset({"caller"})),
}
NO_PEER = cast("Peer", None)
SAYS_NOTHING = CallMetadata()


def table(default: AccessRule | None = None) -> AccessTable:
    methods = {name: MethodAccess(rule, Source.OWN) for name, rule in RULES.items()}
    return AccessTable(MappingProxyType(methods), default, (), ())


def known(*roles: str, scopes: str = "", tenant: str = "acme") -> Principal:
    return Principal(tenant, "ada", frozenset(roles), frozenset(scopes.split()), credential="test")


RIGHTS = Rights(table(), public_tenant="public")


async def admitted(
    principal: Principal | RowcallError, method: str, metadata: CallMetadata = SAYS_NOTHING, rights: Rights = RIGHTS
) -> Principal:
    async def resolve(_metadata: CallMetadata, _peer: Peer) -> Principal:
        if isinstance(principal, RowcallError):
            raise principal
        return principal

    found = await rights.identifying(f"/{method}", resolve)(metadata, NO_PEER)
    rights.admitting(f"/{method}")(found)
    return found


async def denied(principal: Principal, method: str) -> RowcallError:
    with pytest.raises(RowcallError) as caught:
        await admitted(principal, method)
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    # Named in a request it is refused for the same reason, with where it is named.
    with pytest.raises(RowcallError) as named:
        RIGHTS.check(principal, method, field="job.method")
    assert (named.value.reason, named.value.metadata) == (caught.value.reason, caught.value.metadata)
    assert named.value.message == f"job.method {caught.value.message}"
    return caught.value


@pytest.mark.parametrize(
    ("principal", "method"),
    [
        (known("caller"), BUY),
        (known("viewer", "caller"), BUY),
        (known("clerk", scopes="pay shop more"), PAY),
        (known("caller"), "acme.v1.Every/Thing"),
        (Principal("acme", believed=True), PAY),
        (Principal("acme", believed=True), SHUT),
    ],
)
async def test_who_may_call_is_let_in_as_the_credential_has_it(principal: Principal, method: str) -> None:
    assert await admitted(principal, method) is principal
    RIGHTS.check(principal, method)


async def test_a_missing_role_is_named_with_those_that_would_do() -> None:
    error = await denied(known("viewer", "admin"), PAY)
    assert reason_name(error.reason) == "MISSING_ROLE"
    assert error.message == f"{PAY} is for callers with the role caller or clerk; this one has admin, viewer."
    assert error.metadata == {"method": PAY, "roles": "caller, clerk", "scopes": "pay, shop"}

    error = await denied(known(), BUY)
    assert error.message == f"{BUY} is for callers with the role caller; this one has none."
    assert error.metadata == {"method": BUY, "roles": "caller"}


async def test_missing_scopes_are_named() -> None:
    error = await denied(known("caller", scopes="shop"), PAY)
    assert reason_name(error.reason) == "MISSING_SCOPE"
    assert error.metadata == {"method": PAY, "scopes": "pay"}


async def test_a_closed_method_is_for_nobody() -> None:
    error = await denied(known("admin", "caller", "operator"), SHUT)
    assert reason_name(error.reason) == "METHOD_CLOSED"
    assert error.metadata == {"method": SHUT}


async def test_a_method_that_nobody_serves_is_no_secret_from_those_who_are_known() -> None:
    """They are told that there is none; those who are nobody are refused first."""
    principal = known()
    assert await admitted(principal, GONE) is principal


NO_CREDENTIAL = RowcallError(ErrorReason.ERROR_REASON_CREDENTIALS_REQUIRED, "Bring one.")


async def test_a_public_method_needs_no_credential() -> None:
    nobody = await admitted(NO_CREDENTIAL, OPEN)
    assert (nobody.tenant, nobody.actor, nobody.roles, nobody.believed) == ("public", None, frozenset(), False)
    assert await admitted(NO_CREDENTIAL, OPEN, CallMetadata(tenant="public")) == nobody
    # With one, it is that which counts.
    assert (await admitted(known(), OPEN)).tenant == "acme"


@pytest.mark.parametrize("metadata", [CallMetadata(tenant="acme"), CallMetadata(actor="ada")])
async def test_without_a_credential_nobody_says_who_calls(metadata: CallMetadata) -> None:
    with pytest.raises(RowcallError) as caught:
        await admitted(NO_CREDENTIAL, OPEN, metadata)
    assert reason_name(caught.value.reason) == "IDENTITY_MISMATCH"


@pytest.mark.parametrize("method", [BUY, SHUT, GONE])
async def test_any_other_method_needs_one(method: str) -> None:
    with pytest.raises(RowcallError) as caught:
        await admitted(NO_CREDENTIAL, method)
    assert caught.value is NO_CREDENTIAL


async def test_a_credential_that_is_brought_to_a_public_method_must_be_good() -> None:
    bad = RowcallError(ErrorReason.ERROR_REASON_TOKEN_INVALID, "It is bad.")
    with pytest.raises(RowcallError) as caught:
        await admitted(bad, OPEN)
    assert caught.value is bad


@pytest.mark.parametrize(
    ("principal", "seen"),
    [
        (Principal("acme", believed=True), {BUY, PAY, SHUT, OPEN, GONE}),
        (known("payload-viewer"), {BUY, PAY, SHUT, OPEN, GONE}),
        (known("viewer", "payload-viewer"), {BUY, PAY, SHUT, OPEN, GONE}),
        # Whoever may call a method sees what it was asked and answered.
        (known("caller"), {BUY, OPEN}),
        (known("caller", scopes="pay shop"), {BUY, PAY, OPEN}),
        (known("clerk", scopes="pay shop"), {PAY}),
        (known("viewer"), set()),
        (known("operator"), set()),
        (known("admin"), set()),
        (known("admin", "operator", "viewer"), set()),
        (known(), set()),
        # Without a credential there is nothing to ask for but the answer to that very call.
        (Principal("public"), {OPEN}),
    ],
)
def test_who_sees_payloads_of_which_methods(principal: Principal, seen: set[str]) -> None:
    assert {method for method in (BUY, PAY, SHUT, OPEN, GONE) if RIGHTS.sees_payloads(principal, method)} == seen


def test_a_method_that_is_not_served_has_the_default_rule() -> None:
    rights = Rights(table(AccessRule(frozenset({"caller"}))))
    assert rights.sees_payloads(known("caller"), GONE)
    assert not rights.sees_payloads(known("viewer"), GONE)
    # A default is for what says nothing: not for what is closed.
    assert not rights.sees_payloads(known("caller"), SHUT)


@pytest.mark.parametrize(
    ("role", "told"),
    [("operator", True), ("admin", True), ("caller", False), ("viewer", False), ("payload-viewer", False)],
)
def test_where_a_handler_raised_is_for_those_who_look_after_it(role: str, told: bool) -> None:
    assert RIGHTS.sees_locations(known(role)) is told
