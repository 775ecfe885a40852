"""The TenantScopes that go by credentials: tokens, certificates, and both. Asked by the interceptor, once for each call."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Final

from rowcall.security.roles import ADMIN
from rowcall.telemetry import metrics
from rowcall_gateway.edge.credentials.certificates import Holder, Rules
from rowcall_gateway.edge.credentials.claims import principal_of
from rowcall_gateway.edge.credentials.issuers import Issuer
from rowcall_gateway.edge.credentials.refusals import (
    Problem,
    certificate_required,
    certificate_unknown,
    credentials_mismatch,
    token_invalid,
    token_required,
    token_revoked,
)
from rowcall_gateway.edge.credentials.revocations import Reading, Revocations
from rowcall_gateway.edge.credentials.sources import KeySource
from rowcall_gateway.edge.credentials.tokens import check_token, read_token
from rowcall_gateway.edge.credentials.verified import TokenProof, VerifiedTokens
from rowcall_gateway.edge.identity import Peer, Principal, claimed
from rowcall_gateway.edge.metadata import CallMetadata

_BEARER: Final = "bearer "


class TokenScope:
    """Callers by their bearer tokens."""

    def __init__(self, read_revocations: Reading, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            read_revocations: Asks the catalogue.
            clock: Unix time.
        """
        self._clock = clock
        self._issuers: Mapping[str, Issuer] = {}
        self._sources: Mapping[str, KeySource] = {}
        self._settings = 0
        self._verified = VerifiedTokens(clock=clock)
        self.revocations = Revocations(read_revocations, self._revoked)

    def trust(self, issuers: Mapping[str, Issuer], sources: Mapping[str, KeySource]) -> None:
        """From now on takes the tokens of these issuers, whose keys are there; what was good before is checked again."""
        self._issuers, self._sources = issuers, sources
        self._settings += 1
        self._verified.drop(lambda _: True)

    async def resolve(self, metadata: CallMetadata, peer: Peer) -> Principal:
        """See `rowcall_gateway.edge.identity.TenantScope.resolve`.

        Raises:
            RowcallError: CREDENTIALS_REQUIRED, TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_REVOKED, KEYS_UNAVAILABLE,
                IDENTITY_MISMATCH or INVALID_TENANT.
        """
        return claimed(await self.caller(peer), metadata)

    async def caller(self, peer: Peer) -> Principal:
        """Who the token says it is.

        Raises:
            RowcallError: As `resolve`, but for what the metadata says.
        """
        text = _bearer(peer)
        digest = hashlib.sha256(text.encode("ascii")).digest()
        found = self._verified.get(digest)
        metrics.CACHE_LOOKUPS.add(1, "tokens", "miss" if found is None else "hit")
        return found.principal if found is not None else await self._check(text, digest)

    async def _check(self, text: str, digest: bytes) -> Principal:
        token = read_token(text)
        settings = self._settings
        issuer, keys = self._issuers.get(token.issuer), self._sources.get(token.issuer)
        if issuer is None or keys is None:
            raise token_invalid(Problem.ISSUER, "is of an issuer that this gateway does not trust")
        checked = await check_token(token, issuer, keys, clock=self._clock)
        proof = TokenProof(
            issuer=issuer.issuer,
            subject=checked.subject,
            issued_at=checked.issued_at,
            ends_at=checked.ends_at,
            thumbprint=checked.key.thumbprint,
            settings=settings,
            standing=self,
        )
        if self.is_revoked(proof.issuer, proof.subject, proof.issued_at):
            raise token_revoked()
        principal = principal_of(issuer, checked.claims, proof)
        # Its issuer may have been asked for a key meanwhile, and the settings have changed.
        if settings == self._settings:
            self._verified.keep(digest, principal, proof)
        return principal

    def key_gone(self, thumbprints: frozenset[str]) -> None:
        """Keys are not their issuer's any more: what they signed is checked again."""
        self._verified.drop(lambda proof: proof.thumbprint in thumbprints)

    def now(self) -> float:
        """See `verified.Standing.now`."""
        return self._clock()

    def is_current(self, issuer: str, settings: int) -> bool:
        """See `verified.Standing.is_current`."""
        return settings == self._settings and issuer in self._issuers

    def has_key(self, issuer: str, thumbprint: str) -> bool:
        """See `verified.Standing.has_key`."""
        source = self._sources.get(issuer)
        return source is not None and source.has(thumbprint)

    def is_revoked(self, issuer: str, subject: str, issued_at: float) -> bool:
        """See `verified.Standing.is_revoked`."""
        return self.revocations.covers(issuer, subject, issued_at)

    def _revoked(self, issuer: str, subject: str) -> None:
        self._verified.drop(lambda proof: proof.issuer == issuer and subject in ("", proof.subject))


class CertificateScope:
    """Callers by the client certificates of their connections."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def follow(self, rules: Rules) -> None:
        """From now on goes by these rules."""
        self._rules = rules

    async def resolve(self, metadata: CallMetadata, peer: Peer) -> Principal:
        """See `rowcall_gateway.edge.identity.TenantScope.resolve`.

        Raises:
            RowcallError: CREDENTIALS_REQUIRED, CERTIFICATE_UNKNOWN, IDENTITY_MISMATCH or INVALID_TENANT.
        """
        holder = self.holder(peer)
        admin = ADMIN in holder.roles
        if not holder.tenant and not admin:
            # A rule that leaves the tenant to a token, and there are none here.
            raise certificate_unknown()
        known = Principal(
            tenant=holder.tenant,
            actor=holder.actor,
            roles=holder.roles,
            scopes=holder.scopes,
            credential=f"mtls {holder.name}",
            any_tenant=admin,
        )
        return claimed(known, metadata)

    def holder(self, peer: Peer) -> Holder:
        """Who the connection's certificate is.

        Raises:
            RowcallError: CREDENTIALS_REQUIRED, CERTIFICATE_UNKNOWN.
        """
        names = peer.auth_context()
        if b"ssl" not in names.get("transport_security_type", ()) or not names.get("x509_pem_cert"):
            raise certificate_required()
        holder = self._rules.find(names)
        if holder is None:
            raise certificate_unknown()
        return holder


class TokenAndCertificateScope:
    """Callers by tokens that come over connections with client certificates: the token says who calls, the certificate's rule
    for which tenants it may come."""

    def __init__(self, tokens: TokenScope, certificates: CertificateScope) -> None:
        self._tokens = tokens
        self._certificates = certificates

    async def resolve(self, metadata: CallMetadata, peer: Peer) -> Principal:
        """See `rowcall_gateway.edge.identity.TenantScope.resolve`.

        Raises:
            RowcallError: What either raises, or CREDENTIALS_MISMATCH.
        """
        holder = self._certificates.holder(peer)
        principal = claimed(await self._tokens.caller(peer), metadata)
        if principal.tenant and not holder.may_act_for(principal.tenant):
            raise credentials_mismatch()
        if holder.may_act_for_all or not principal.any_tenant:
            return principal
        if not principal.tenant and holder.tenant:
            # An admin who names no tenant, over a connection of one.
            return principal._replace(tenant=holder.tenant, any_tenant=False)
        return principal._replace(any_tenant=False)


def _bearer(peer: Peer) -> str:
    """The token of a call. Raises RowcallError: CREDENTIALS_REQUIRED, TOKEN_INVALID."""
    values = peer.authorization()
    if not values:
        raise token_required()
    if len(values) > 1:
        raise token_invalid(Problem.FORMAT, "is one of several: send one authorization")
    value = values[0]
    if not isinstance(value, str) or not value.isascii() or value[: len(_BEARER)].lower() != _BEARER:
        raise token_invalid(Problem.FORMAT, 'is not written "Bearer" and the token, with a blank between them')
    return value[len(_BEARER) :].lstrip(" ")
