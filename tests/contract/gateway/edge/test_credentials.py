"""Every RPC with every credential that is not good, and with good ones that do not suffice: the right code and reason, nothing done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from rowcall.catalogue.grants import built_in_rules
from rowcall.catalogue.images import load_catalogue
from rowcall.security.access import AccessRule
from rowcall.security.roles import ADMIN, ROLES
from rowcall.v1.access_service_pb2 import RevokeCredentialsRequest
from rowcall.v1.access_service_pb2_grpc import AccessServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, info_of, refused
from tests.fix_images import ImageBuilder
from tests.support.contents import changes, contents, told_of_its_methods
from tests.support.rpcs import EVERY, Rpc
from tests.support.tokens import ISSUER, TokenIssuer, bearer, hmac_with_public_key, rsa_key, unsigned
from tests.support.waiting import until

SCOPED = """\
syntax = "proto3";
package acme.v1;
import "rowcall/options/v1/access.proto";
import "rowcall/options/v1/job.proto";
message Order { string item = 1; }
service Shop {
  rpc Pay(Order) returns (Order) {
    option (rowcall.options.v1.job) = {};
    option (rowcall.options.v1.access) = {roles: "caller" scopes: "pay"};
  }
}
"""
"""None of our own RPCs asks for a scope."""
PAY = "acme.v1.Shop/Pay"


class Bad(NamedTuple):
    """A credential that does not do for a call."""

    metadata: Callable[[TokenIssuer, AccessRule], Metadata]
    """The call's, made for an RPC that has this rule; good in every other way."""
    code: str
    reason: str
    problem: str = ""
    """The key "problem"."""
    concerns: Callable[[AccessRule], bool] = lambda _rule: True
    """Whether there is such a thing for an RPC that has this rule."""


def good(rule: AccessRule) -> dict[str, Any]:
    """What a token says with which the call would be let in, beside what all of the issuer's say."""
    return {"roles": sorted(rule.roles), "scope": " ".join(rule.scopes)}


def changed(**claims: object) -> Callable[[TokenIssuer, AccessRule], Metadata]:
    return lambda issuer, rule: bearer(issuer.token(**{**good(rule), **claims}))


def hence(seconds: int) -> int:
    return int(time.time()) + seconds


BAD: Mapping[str, Bad] = {
    "no token": Bad(lambda issuer, rule: (), "UNAUTHENTICATED", "CREDENTIALS_REQUIRED"),
    "no bearer": Bad(
        lambda issuer, rule: (("authorization", "Basic YTpi"),), "UNAUTHENTICATED", "TOKEN_INVALID", "format"
    ),
    "garbage": Bad(lambda issuer, rule: bearer("a.b.c"), "UNAUTHENTICATED", "TOKEN_INVALID", "format"),
    "expired": Bad(changed(exp=hence(-60), iat=hence(-600)), "UNAUTHENTICATED", "TOKEN_EXPIRED"),
    "not yet valid": Bad(changed(nbf=hence(86_400)), "UNAUTHENTICATED", "TOKEN_INVALID", "time"),
    "wrong audience": Bad(changed(aud="elsewhere"), "UNAUTHENTICATED", "TOKEN_INVALID", "audience"),
    "wrong issuer": Bad(changed(iss="https://elsewhere.example"), "UNAUTHENTICATED", "TOKEN_INVALID", "issuer"),
    "wrong key": Bad(
        lambda issuer, rule: bearer(issuer.token(key=rsa_key("another"), **good(rule))),
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        "signature",
    ),
    "unknown key": Bad(
        lambda issuer, rule: bearer(issuer.token(header={"kid": "two"}, **good(rule))),
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        "key",
    ),
    "alg none": Bad(
        lambda issuer, rule: bearer(unsigned(issuer, **good(rule))), "UNAUTHENTICATED", "TOKEN_INVALID", "algorithm"
    ),
    "HS for RS": Bad(
        lambda issuer, rule: bearer(hmac_with_public_key(issuer, **good(rule))),
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        "algorithm",
    ),
    "revoked": Bad(changed(sub="mallory", iat=hence(-60)), "UNAUTHENTICATED", "TOKEN_REVOKED"),
    "no tenant": Bad(
        changed(tenant=None), "UNAUTHENTICATED", "TOKEN_INVALID", "claims", lambda rule: ADMIN not in rule.roles
    ),
    "foreign tenant": Bad(
        lambda issuer, rule: (
            *changed(roles=sorted(rule.roles - {ADMIN}))(issuer, rule),
            ("rowcall-tenant", "bolt"),
        ),
        "PERMISSION_DENIED",
        "IDENTITY_MISMATCH",
        concerns=lambda rule: rule.roles != {ADMIN},
    ),
    "another's name": Bad(
        lambda issuer, rule: (*changed()(issuer, rule), ("rowcall-actor", "bob")),
        "PERMISSION_DENIED",
        "IDENTITY_MISMATCH",
    ),
    "wrong role": Bad(
        lambda issuer, rule: changed(roles=sorted(ROLES - rule.roles))(issuer, rule),
        "PERMISSION_DENIED",
        "MISSING_ROLE",
        concerns=lambda rule: rule.roles != ROLES,
    ),
    "no role": Bad(changed(roles=[]), "PERMISSION_DENIED", "MISSING_ROLE"),
    "missing scope": Bad(
        changed(scope="other"),
        "PERMISSION_DENIED",
        "MISSING_SCOPE",
        concerns=lambda rule: bool(rule.scopes),
    ),
}


async def test_every_rpc_refuses_every_credential_that_does_not_do(
    gateways: Gateways, cluster: Cluster, tmp_path: Path, build_image: ImageBuilder
) -> None:
    issuer = TokenIssuer()
    image = build_image({"acme/v1/shop.proto": SCOPED})
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path), images=[image])
    channel = await gateways.channel(gateway)
    admin = issuer.metadata(roles=[ADMIN])
    revocation = RevokeCredentialsRequest(issuer=ISSUER, subject="mallory")
    await AccessServiceStub(channel).RevokeCredentials(revocation, timeout=20, metadata=admin)
    await until(lambda: told_of_its_methods(cluster))
    rules = {**built_in_rules(), PAY: AccessRule(frozenset({"caller"}), frozenset({"pay"}))}
    scoped = load_catalogue([image]).images[1].pool.FindServiceByName("acme.v1.Shop").methods[0]
    wrong: list[str] = []
    tried = dict.fromkeys(BAD, 0)
    before = contents(cluster)
    for rpc in (*EVERY, Rpc(PAY, scoped)):
        rule = rules[rpc.name]
        request = b"" if rpc.name == PAY else rpc.request().SerializeToString()
        for name, bad in BAD.items():
            if not bad.concerns(rule):
                continue
            call: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(f"/{rpc.name}")
            metadata = bad.metadata(issuer, rule)
            error = await refused(call(request, timeout=20, metadata=metadata))
            info = info_of(error)
            tried[name] += 1
            found = (error.code().name, info.reason, info.metadata["problem"] if bad.problem else "")
            if found != (bad.code, bad.reason, bad.problem):
                wrong.append(f"{rpc.name} with {name}: {found} {error.details()}")
            if (error.code() is grpc.StatusCode.UNAUTHENTICATED) and "operation" in info.metadata:
                wrong.append(f"{rpc.name} with {name} tells of an operation")
            said = f"{error.details()} {info}"
            if any(value.removeprefix("Bearer ") in said for key, value in metadata if key == "authorization"):
                wrong.append(f"{rpc.name} with {name} repeats the token")
    assert wrong == []
    assert changes(before, contents(cluster)) == []
    assert min(tried.values()) > 0, tried
    assert sum(tried.values()) > 12 * len(EVERY)
