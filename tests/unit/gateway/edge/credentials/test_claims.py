"""From claims to who calls, as different identity providers put them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall_gateway.edge.credentials.claims import principal_of
from rowcall_gateway.edge.credentials.issuers import Issuer
from rowcall_gateway.edge.identity import Principal, Proof

PROOF = cast("Proof", None)


def principal(said: dict[str, Any], /, **settings: Any) -> Principal:
    trusted = Issuer.model_validate({"issuer": "idp", "audiences": ["rowcall"], "keys": "keys.json", **settings})
    return principal_of(trusted, said, PROOF)


def refused(said: dict[str, Any], /, **settings: Any) -> str:
    with pytest.raises(RowcallError) as raised:
        principal(said, **settings)
    assert reason_name(raised.value.reason) == "TOKEN_INVALID"
    assert raised.value.metadata["problem"] == "claims"
    return raised.value.message


def test_plain_claims() -> None:
    found = principal(
        {"sub": "ada", "tenant": "acme", "roles": ["caller", "operator"], "scope": "jobs.write jobs.read"}
    )
    assert (found.tenant, found.actor) == ("acme", "ada")
    assert found.roles == {"caller", "operator"}
    assert found.scopes == {"jobs.write", "jobs.read"}
    assert (found.believed, found.any_tenant) == (False, False)
    assert found.credential == "jwt idp"


def test_as_keycloak_has_it() -> None:
    found = principal(
        {
            "sub": "7c9e",
            "preferred_username": "ada",
            "tenant": "acme",
            "realm_access": {"roles": ["offline_access", "rowcall-operator"]},
        },
        claims={"actor": "preferred_username", "roles": ["realm_access", "roles"]},
        role_names={"rowcall-operator": "operator"},
    )
    assert (found.actor, set(found.roles)) == ("ada", {"operator"})


def test_as_auth0_has_it() -> None:
    found = principal(
        {"sub": "auth0|7c9e", "https://rowcall.example/tenant": "acme", "permissions": ["jobs:write"]},
        claims={"tenant": "https://rowcall.example/tenant", "scopes": "permissions"},
        default_roles=["caller"],
    )
    assert (found.tenant, found.actor) == ("acme", "auth0|7c9e")
    assert (set(found.roles), set(found.scopes)) == ({"caller"}, {"jobs:write"})


def test_as_entra_has_it() -> None:
    tid = "8B87AF7D-8647-4dc7-8df4-5f69a2011bb5"
    found = principal(
        {"oid": "4f2c", "tid": tid, "roles": ["Rowcall.Operate"], "scp": "jobs.read"},
        claims={"tenant": "tid", "actor": "oid", "scopes": "scp"},
        tenant_names={tid: "acme"},
        role_names={"Rowcall.Operate": "operator"},
    )
    assert (found.tenant, found.actor) == ("acme", "4f2c")
    assert (set(found.roles), set(found.scopes)) == ({"operator"}, {"jobs.read"})


def test_a_fixed_tenant_is_everybodys_whatever_the_token_says() -> None:
    assert principal({"sub": "ada", "tenant": "bolt"}, tenant="acme").tenant == "acme"


@pytest.mark.parametrize("said", [None, "", "Acme", "a/b", "x" * 64, 7, ["acme"], {"name": "acme"}])
def test_without_the_name_of_a_tenant_nobody_is_let_in(said: object) -> None:
    assert "tenant" in refused({"sub": "ada"} if said is None else {"sub": "ada", "tenant": said})


def test_an_issuer_speaks_for_its_tenants_only() -> None:
    bound = {"tenants": ["acme", "acme-*"]}
    assert principal({"tenant": "acme-eu"}, **bound).tenant == "acme-eu"
    for other in ("bolt", "xacme", "acmeeu"):
        assert "may not speak for" in refused({"tenant": other}, **bound)


def test_a_tenant_that_is_not_among_the_names_is_refused() -> None:
    assert "tenant_names" in refused({"tenant": "acme"}, tenant_names={"7c9e": "acme"})


def test_roles_count_as_far_as_the_issuer_may_grant_them() -> None:
    claims = {"tenant": "acme", "roles": ["admin", "operator", "boss"]}
    assert principal(claims).roles == {"operator"}, "admin only where it is said"
    found = principal(claims, may_grant=["admin", "operator"])
    assert (set(found.roles), found.any_tenant) == ({"admin", "operator"}, True)


def test_where_roles_have_names_there_no_other_counts() -> None:
    claims = {"tenant": "acme", "roles": ["operator", "ops"]}
    assert principal(claims, role_names={"ops": "viewer"}).roles == {"viewer"}


def test_an_admin_need_not_be_of_a_tenant() -> None:
    found = principal({"sub": "root", "roles": "admin"}, may_grant=["admin"])
    assert (found.tenant, found.any_tenant) == ("", True)


def test_a_path_that_leads_nowhere_is_no_claim() -> None:
    found = principal({"tenant": "acme", "a": "text"}, claims={"roles": ["a", "b", "c"], "actor": ["x", "y"]})
    assert (found.roles, found.actor) == (frozenset(), None)


@pytest.mark.parametrize("said", [7, {"a": 1}, [7], ["a", None], ["r"] * 1001])
@pytest.mark.parametrize("which", ["roles", "scope"])
def test_what_is_no_list_of_words_is_refused(which: str, said: object) -> None:
    assert "no list of" in refused({"tenant": "acme", which: said})


@pytest.mark.parametrize("said", ["", "x" * 256, "a\nb", "a\0b", "\ud800", 7, ["ada"]])
def test_who_cannot_be_written_down_is_refused(said: object) -> None:
    assert "names no actor" in refused({"tenant": "acme", "sub": said})
