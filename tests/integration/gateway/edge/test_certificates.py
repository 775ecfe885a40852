"""Every RPC over the real TLS port, by certificates, and by certificates and tokens: with every one that does not do, and with those
that do.

Made of the descriptors, as the matrix of tokens is (`tests/contract/gateway/edge/test_credentials.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc.aio
import pytest

from rowcall.catalogue.grants import built_in_rules
from rowcall.errors import read_envelope, status_of
from rowcall.security.access import AccessRule
from rowcall.security.roles import ADMIN, ROLES
from rowcall_gateway.server import Gateway
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, jobs
from tests.support.contents import changes, contents, told_of_its_methods
from tests.support.pki import DAY, SERVER, Authority, Files, Issued
from tests.support.rpcs import EVERY, PROBE, Rpc
from tests.support.tokens import TokenIssuer, bearer, hmac_with_public_key
from tests.support.waiting import until

NAME: Final = "gateway.example"
OURS = Authority("Ours")
CALLERS = Authority("Callers")
STRANGERS = Authority("Callers")
"""Signs under the same name, with another key."""
NOBODYS = Authority("Nobody").ca
"""A certificate that has signed itself."""
RULES: Final = built_in_rules()

REFUSED: Final = ("UNAVAILABLE", "")
"""The connection does not come about: nothing of the call reaches the gateway."""
NOBODY: Final = ("UNAUTHENTICATED", "CERTIFICATE_UNKNOWN")
NO_TOKEN: Final = ("UNAUTHENTICATED", "CREDENTIALS_REQUIRED")


def spiffe(tenant: str, roles: frozenset[str], actor: str = "ada") -> str:
    """The name of who has these roles in a tenant: `certificates` has a rule for each set of them."""
    return f"spiffe://prod.example/{'+'.join(sorted(roles)) or 'none'}/{tenant}/{actor}"


def certificates(directory: Path) -> Path:
    """The settings' file: who is who, by the names of certificates."""
    sets = {frozenset(rule.roles) for rule in RULES.values()}
    sets |= {ROLES - each for each in sets} | {frozenset()}
    rules: list[dict[str, Any]] = [
        {"uri": spiffe("{tenant}", roles, "{actor}"), "roles": sorted(roles)} for roles in sorted(sets, key=sorted)
    ]
    rules.append({"dns": "acme.callers.example", "tenant": "acme", "roles": ["caller"]})
    file = directory / "certificates.json"
    file.write_text(json.dumps({"certificate": rules}))
    return file


class _Kept:
    """Certificates by what they are for: one connection each, however many RPCs there are."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Issued] = {}

    def __call__(self, authority: Authority, *names: str, **how: Any) -> Issued:
        place = (id(authority), names, *sorted((key, str(value)) for key, value in how.items()))
        if place not in self._made:
            self._made[place] = authority.issue(*names, **how)
        return self._made[place]


ISSUED = _Kept()


def good(rule: AccessRule) -> Issued:
    """A certificate that does for an RPC of this rule."""
    return ISSUED(CALLERS, spiffe("acme", rule.roles))


def token(issuer: TokenIssuer, rule: AccessRule, **claims: Any) -> Metadata:
    """A token that does for an RPC of this rule, but for what is said of it."""
    return bearer(issuer.token(**{"roles": sorted(rule.roles), "scope": " ".join(rule.scopes), **claims}))


def nothing(_issuer: TokenIssuer, _rule: AccessRule) -> Metadata:
    return ()


class Kind(NamedTuple):
    """A way to call, and what it comes to."""

    expected: tuple[str, str]
    """Code and reason."""
    certificate: Callable[[AccessRule], Issued | None] = good
    metadata: Callable[[TokenIssuer, AccessRule], Metadata] = nothing
    """Beside the certificate."""
    concerns: Callable[[AccessRule], bool] = lambda _: True
    """Whether there is such a thing for an RPC of this rule."""


CONNECTIONS: Mapping[str, Kind] = {
    "no certificate": Kind(REFUSED, lambda _: None),
    "of an unknown authority": Kind(REFUSED, lambda rule: ISSUED(STRANGERS, spiffe("acme", rule.roles))),
    "signed by itself": Kind(REFUSED, lambda _: NOBODYS),
    "expired": Kind(REFUSED, lambda rule: ISSUED(CALLERS, spiffe("acme", rule.roles), begins=-2 * DAY, ends=-DAY)),
    "not yet valid": Kind(REFUSED, lambda rule: ISSUED(CALLERS, spiffe("acme", rule.roles), begins=DAY, ends=2 * DAY)),
    "for servers": Kind(REFUSED, lambda rule: ISSUED(CALLERS, spiffe("acme", rule.roles), uses=(SERVER,))),
}
"""What is refused before there is a connection, whatever else is brought."""
CERTIFICATES: Mapping[str, Kind] = {
    "no rule names it": Kind(NOBODY, lambda _: ISSUED(CALLERS, "spiffe://elsewhere.example/caller/acme/ada")),
    "no names": Kind(NOBODY, lambda _: ISSUED(CALLERS)),
    "the name as a common name": Kind(NOBODY, lambda _: ISSUED(CALLERS, common_name="acme.callers.example")),
    "no tenant's name": Kind(NOBODY, lambda rule: ISSUED(CALLERS, spiffe("No_Tenant", rule.roles))),
    "one part too many": Kind(NOBODY, lambda rule: ISSUED(CALLERS, f"{spiffe('acme', rule.roles)}/more")),
}
"""What comes about, and is nobody's, whatever token is brought."""

MTLS: Mapping[str, Kind] = {
    **CONNECTIONS,
    **CERTIFICATES,
    "no rule names it, with a good token": Kind(
        NOBODY, lambda _: ISSUED(CALLERS, "spiffe://elsewhere.example/caller/acme/ada"), token
    ),
    "wrong role": Kind(
        ("PERMISSION_DENIED", "MISSING_ROLE"),
        lambda rule: ISSUED(CALLERS, spiffe("acme", ROLES - rule.roles)),
        concerns=lambda rule: rule.roles != ROLES,
    ),
    "no role, and a token that has it": Kind(
        ("PERMISSION_DENIED", "MISSING_ROLE"), lambda _: ISSUED(CALLERS, spiffe("acme", frozenset())), token
    ),
    "foreign tenant": Kind(
        ("PERMISSION_DENIED", "IDENTITY_MISMATCH"),
        lambda rule: ISSUED(CALLERS, spiffe("acme", ROLES - {ADMIN})),
        lambda _issuer, _rule: (("rowcall-tenant", "bolt"),),
    ),
    "another's name": Kind(
        ("PERMISSION_DENIED", "IDENTITY_MISMATCH"), metadata=lambda _issuer, _rule: (("rowcall-actor", "bob"),)
    ),
}

BOTH: Mapping[str, Kind] = {
    **{name: kind._replace(metadata=token) for name, kind in {**CONNECTIONS, **CERTIFICATES}.items()},
    "no token": Kind(NO_TOKEN),
    "no token, and nobody": Kind(NOBODY, lambda _: ISSUED(CALLERS, "spiffe://elsewhere.example/caller/acme/ada")),
    "expired token": Kind(
        ("UNAUTHENTICATED", "TOKEN_EXPIRED"), metadata=lambda issuer, rule: token(issuer, rule, exp=1, iat=0)
    ),
    "HS for RS": Kind(
        ("UNAUTHENTICATED", "TOKEN_INVALID"),
        metadata=lambda issuer, rule: bearer(hmac_with_public_key(issuer, roles=sorted(rule.roles))),
    ),
    "a token of another tenant's": Kind(
        ("UNAUTHENTICATED", "CREDENTIALS_MISMATCH"), metadata=lambda issuer, rule: token(issuer, rule, tenant="bolt")
    ),
    "an admin's token, for another tenant": Kind(
        ("UNAUTHENTICATED", "CREDENTIALS_MISMATCH"),
        metadata=lambda issuer, rule: (*token(issuer, rule, roles=sorted(ROLES)), ("rowcall-tenant", "bolt")),
    ),
    "roles of the certificate's alone": Kind(
        ("PERMISSION_DENIED", "MISSING_ROLE"), metadata=lambda issuer, rule: token(issuer, rule, roles=[])
    ),
}

ANYTHING: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE")
"""How none ends whose credentials do."""


class Callers:
    """Channels to a gateway, one for each certificate."""

    def __init__(self, gateway: Gateway, stack: AsyncExitStack) -> None:
        self._gateway = gateway
        self._stack = stack
        self._channels: dict[int | None, grpc.aio.Channel] = {}

    async def call(self, rpc: Rpc, caller: Issued | None, metadata: Metadata) -> tuple[str, str]:
        """What a call came to: code, and reason if there is one."""
        serial = None if caller is None else id(caller)
        if serial not in self._channels:
            credentials = grpc.ssl_channel_credentials(
                OURS.pem, None if caller is None else caller.key_pem, None if caller is None else caller.cert_pem
            )
            options = (("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1))
            self._channels[serial] = await self._stack.enter_async_context(
                grpc.aio.secure_channel(self._gateway.address, credentials, options=options)
            )
        try:
            await rpc.call(self._channels[serial], rpc.request(), metadata)
        except grpc.aio.AioRpcError as error:
            info = read_envelope(status_of(error))
            return error.code().name, "" if info is None else info.reason
        return "OK", ""


@pytest.mark.parametrize(("identity", "kinds"), [("mtls", MTLS), ("jwt+mtls", BOTH)], ids=["mtls", "jwt+mtls"])
async def test_every_rpc_refuses_every_certificate_that_does_not_do(
    gateways: Gateways, cluster: Cluster, tmp_path: Path, identity: str, kinds: Mapping[str, Kind]
) -> None:
    issuer = TokenIssuer()
    files = Files(tmp_path)
    files.put(OURS.issue(NAME), CALLERS.pem)
    told: dict[str, Any] = {"issuers": issuer.write(tmp_path)} if "jwt" in identity else {}
    gateway = await gateways.start(
        identity=identity,
        certificates=certificates(tmp_path),
        tls_cert=files.cert,
        tls_key=files.key,
        tls_client_ca=files.ca,
        **told,
    )
    await until(lambda: told_of_its_methods(cluster))
    wrong: list[str] = []
    tried = dict.fromkeys(kinds, 0)
    async with AsyncExitStack() as stack:
        callers = Callers(gateway, stack)
        before = contents(cluster)
        for rpc in EVERY:
            rule = RULES[rpc.name]
            for name, kind in kinds.items():
                if kind.concerns(rule):
                    found = await callers.call(rpc, kind.certificate(rule), kind.metadata(issuer, rule))
                    tried[name] += 1
                    if found != kind.expected:
                        wrong.append(f"{rpc.name}, {name}: {found} instead of {kind.expected}")
        assert wrong == []
        assert changes(before, contents(cluster)) == []
        assert min(tried.values()) > 0, tried
        assert sum(tried.values()) > 10 * len(EVERY)

        # And with those that do, every one of them is served.
        for rpc in EVERY:
            rule = RULES[rpc.name]
            code, reason = await callers.call(rpc, good(rule), token(issuer, rule) if "jwt" in identity else ())
            if code in ANYTHING:
                wrong.append(f"{rpc.name} with what does: {code} {reason}")
        assert wrong == []
    whose = set(jobs(cluster, "tenant, actor"))
    assert whose == {("acme", "ada")}, "rows are theirs who called, by certificate or by token"


async def test_a_certificate_by_its_host_name_calls_for_its_tenant(
    gateways: Gateways, cluster: Cluster, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    files.put(OURS.issue(NAME), CALLERS.pem)
    gateway = await gateways.start(
        identity="mtls",
        certificates=certificates(tmp_path),
        tls_cert=files.cert,
        tls_key=files.key,
        tls_client_ca=files.ca,
    )
    (run,) = [rpc for rpc in EVERY if rpc.name == f"{PROBE}/Run"]
    async with AsyncExitStack() as stack:
        callers = Callers(gateway, stack)
        assert await callers.call(run, ISSUED(CALLERS, "acme.callers.example"), ()) == ("OK", "")
    assert jobs(cluster, "tenant, actor") == [("acme", "acme.callers.example")]
