"""Names that callers see: tenants and operations. Used by gateway, worker and commands."""

from __future__ import annotations

import re
from uuid import UUID

_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_OPERATION = re.compile(r"tenants/([^/]+)/operations/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def is_tenant(text: str) -> bool:
    """Whether a text is a tenant's name: lower-case letters, digits and inner "-", 63 at most (a DNS label)."""
    return _TENANT.fullmatch(text) is not None


def tenant_name(tenant: str) -> str:
    """The name of a tenant."""
    return f"tenants/{tenant}"


def parse_tenant_name(name: str) -> str | None:
    """The tenant in a name; None if it is no such name."""
    tenant = name.removeprefix("tenants/")
    return tenant if tenant != name and is_tenant(tenant) else None


def operation_name(tenant: str, job_id: UUID) -> str:
    """The name of a job and of its operation."""
    return f"{tenant_name(tenant)}/operations/{job_id}"


def parse_operation_name(name: str) -> tuple[str, UUID] | None:
    """The tenant and the job's id in a name; None if it is no such name."""
    match = _OPERATION.fullmatch(name)
    if match is None or not is_tenant(match[1]):
        return None
    return match[1], UUID(match[2])
