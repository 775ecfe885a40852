"""Tokens of the development issuer. Called by the command `rowcall token`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from joserfc import jwt

from rowcall_standalone.issuing.issuer import ALGORITHM, AUDIENCE, DevIssuer


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, and what it says."""

    token: str
    issuer: str
    tenant: str | None
    actor: str
    roles: Sequence[str]
    scopes: Sequence[str]
    expires_at: int
    """Unix time."""


def issue(
    issuer: DevIssuer, *, tenant: str | None, actor: str, roles: Sequence[str], scopes: Sequence[str], ttl: timedelta
) -> Issued:
    """A token that the development system of this issuer takes.

    Args:
        issuer: Signs it.
        tenant: Whose data it may touch; None: an admin's, who names the tenant at each call.
        actor: Who it is.
        roles: Of `rowcall.security.roles`.
        scopes: What it is for.
        ttl: How long it is good.
    """
    now = int(time.time())
    expires_at = now + max(int(ttl.total_seconds()), 1)
    claims = {
        "iss": issuer.name,
        "aud": AUDIENCE,
        "sub": actor,
        "iat": now,
        "exp": expires_at,
        "roles": list(roles),
        "scope": " ".join(scopes),
    }
    if tenant is not None:
        claims["tenant"] = tenant
    token = jwt.encode({"alg": ALGORITHM, "typ": "JWT", "kid": issuer.key.kid}, claims, issuer.key)
    return Issued(token, issuer.name, tenant, actor, tuple(roles), tuple(scopes), expires_at)
