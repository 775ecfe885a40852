"""Whose a call is: the single place where a tenant is resolved. Asked by the interceptor, once for each call.

Another way to identify callers is another TenantScope. This release has one for development: the caller says which
tenant it is, and is believed.
"""

from __future__ import annotations

import enum
import ipaddress
from typing import NamedTuple, Protocol

from rowcall.errors import RowcallError
from rowcall.names import is_tenant
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.metadata import TENANT, CallMetadata

DEFAULT_TENANT = "default"
"""The tenant of a caller that names none, where callers are believed."""


class IdentityMode(enum.StrEnum):
    """How the gateway knows who calls."""

    INSECURE_DEV = "insecure-dev"
    """Callers are believed. The gateway binds to a loopback address only."""
    INSECURE_NETWORK = "insecure-network"
    """Callers are believed, whoever reaches the port: for a network that only trusted programs can reach."""


class Principal(NamedTuple):
    """Who calls."""

    tenant: str
    """Whose data the call may touch: this tenant's and nobody else's."""
    actor: str | None
    """Who triggered the call."""


class TenantScope(Protocol):
    """Resolves callers to tenants."""

    def resolve(self, metadata: CallMetadata) -> Principal:
        """Who a call is of.

        Raises:
            RowcallError: The caller is nobody we know, or claims what it may not.
        """


class BelievedCallers:
    """The TenantScope of development: metadata says who calls."""

    def resolve(self, metadata: CallMetadata) -> Principal:
        """The tenant and actor that the metadata names.

        Raises:
            RowcallError: INVALID_TENANT.
        """
        tenant = DEFAULT_TENANT if metadata.tenant is None else metadata.tenant
        if not is_tenant(tenant):
            raise RowcallError(
                ErrorReason.ERROR_REASON_INVALID_TENANT,
                f"The metadata {TENANT} is not the name of a tenant: lower-case letters, digits and inner '-', "
                "63 characters at most.",
            )
        return Principal(tenant, metadata.actor)


def check_address(mode: IdentityMode, host: str) -> None:
    """Refuses to serve callers who are merely believed where strangers could call.

    Raises:
        ValueError: With what to do about it.
    """
    if mode is IdentityMode.INSECURE_DEV and not _is_loopback(host):
        raise ValueError(
            f"names {host!r}, and identity {mode.value} believes every caller; listen on a loopback address such as "
            f"127.0.0.1, or set ROWCALL_IDENTITY={IdentityMode.INSECURE_NETWORK.value} if nobody but trusted programs can "
            "reach the port"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
