"""Whose a call is: the single place where a tenant is resolved. Asked by the interceptor, once for each call.

Another way to identify callers is another TenantScope. Here is the one of development: the caller says which tenant it
is, and is believed. Those that go by tokens and certificates are in `credentials`; what all of them do with what the
call itself says is here.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias, cast

import grpc.aio
import structlog

from rowcall.address import is_loopback
from rowcall.errors import RowcallError
from rowcall.names import is_tenant
from rowcall.security.roles import ROLES
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.metadata import ACTOR, TENANT, CallMetadata

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
"""gRPC's context as the gateway sees it: messages are bytes to it."""

AUTHORIZATION: Final = "authorization"
"""The metadata that a token comes in: "Bearer …"."""

_log = structlog.get_logger(__name__)

DEFAULT_TENANT: Final = "default"
"""The tenant of a caller that names none, where callers are believed."""


class IdentityMode(enum.StrEnum):
    """How the gateway knows who calls."""

    JWT = "jwt"
    """By a bearer token of an issuer that it is told of."""
    MTLS = "mtls"
    """By the client certificate of the connection."""
    JWT_MTLS = "jwt+mtls"
    """By a token that comes over a connection with a client certificate: both are needed, and must agree."""
    INSECURE_DEV = "insecure-dev"
    """Callers are believed. The gateway binds to a loopback address only."""
    INSECURE_NETWORK = "insecure-network"
    """Callers are believed, whoever reaches the port: for a network that only trusted programs can reach."""

    @property
    def takes_tokens(self) -> bool:
        """Whether callers must bring a token."""
        return self in (IdentityMode.JWT, IdentityMode.JWT_MTLS)

    @property
    def takes_certificates(self) -> bool:
        """Whether callers must connect with a certificate."""
        return self in (IdentityMode.MTLS, IdentityMode.JWT_MTLS)

    @property
    def believes(self) -> bool:
        """Whether callers are taken at their word."""
        return not (self.takes_tokens or self.takes_certificates)


class Principal(NamedTuple):
    """Who calls, as the credential says it; nothing of it comes from a field or header that the caller could choose."""

    tenant: str
    """Whose data the call may touch: this tenant's and nobody else's. Empty only for an admin who named none; calls of
    methods that belong to a tenant are then refused."""
    actor: str | None = None
    """Who triggered the call."""
    roles: frozenset[str] = frozenset()
    """Of `rowcall.security.roles`."""
    scopes: frozenset[str] = frozenset()
    """What the credential was issued for, as its issuer names it."""
    believed: bool = False
    """Whether there is no credential, and the caller is taken at its word: it may do everything."""
    credential: str | None = None
    """What it was known by, for logs and people, such as "jwt https://login.example.com"; never a secret."""
    any_tenant: bool = False
    """Whether it may act for every tenant and named none in the metadata: the tenant of an operation's name then counts."""
    proof: Proof | None = None
    """What can be looked at again while the call waits; None where there is nothing that could end."""

    def has_role(self, any_of: Collection[str]) -> bool:
        """Whether it has one of these roles."""
        return self.believed or not self.roles.isdisjoint(any_of)

    def has_scopes(self, all_of: Collection[str]) -> bool:
        """Whether it has all of these scopes."""
        return self.believed or self.scopes.issuperset(all_of)


class Proof(Protocol):
    """A credential that was good when its call began, and may have ended since."""

    def check(self) -> None:
        """Looks at it again.

        Raises:
            RowcallError: TOKEN_EXPIRED, TOKEN_REVOKED or TOKEN_INVALID.
        """


class Peer:
    """What the transport says of a caller, read only where it is asked for. It has no text: it holds the token."""

    __slots__ = ("_context", "_items")

    def __init__(self, items: Iterable[tuple[str, str | bytes]], context: ServicerContext) -> None:
        """
        Args:
            items: The call's metadata as it came.
            context: gRPC's own.
        """
        self._items = items
        self._context = context

    def authorization(self) -> list[str | bytes]:
        """The values of the metadata "authorization": none, one, or more than there should be."""
        return [value for key, value in self._items if key == AUTHORIZATION]

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What gRPC knows of the connection: with a verified client certificate its names, among them
        "x509_subject_alternative_name"."""
        return cast("Mapping[str, Sequence[bytes]]", self._context.auth_context())


class TenantScope(Protocol):
    """Resolves callers to tenants."""

    async def resolve(self, metadata: CallMetadata, peer: Peer) -> Principal:
        """Who a call is of.

        Raises:
            RowcallError: The caller is nobody we know, or claims what it may not.
        """


class BelievedCallers:
    """The TenantScope of development: metadata says who calls."""

    def __init__(self) -> None:
        self._told = False

    async def resolve(self, metadata: CallMetadata, peer: Peer) -> Principal:
        """The tenant and actor that the metadata names.

        Raises:
            RowcallError: INVALID_TENANT.
        """
        if not self._told and peer.authorization():
            self._told = True
            _log.warning(
                "a caller sent a token, and nobody looks at it: this gateway believes every caller; ROWCALL_IDENTITY=jwt "
                "has tokens count"
            )
        tenant = metadata.tenant
        if tenant is None:
            return Principal(DEFAULT_TENANT, metadata.actor, ROLES, believed=True, any_tenant=True)
        _check_name(tenant)
        return Principal(tenant, metadata.actor, ROLES, believed=True)


def claimed(known: Principal, metadata: CallMetadata) -> Principal:
    """Who a call is of, where a credential says who calls: what the metadata says must be the same, or nothing at all.

    An admin names the tenant that it acts for.

    Args:
        known: As the credential has it, for a call that names neither tenant nor actor.
        metadata: The call's.

    Raises:
        RowcallError: IDENTITY_MISMATCH, INVALID_TENANT.
    """
    tenant, actor = metadata.tenant, metadata.actor
    if tenant is None and actor is None:
        return known
    if actor is not None and actor != known.actor:
        raise _mismatch(ACTOR, "actor")
    if tenant is None:
        return known
    if tenant != known.tenant:
        if not known.any_tenant:
            raise _mismatch(TENANT, "tenant")
        _check_name(tenant)
    return known._replace(tenant=tenant, any_tenant=False)


def in_tenant(principal: Principal, tenant: str) -> Principal:
    """Who a call is of that names a tenant in its request: where the credential leaves that open, the request decides.

    Args:
        principal: As the credential and the metadata have it.
        tenant: As the request names it. Where the principal may not act for it, it stays in its own, where there is no such name.
    """
    return principal._replace(tenant=tenant, any_tenant=False) if principal.any_tenant else principal


def tenant_required() -> RowcallError:
    """The credential is of no tenant in particular, and the method's calls are of one."""
    return RowcallError(
        ErrorReason.ERROR_REASON_TENANT_REQUIRED,
        f"The credential is of no tenant in particular: name the one that the call is for in the metadata {TENANT}.",
    )


def _check_name(tenant: str) -> None:
    if not is_tenant(tenant):
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_TENANT,
            f"The metadata {TENANT} is not the name of a tenant: lower-case letters, digits and inner '-', "
            "63 characters at most.",
        )


def _mismatch(key: str, what: str) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_IDENTITY_MISMATCH,
        f"The metadata {key} names another {what} than the caller's credential, which alone decides: leave it out.",
        metadata={"key": key},
    )


def check_address(mode: IdentityMode, host: str) -> None:
    """Refuses to serve callers who are merely believed where strangers could call.

    Raises:
        ValueError: With what to do about it.
    """
    if mode is IdentityMode.INSECURE_DEV and not is_loopback(host):
        raise ValueError(
            f"names {host!r}, and identity {mode.value} believes every caller; listen on a loopback address such as "
            f"127.0.0.1, or set ROWCALL_IDENTITY={IdentityMode.INSECURE_NETWORK.value} if nobody but trusted programs can "
            "reach the port"
        )


def check_needed(file: Path | None, *, wanted: bool, identity: IdentityMode) -> Path | None:
    """A file that says whom to take, where the identity goes by it.

    Raises:
        ValueError: It is missing; or it is there, and nobody would look at it.
    """
    if wanted and file is None:
        raise ValueError(f"is not set, and identity {identity.value} goes by it")
    if not wanted and file is not None:
        raise ValueError(
            f"is set, and identity {identity.value} does not look at it"
            + (": every caller would be believed. Set ROWCALL_IDENTITY" if identity.believes else "; unset it")
        )
    return file
