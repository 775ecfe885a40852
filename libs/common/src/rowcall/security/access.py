"""An access rule: who may call a method, as a value and as settings write it.

Made by the catalogue of what images and our own protos say, and of settings; held against callers by the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from rowcall.security.roles import ROLES

MAX_NAME_CHARS: Final = 255
"""Of a role or a scope."""

HOW: Final = "write roles:caller, roles:caller,operator scopes:shop.read, or public"
"""How a rule is written in settings."""

_NAME: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
"""Printable ASCII but the comma and the blank, which part names in settings, tokens and messages."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Who may call: whoever has one of the roles, where any is said, and all of the scopes. One that says nothing lets nobody."""

    roles: frozenset[str] = frozenset()
    """Any of them is enough."""
    scopes: frozenset[str] = frozenset()
    """All of them are needed."""
    public: bool = False
    """Whoever reaches the gateway, without a credential."""

    @property
    def closed(self) -> bool:
        """Whether it lets nobody call."""
        return not (self.roles or self.scopes or self.public)

    def lets(self, roles: Collection[str], scopes: Collection[str]) -> bool:
        """Whether a caller with these roles and scopes may call."""
        if self.public:
            return True
        if self.closed or not self.scopes.issubset(scopes):
            return False
        return not self.roles or not self.roles.isdisjoint(roles)

    def __str__(self) -> str:
        """As settings have it; "nobody" where it is closed."""
        if self.public:
            return "public"
        parts = [
            f"{kind}:{','.join(sorted(names))}"
            for kind, names in (("roles", self.roles), ("scopes", self.scopes))
            if names
        ]
        return " ".join(parts) or "nobody"


CLOSED: Final = AccessRule()
"""Lets nobody call: the rule of what has none."""


def parse_rule(text: str) -> AccessRule:
    """A rule as settings have it: "roles:caller,operator scopes:shop.read", or "public".

    Raises:
        ValueError: It is none; the message says what is wrong and how it is written.
    """
    if text.split() == ["public"]:
        return AccessRule(public=True)
    found: dict[str, frozenset[str]] = {}
    for part in text.split():
        kind, colon, names = part.partition(":")
        if kind not in ("roles", "scopes") or not colon or kind in found:
            raise ValueError(f"is no access rule; {HOW}")
        found[kind] = frozenset(name for name in names.split(",") if name)
        if not found[kind]:
            raise ValueError(f"has {kind}: without a name; {HOW}")
    if not found:
        raise ValueError(f"is no access rule; {HOW}")
    rule = AccessRule(found.get("roles", frozenset()), found.get("scopes", frozenset()))
    for problem in wrong_names(rule.roles, rule.scopes):
        raise ValueError(f"has {problem}")
    return rule


def wrong_names(roles: Iterable[str], scopes: Iterable[str]) -> list[str]:
    """What is wrong with names of roles and scopes, and what to do about each."""
    problems = []
    for kind, names in (("role", roles), ("scope", scopes)):
        for name in sorted(set(names)):
            if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
                problems.append(
                    f"the {kind} {name[:80]!r}, which no credential can give: use printable ASCII without blanks and "
                    f"commas, {MAX_NAME_CHARS} characters at most"
                )
            elif kind == "role" and name not in ROLES and (meant := name.casefold().replace("_", "-")) in ROLES:
                problems.append(f"the role {name!r}, which is none of Rowcall's: write {meant!r}")
    return problems
