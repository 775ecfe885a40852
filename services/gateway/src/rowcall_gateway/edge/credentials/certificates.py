"""The file ROWCALL_CERTIFICATES: who a client certificate is, by its names. Read by the settings and by `opening`.

TOML or JSON, by the file's ending. A table [[certificate]] each, the first that fits counts:

    [[certificate]]
    uri = "spiffe://prod.example/ns/{tenant}/sa/{actor}"
    roles = ["caller"]

    [[certificate]]
    dns = "billing.callers.example.com"
    tenant = "acme"
    roles = ["caller", "operator"]

In a pattern "{tenant}" and "{actor}" are what stands there in the name, "*" is anything; none of them goes beyond a "/", or, in a
DNS name, a ".". Names of other kinds (common name, e-mail, IP address) are never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rowcall.names import is_tenant
from rowcall.security.roles import ADMIN
from rowcall_gateway.edge.credentials.claims import matches
from rowcall_gateway.edge.credentials.issuers import (
    RoleName,
    TenantName,
    TenantPattern,
    Text,
    read_document,
    wrong,
)
from rowcall_gateway.edge.metadata import MAX_KEY_CHARS

URI: Final = "peer_uri"
DNS: Final = "peer_dns"
"""Where gRPC's auth_context has a verified certificate's names. The key of all names together does not say of what kind each is."""

_HOLES: Final = {"{tenant}": "tenant", "{actor}": "actor"}
_PARTS: Final = re.compile(r"(\{tenant\}|\{actor\}|\*)")


class Rule(BaseModel):
    """Who certificates of some names are."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    uri: Text | None = None
    """A pattern of URI names, such as SPIFFE ids."""
    dns: Text | None = None
    """A pattern of DNS names."""
    tenant: TenantName | None = None
    """Whose data it may touch, where its name does not say so."""
    tenants: tuple[TenantPattern, ...] | None = None
    """With tokens beside certificates: the tenants that a token over this connection may be of. "*" is all."""
    actor: Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARS)] | None = None
    """Who it is, as rows and logs tell it; None: what {actor} is, or else the certificate's name."""
    roles: tuple[RoleName, ...] = ()
    """What it may; not asked where the token says it."""
    scopes: tuple[Text, ...] = ()
    """As roles."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.uri is None) == (self.dns is None):
            raise ValueError("has neither or both of uri and dns: name one")
        pattern = self.pattern
        if any(pattern.count(hole) > 1 for hole in _HOLES):
            raise ValueError("has {tenant} or {actor} twice")
        if re.search(r"[{}]", _PARTS.sub("", pattern)):
            raise ValueError("has braces around something else than tenant and actor")
        if self.uri is not None and not re.match(r"[a-z][a-z0-9+.-]*:", self.uri):
            raise ValueError("has a uri without a scheme, such as spiffe:")
        said = [self.tenant is not None, self.tenants is not None, "{tenant}" in pattern]
        if sum(said) > 1:
            raise ValueError("says its tenant in more than one way: take one of tenant, tenants and {tenant}")
        if not any(said) and ADMIN not in self.roles:
            raise ValueError(
                "does not say its tenant: by tenant, by {tenant} in the pattern, or, with tokens, by tenants"
            )
        if self.actor is not None and "{actor}" in pattern:
            raise ValueError("says its actor twice")
        return self

    @property
    def pattern(self) -> str:
        """Of the names that it is for."""
        return self.uri or self.dns or ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    certificate: Annotated[tuple[Rule, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a certificate is."""

    name: str
    """The name by which it is known."""
    tenant: str
    """Empty where the rule does not say one."""
    actor: str
    tenants: Sequence[str]
    """Patterns of the tenants that it may act for."""
    roles: frozenset[str]
    scopes: frozenset[str]

    def may_act_for(self, tenant: str) -> bool:
        """Whether a token that comes with it may be of this tenant."""
        return matches(tenant, self.tenants)

    @property
    def may_act_for_all(self) -> bool:
        """Whether it is bound to no tenant."""
        return "*" in self.tenants


class Rules:
    """The rules of a file, in their order."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [(rule, _compiled(rule)) for rule in rules]

    @property
    def without_tenant(self) -> Sequence[int]:
        """The rules, by their places, that say no tenant of their own: tokens must, beside them."""
        return [
            number
            for number, (rule, _) in enumerate(self._rules)
            if rule.tenant is None and "{tenant}" not in rule.pattern and ADMIN not in rule.roles
        ]

    def find(self, names: Mapping[str, Sequence[bytes]]) -> Holder | None:
        """Who a certificate is; None where no rule names it.

        Args:
            names: gRPC's auth_context.
        """
        uris = [name.decode("utf-8", "replace") for name in names.get(URI, ())]
        hosts = [name.decode("utf-8", "replace").lower() for name in names.get(DNS, ())]
        for rule, compiled in self._rules:
            for name in uris if rule.uri is not None else hosts:
                match = compiled.fullmatch(name)
                holder = None if match is None else _holder(rule, name, match.groupdict())
                if holder is not None:
                    return holder
        return None


def read_rules(file: Path) -> Rules:
    """The rules of a file.

    Raises:
        ValueError: With all that is wrong in it, a line each.
        OSError: It cannot be read.
    """
    try:
        found = _File.model_validate(read_document(file))
    except ValidationError as error:
        raise ValueError(wrong(error)) from None
    return Rules(found.certificate)


def _compiled(rule: Rule) -> re.Pattern[str]:
    inner = r"[^/]" if rule.uri is not None else r"[^.]"
    parts = [
        f"(?P<{_HOLES[part]}>{inner}+)" if part in _HOLES else f"{inner}+" if part == "*" else re.escape(part)
        for part in _PARTS.split(rule.pattern if rule.uri is not None else rule.pattern.lower())
    ]
    return re.compile("".join(parts))


def _holder(rule: Rule, name: str, found: Mapping[str, str]) -> Holder | None:
    tenant = rule.tenant or found.get("tenant", "")
    actor = rule.actor or found.get("actor", name)
    # What stands at {tenant} may be no tenant's name, and an actor may be longer than rows have it: it is nobody we know.
    if (tenant and not is_tenant(tenant)) or len(actor) > MAX_KEY_CHARS or not actor.isprintable():
        return None
    own = (tenant,) if tenant else ("*",)
    return Holder(
        name,
        tenant,
        actor,
        own if rule.tenants is None else rule.tenants,
        frozenset(rule.roles),
        frozenset(rule.scopes),
    )
