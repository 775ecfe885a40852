"""What the claims of a token say of its caller, as its issuer's settings read them. Called by `tokens`, on good tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final

from rowcall.names import is_tenant
from rowcall.security.roles import ADMIN
from rowcall_gateway.edge.credentials.issuers import Issuer
from rowcall_gateway.edge.credentials.refusals import Problem, token_invalid
from rowcall_gateway.edge.identity import Principal, Proof
from rowcall_gateway.edge.metadata import MAX_KEY_CHARS

_MOST: Final = 1000
"""Roles and scopes of one token."""


def principal_of(issuer: Issuer, claims: Mapping[str, Any], proof: Proof) -> Principal:
    """Who calls, for a call that says nothing of it itself.

    Args:
        issuer: Whose token it is.
        claims: Of the token, which is good.
        proof: To look at it again.

    Raises:
        RowcallError: TOKEN_INVALID: a claim is missing or is not what it should be.
    """
    roles = _roles(issuer, claims)
    admin = ADMIN in roles
    return Principal(
        tenant=_tenant(issuer, claims, admin=admin),
        actor=_actor(issuer, claims),
        roles=roles,
        scopes=frozenset(_words(claims, issuer.claims.scopes, "scopes")),
        credential=f"jwt {issuer.issuer}",
        any_tenant=admin,
        proof=proof,
    )


def claim(claims: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The claim that a path leads to; None where there is none."""
    found: Any = claims
    for step in path:
        if not isinstance(found, dict):
            return None
        found = found.get(step)
    return found


def matches(tenant: str, patterns: Sequence[str]) -> bool:
    """Whether a tenant is one of those that patterns name, "*" for any letters."""
    return _pattern(tuple(patterns)).fullmatch(tenant) is not None


@lru_cache(maxsize=1024)
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # Only letters, digits, "-" and "*" are in them: nothing else that fnmatch knows.
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")


def _tenant(issuer: Issuer, claims: Mapping[str, Any], *, admin: bool) -> str:
    if issuer.tenant is not None:
        return issuer.tenant
    said = claim(claims, issuer.claims.tenant)
    if said is None and admin:
        return ""
    where = _shown(issuer.claims.tenant)
    if not isinstance(said, str):
        raise token_invalid(Problem.CLAIMS, f"does not say its tenant: the claim {where} is not there, or no text")
    name = issuer.tenant_names.get(said) if issuer.tenant_names else said
    if name is None:
        raise token_invalid(Problem.CLAIMS, f"is of a tenant that tenant_names does not know, by its claim {where}")
    if not is_tenant(name):
        raise token_invalid(
            Problem.CLAIMS,
            f"is of what is not the name of a tenant (lower-case letters, digits and inner '-', 63 at most), by its claim {where}",
        )
    if issuer.tenants is not None and not matches(name, issuer.tenants):
        raise token_invalid(Problem.CLAIMS, "is of a tenant that its issuer may not speak for")
    return name


def _actor(issuer: Issuer, claims: Mapping[str, Any]) -> str | None:
    said = claim(claims, issuer.claims.actor)
    if said is None:
        return None
    if not isinstance(said, str) or not 1 <= len(said) <= MAX_KEY_CHARS or not said.isprintable():
        raise token_invalid(
            Problem.CLAIMS,
            f"has a claim {_shown(issuer.claims.actor)} that names no actor: 1 to {MAX_KEY_CHARS} printable characters",
        )
    return said


def _roles(issuer: Issuer, claims: Mapping[str, Any]) -> frozenset[str]:
    said = _words(claims, issuer.claims.roles, "roles")
    ours = [issuer.role_names.get(name, "") for name in said] if issuer.role_names else said
    return frozenset(ours).intersection(issuer.may_grant) or frozenset(issuer.default_roles)


def _words(claims: Mapping[str, Any], path: Sequence[str], what: str) -> Sequence[str]:
    said = claim(claims, path)
    if said is None:
        return ()
    words = said.split() if isinstance(said, str) else said
    if not isinstance(words, list) or len(words) > _MOST or not all(isinstance(word, str) for word in words):
        raise token_invalid(
            Problem.CLAIMS, f"has a claim {_shown(path)} that is no list of {what}: names, or words with blanks between"
        )
    return words


def _shown(path: Sequence[str]) -> str:
    """A claim as settings name it; nothing of the token."""
    return repr(path[0]) if len(path) == 1 else repr(list(path))
