"""Who a call is of, by tokens, by certificates, and by both: what contradicts is refused, what has ended is not remembered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall_gateway.edge.credentials.certificates import Rule, Rules
from rowcall_gateway.edge.credentials.issuers import Issuer
from rowcall_gateway.edge.credentials.scopes import CertificateScope, TokenAndCertificateScope, TokenScope
from rowcall_gateway.edge.credentials.sources import KeySource
from rowcall_gateway.edge.identity import Peer, Principal, ServicerContext, TenantScope, in_tenant
from rowcall_gateway.edge.metadata import CallMetadata
from tests.support.tokens import TokenIssuer, bearer

NAMED = {
    "acme": "spiffe://example/acme/billing",
    "bolt": "spiffe://example/bolt/billing",
    "root": "spiffe://example/root",
}


@dataclass
class Revoked:
    """As the catalogue has it."""

    issuer: str
    subject: str
    before: float
    number: int


class Endpoint:
    """Keys that are there, and a count of how often they were read."""

    def __init__(self, issuer: TokenIssuer) -> None:
        self.issuer = issuer

    async def read(self) -> bytes:
        return self.issuer.jwks()


class Gatekeeper:
    """A TokenScope with one issuer."""

    def __init__(self) -> None:
        self.issuer = TokenIssuer()
        self.revoked: list[Revoked] = []
        self.late = 0.0
        self.scope = TokenScope(self._read, clock=lambda: time.time() + self.late)
        self.settings = Issuer.model_validate(self.issuer.settings("keys.json"))
        self.source = KeySource(
            self.issuer.name, Endpoint(self.issuer), ["RS256"], refresh=300, keep=3600, gone=self.scope.key_gone
        )

    async def _read(self, number: int) -> Sequence[Revoked]:
        return [each for each in self.revoked if each.number > number]

    async def trust(self) -> None:
        assert await self.source.fetch()
        self.scope.trust({self.issuer.name: self.settings}, {self.issuer.name: self.source})

    async def revoke(self, subject: str, before: float | None = None) -> None:
        number = len(self.revoked) + 1
        self.revoked.append(Revoked(self.issuer.name, subject, before or time.time(), number))
        await self.scope.revocations.look()


@pytest.fixture
async def keeper() -> Gatekeeper:
    made = Gatekeeper()
    await made.trust()
    return made


class Context:
    """Of gRPC's, what a Peer asks."""

    def __init__(self, auth: Mapping[str, Sequence[bytes]]) -> None:
        self._auth = auth

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return self._auth


def peer(token: str | None = None, uri: str | None = None) -> Peer:
    auth: dict[str, Sequence[bytes]] = {"transport_security_type": [b"insecure"]}
    if uri is not None:
        auth = {"transport_security_type": [b"ssl"], "x509_pem_cert": [b"-----"], "peer_uri": [uri.encode()]}
    items = () if token is None else bearer(token)
    return Peer((("user-agent", "x"), *items), cast("ServicerContext", Context(auth)))


async def refused(scope: TenantScope, whose: Peer, metadata: CallMetadata | None = None) -> str:
    with pytest.raises(RowcallError) as raised:
        await scope.resolve(metadata or CallMetadata(), whose)
    return reason_name(raised.value.reason)


def ended(principal: Principal) -> str | None:
    """What has become of its credential; None: nothing."""
    assert principal.proof is not None
    try:
        principal.proof.check()
    except RowcallError as error:
        return reason_name(error.reason)
    return None


async def test_a_token_says_who_calls(keeper: Gatekeeper) -> None:
    found = await keeper.scope.resolve(CallMetadata(), peer(keeper.issuer.token(roles=["operator"], scope="a b")))
    assert (found.tenant, found.actor) == ("acme", "ada")
    assert (set(found.roles), set(found.scopes)) == ({"operator"}, {"a", "b"})
    assert found.believed is False
    assert found.has_role({"operator", "admin"})
    assert not found.has_role({"admin"})
    assert not found.has_scopes({"a", "c"})


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ((), "CREDENTIALS_REQUIRED"),
        ((("authorization", "Bearer"),), "TOKEN_INVALID"),
        ((("authorization", "Basic YTpi"),), "TOKEN_INVALID"),
        ((("authorization", "Bearer a b"),), "TOKEN_INVALID"),
        ((("authorization", "Bearer \u00e4"),), "TOKEN_INVALID"),
        ((("authorization", b"Bearer x"),), "TOKEN_INVALID"),
        ((("authorization", "Bearer x"), ("authorization", "Bearer x")), "TOKEN_INVALID"),
    ],
)
async def test_what_is_no_bearer_token_is_refused(keeper: Gatekeeper, items: Any, reason: str) -> None:
    assert await refused(keeper.scope, Peer(items, cast("ServicerContext", Context({})))) == reason


@pytest.mark.parametrize("word", ["Bearer ", "bearer ", "BEARER   "])
async def test_the_word_before_it_may_be_written_as_anybody_does(keeper: Gatekeeper, word: str) -> None:
    items = (("authorization", word + keeper.issuer.token()),)
    assert await keeper.scope.resolve(CallMetadata(), Peer(items, cast("ServicerContext", Context({}))))


async def test_two_tokens_are_not_one_of_them(keeper: Gatekeeper) -> None:
    items = bearer(keeper.issuer.token()) + bearer(keeper.issuer.token(tenant="bolt"))
    assert await refused(keeper.scope, Peer(items, cast("ServicerContext", Context({})))) == "TOKEN_INVALID"


async def test_an_issuer_that_is_not_trusted_is_nobody(keeper: Gatekeeper) -> None:
    assert await refused(keeper.scope, peer(keeper.issuer.token(iss="https://eve.example"))) == "TOKEN_INVALID"


async def test_what_the_call_says_itself_must_be_the_same_or_nothing(keeper: Gatekeeper) -> None:
    caller = peer(keeper.issuer.token())
    for same in (CallMetadata(), CallMetadata(tenant="acme"), CallMetadata(tenant="acme", actor="ada")):
        found = await keeper.scope.resolve(same, caller)
        assert (found.tenant, found.actor) == ("acme", "ada")
    for other in (CallMetadata(tenant="bolt"), CallMetadata(actor="eve"), CallMetadata(tenant="acme", actor="eve")):
        assert await refused(keeper.scope, caller, other) == "IDENTITY_MISMATCH"
    nameless = peer(keeper.issuer.token(sub=None))
    assert await refused(keeper.scope, nameless, CallMetadata(actor="eve")) == "IDENTITY_MISMATCH", "nor make one up"


@pytest.mark.parametrize("role", ["caller", "operator", "viewer", "payload-viewer"])
async def test_only_an_admin_names_a_tenant(keeper: Gatekeeper, role: str) -> None:
    other = CallMetadata(tenant="bolt")
    assert await refused(keeper.scope, peer(keeper.issuer.token(roles=[role])), other) == "IDENTITY_MISMATCH"
    admin = peer(keeper.issuer.token(roles=["admin"]))
    assert (await keeper.scope.resolve(other, admin)).tenant == "bolt"
    assert await refused(keeper.scope, admin, CallMetadata(tenant="B o l t")) == "INVALID_TENANT"
    assert await refused(keeper.scope, admin, CallMetadata(tenant="bolt", actor="eve")) == "IDENTITY_MISMATCH"


async def test_the_tenant_of_a_name_counts_where_the_credential_leaves_it_open(keeper: Gatekeeper) -> None:
    caller = await keeper.scope.resolve(CallMetadata(), peer(keeper.issuer.token()))
    admin = await keeper.scope.resolve(CallMetadata(), peer(keeper.issuer.token(tenant=None, roles=["admin"])))
    named = await keeper.scope.resolve(CallMetadata(tenant="acme"), peer(keeper.issuer.token(roles=["admin"])))
    assert [in_tenant(each, "bolt").tenant for each in (caller, admin, named)] == ["acme", "bolt", "acme"]


async def test_a_good_token_is_remembered_and_a_changed_one_is_not(
    keeper: Gatekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = keeper.issuer.token()
    first = await keeper.scope.resolve(CallMetadata(), peer(token))
    monkeypatch.setattr("rowcall_gateway.edge.credentials.scopes.read_token", None)
    assert await keeper.scope.resolve(CallMetadata(), peer(token)) is first, "not read again"
    with pytest.raises(TypeError):
        await keeper.scope.resolve(CallMetadata(), peer(token + "A"))


async def test_a_remembered_token_ends_when_it_ends(keeper: Gatekeeper) -> None:
    token = keeper.issuer.token(exp=int(time.time()) + 60)
    found = await keeper.scope.resolve(CallMetadata(), peer(token))
    assert ended(found) is None
    keeper.late = 91
    assert ended(found) == "TOKEN_EXPIRED", "also while its call waits"
    assert await refused(keeper.scope, peer(token)) == "TOKEN_EXPIRED"


async def test_a_revocation_ends_what_was_issued_before_it(keeper: Gatekeeper) -> None:
    now = time.time()
    old, new, other = (
        keeper.issuer.token(iat=now - 100),
        keeper.issuer.token(iat=now - 10),
        keeper.issuer.token(sub="bob", iat=now - 100),
    )
    unsaid = keeper.issuer.token(iat=None)
    found = {each: await keeper.scope.resolve(CallMetadata(), peer(each)) for each in (old, new, other, unsaid)}
    await keeper.revoke("ada", now - 50)
    for each in (old, unsaid):
        assert await refused(keeper.scope, peer(each)) == "TOKEN_REVOKED"
        assert ended(found[each]) == "TOKEN_REVOKED"
    for each in (new, other):
        assert await keeper.scope.resolve(CallMetadata(), peer(each))
        assert ended(found[each]) is None
    await keeper.revoke("")
    for each in found:
        assert await refused(keeper.scope, peer(each)) == "TOKEN_REVOKED", "all of the issuer's"


async def test_a_token_is_not_remembered_whose_key_was_taken_back(keeper: Gatekeeper) -> None:
    token = keeper.issuer.token()
    found = await keeper.scope.resolve(CallMetadata(), peer(token))
    keeper.issuer.rotate("two")
    assert await keeper.source.fetch()
    assert ended(found) == "TOKEN_INVALID"
    assert await refused(keeper.scope, peer(token)) == "TOKEN_INVALID"
    assert await keeper.scope.resolve(CallMetadata(), peer(keeper.issuer.token()))


async def test_a_token_is_not_remembered_when_its_issuers_settings_change(keeper: Gatekeeper) -> None:
    token = keeper.issuer.token()
    found = await keeper.scope.resolve(CallMetadata(), peer(token))
    keeper.settings = keeper.settings.model_copy(update={"audiences": ("other",)})
    await keeper.trust()
    assert ended(found) == "TOKEN_INVALID"
    assert await refused(keeper.scope, peer(token)) == "TOKEN_INVALID"


def rules() -> Rules:
    return Rules(
        [
            Rule(uri="spiffe://example/root", roles=("admin",), actor="root"),
            Rule(uri="spiffe://example/edge", tenants=("acme", "bolt")),
            Rule(uri="spiffe://example/{tenant}/{actor}", roles=("caller",)),
        ]
    )


async def test_a_certificate_says_who_calls() -> None:
    scope = CertificateScope(rules())
    found = await scope.resolve(CallMetadata(), peer(uri=NAMED["acme"]))
    assert (found.tenant, found.actor, set(found.roles), found.proof) == ("acme", "billing", {"caller"}, None)
    assert found.credential == f"mtls {NAMED['acme']}"
    assert await refused(scope, peer(uri=NAMED["acme"]), CallMetadata(tenant="bolt")) == "IDENTITY_MISMATCH"
    assert await refused(scope, peer(uri="spiffe://example/Acme/billing")) == "CERTIFICATE_UNKNOWN"
    assert await refused(scope, peer()) == "CREDENTIALS_REQUIRED"
    assert await refused(scope, peer(token="x.y.z")) == "CREDENTIALS_REQUIRED", "a token is nothing here"
    assert await refused(scope, peer(uri="spiffe://example/edge")) == "CERTIFICATE_UNKNOWN", (
        "it leaves the tenant to a token"
    )
    assert (await scope.resolve(CallMetadata(tenant="bolt"), peer(uri=NAMED["root"]))).tenant == "bolt"


async def test_a_certificate_that_nobody_verified_is_none() -> None:
    plain = {"transport_security_type": [b"insecure"], "peer_uri": [NAMED["acme"].encode()]}
    whose = Peer((), cast("ServicerContext", Context(plain)))
    assert await refused(CertificateScope(rules()), whose) == "CREDENTIALS_REQUIRED"


async def test_with_both_the_token_must_be_of_a_tenant_that_the_certificate_may_act_for(keeper: Gatekeeper) -> None:
    scope = TokenAndCertificateScope(keeper.scope, CertificateScope(rules()))
    token, admin = (
        keeper.issuer.token(roles=["operator"]),
        keeper.issuer.token(tenant=None, roles=["admin"], sub="root"),
    )
    found = await scope.resolve(CallMetadata(), peer(token, NAMED["acme"]))
    assert (found.tenant, found.actor, set(found.roles)) == ("acme", "ada", {"operator"}), (
        "it is the token that says who calls"
    )
    assert (await scope.resolve(CallMetadata(), peer(token, "spiffe://example/edge"))).tenant == "acme"
    assert await refused(scope, peer(token, NAMED["bolt"])) == "CREDENTIALS_MISMATCH"
    assert await refused(scope, peer(None, NAMED["acme"])) == "CREDENTIALS_REQUIRED"
    assert await refused(scope, peer(token)) == "CREDENTIALS_REQUIRED"
    other = CallMetadata(tenant="bolt")
    assert await refused(scope, peer(admin, NAMED["acme"]), other) == "CREDENTIALS_MISMATCH", "an admin's too"
    assert (await scope.resolve(other, peer(admin, NAMED["root"]))).tenant == "bolt"
    unnamed = await scope.resolve(CallMetadata(), peer(admin, NAMED["acme"]))
    assert (unnamed.tenant, in_tenant(unnamed, "bolt").tenant) == ("acme", "acme")


def test_a_peer_does_not_show_its_token() -> None:
    assert "secret" not in repr(peer("secret")) + str(peer("secret"))
