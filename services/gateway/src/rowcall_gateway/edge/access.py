"""Who may call what, and who sees payloads: the access table held against a caller. One `Rights` a gateway.

Asked by the interceptor for each call, once its caller is known, by `drafts` for each job that is submitted under another
method's name, and by `resources` wherever a payload is about to be put into an answer. Nothing here asks a database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from rowcall.catalogue.grants import AccessTable
from rowcall.errors import RowcallError
from rowcall.security.access import CLOSED, AccessRule
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.identity import Peer, Principal
from rowcall_gateway.edge.metadata import ACTOR, TENANT, CallMetadata

Resolve: TypeAlias = Callable[[CallMetadata, Peer], Awaitable[Principal]]
"""`TenantScope.resolve`, and what is put around it."""

Admit: TypeAlias = Callable[[Principal], None]
"""Raises RowcallError for a caller that is not let in."""

_TOLD: Final = 5
"""Of a caller's own roles, so many are told in a refusal."""


class Rights:
    """Says who may what, by one gateway's table."""

    def __init__(self, table: AccessTable, *, public_tenant: str = "") -> None:
        """
        Args:
            table: Who may call each method.
            public_tenant: Whose the calls are that bring no credential, of public methods; empty: there are none.
        """
        self._table = table
        self._public_tenant = public_tenant

    def replace(self, table: AccessTable) -> None:
        """From now on says who may what by this one; of a path, what was said before stays until it is asked for again."""
        self._table = table

    def identifying(self, path: str, resolve: Resolve) -> Resolve:
        """Says for each call of one method whose it is: of a public one, also of those that bring no credential.

        Args:
            path: Of the method: "/package.Service/Method".
            resolve: Says whose a call is.
        """
        rule = self._table.of(path.removeprefix("/"))
        return self._public(resolve) if rule is not None and rule.public else resolve

    def admitting(self, path: str) -> Admit:
        """Lets in who may call one method; raises MISSING_ROLE, MISSING_SCOPE or METHOD_CLOSED for all others.

        The rule is found once, at the start. A path that nobody serves is everybody's who is known, to be told so: those who
        are nobody do not learn which methods there are.

        Args:
            path: Of the method: "/package.Service/Method".
        """
        method = path.removeprefix("/")
        rule = self._table.of(method)
        if rule is None or rule.public:
            return lambda _: None
        roles, scopes, closed = rule.roles, rule.scopes, rule.closed

        def admit(principal: Principal) -> None:
            # Rule.lets, taken apart: each call comes through here.
            if not principal.believed and (
                closed
                or (roles and roles.isdisjoint(principal.roles))
                or (scopes and not scopes.issubset(principal.scopes))
            ):
                raise _denied(principal, rule, method)

        return admit

    def check(self, principal: Principal, method: str, *, field: str = "") -> None:
        """Refuses a caller who may not call a method that its request or metadata names.

        Args:
            principal: The caller.
            method: "package.Service/Method".
            field: Where it is named: "jobs[3].method".

        Raises:
            RowcallError: MISSING_ROLE, MISSING_SCOPE or METHOD_CLOSED.
        """
        rule = self._table.of(method) or CLOSED
        if not _lets(principal, rule):
            raise _denied(principal, rule, method, field)

    def sees_payloads(self, principal: Principal, method: str) -> bool:
        """Whether a caller sees what jobs of a method were asked and answered, within the tenant that it acts for.

        Whoever sees payloads of every method (payload-viewer), and whoever may call this one, for that is how it would get them. Of a
        public method, whose callers need not be anybody, the tenant's own callers, and those without a credential, who come
        to nothing but their own calls' answers. A method that this gateway does not serve has the default rule, or none.
        """
        if principal.believed or PAYLOAD_VIEWER in principal.roles:
            return True
        rule = self._table.of(method) or self._table.default or CLOSED
        if rule.public:
            return CALLER in principal.roles or principal == _nobody(self._public_tenant)
        return _lets(principal, rule)

    def calls(self, principal: Principal, method: str) -> bool:
        """Whether a caller may call a method itself: what it sees of payloads of it, it sees as a caller."""
        rule = self._table.of(method) or self._table.default or CLOSED
        return rule.public or _lets(principal, rule)

    def sees_locations(self, principal: Principal) -> bool:
        """Whether a caller is told where in a handler's code an attempt raised."""
        return principal.has_role((OPERATOR, ADMIN))

    def sees_every_tenant(self, principal: Principal) -> bool:
        """Whether a caller is told of what others than its own tenant run."""
        return principal.has_role((ADMIN,))

    def _public(self, resolve: Resolve) -> Resolve:
        tenant = self._public_tenant

        async def identify(metadata: CallMetadata, peer: Peer) -> Principal:
            try:
                # A credential that is brought must be good.
                return await resolve(metadata, peer)
            except RowcallError as error:
                if error.reason != ErrorReason.ERROR_REASON_CREDENTIALS_REQUIRED:
                    raise
            if metadata.tenant not in (None, tenant):
                raise _mismatch(TENANT, "names another tenant than that of calls without a credential")
            if metadata.actor is not None:
                raise _mismatch(ACTOR, "says who calls, and the call brings no credential that says so")
            return _nobody(tenant)

        return identify


def _nobody(tenant: str) -> Principal:
    """Who calls a public method without a credential."""
    return Principal(tenant)


def _lets(principal: Principal, rule: AccessRule) -> bool:
    return principal.believed or rule.lets(principal.roles, principal.scopes)


def _denied(principal: Principal, rule: AccessRule, method: str, field: str = "") -> RowcallError:
    """Why a caller may not call a method."""
    named = f"{field} {method}" if field else method
    if rule.closed:
        return RowcallError(
            ErrorReason.ERROR_REASON_METHOD_CLOSED,
            f"{named} may be called by nobody: its access rule says no role and no scope.",
            metadata={"method": method},
        )
    missing = ", ".join(sorted(rule.scopes - principal.scopes))
    if rule.roles and rule.roles.isdisjoint(principal.roles):
        own = sorted(principal.roles)
        has = ", ".join(own[:_TOLD]) + (", …" if len(own) > _TOLD else "")
        also = {"scopes": missing} if missing else {}
        return RowcallError(
            ErrorReason.ERROR_REASON_MISSING_ROLE,
            f"{named} is for callers with the role {_any_of(rule.roles)}; this one has {has or 'none'}.",
            metadata={"method": method, "roles": ", ".join(sorted(rule.roles)), **also},
        )
    return RowcallError(
        ErrorReason.ERROR_REASON_MISSING_SCOPE,
        f"{named} is for credentials that were issued for {missing} too.",
        metadata={"method": method, "scopes": missing},
    )


def _any_of(roles: frozenset[str]) -> str:
    *others, last = sorted(roles)
    return f"{', '.join(others)} or {last}" if others else last


def _mismatch(key: str, what: str) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_IDENTITY_MISMATCH, f"The metadata {key} {what}; leave it out.", metadata={"key": key}
    )
