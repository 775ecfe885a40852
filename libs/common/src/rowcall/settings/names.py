"""Every environment variable that begins with ROWCALL_, whichever of our programs reads it.

Programs of one deployment often share an environment, so each must accept the names of all of them and still refuse
a typo. A class of settings adds its own names when it is defined; the tables here are for programs that are not
installed beside the one that starts. `load` asks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Final

PREFIX: Final = "ROWCALL_"

NEIGHBOURS: Final[Mapping[str, frozenset[str]]] = {
    "rowcall-gateway": frozenset(),
    "rowcall-worker": frozenset(),
    "rowcall": frozenset({"ROWCALL_ADDRESS", "ROWCALL_TENANT"}),
    "embedded Postgres": frozenset({"ROWCALL_POSTGRES_BIN"}),
}
"""What each program reads beyond `ClusterSettings`. A test compares it with the programs' own declarations."""

_LINK: Final = re.compile(
    r"ROWCALL(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)"
)
_LINK_VALUE: Final = re.compile(r"(?:tcp|udp|sctp)(?:://.*)?|\d+|[0-9a-f.:]+", re.IGNORECASE)

_declared: dict[str, frozenset[str]] = {}


def declare(owner: str, names: Iterable[str]) -> None:
    """Adds the environment variables that a class of settings reads, under the class's name."""
    _declared[owner] = frozenset(names)


def known_names() -> frozenset[str]:
    """Every name of ours: declared by classes of settings, or in the table of neighbours."""
    return frozenset().union(*_declared.values(), *NEIGHBOURS.values())


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """The variables that begin with our prefix and that nobody reads, sorted.

    Kubernetes gives each pod variables for each service of its namespace (a service "rowcall-gateway" makes
    ROWCALL_GATEWAY_PORT and ROWCALL_GATEWAY_SERVICE_HOST); these are left alone.
    """
    known = known_names()
    return sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(PREFIX)
        and name.upper() not in known
        and not (_LINK.fullmatch(name) and _LINK_VALUE.fullmatch(value))
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one is most like; None if none is near."""
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return found[0] if found else None
