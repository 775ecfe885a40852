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
    "rowcall-gateway": frozenset(
        {
            "ROWCALL_ACCESS_DEFAULT",
            "ROWCALL_CERTIFICATES",
            "ROWCALL_DRAIN_NOTICE",
            "ROWCALL_GATHER",
            "ROWCALL_GATHER_ABOVE",
            "ROWCALL_GRACE",
            "ROWCALL_HEALTH_LISTEN",
            "ROWCALL_IDENTITY",
            "ROWCALL_IMAGES",
            "ROWCALL_IMAGE_ROLES",
            "ROWCALL_IMAGE_SCOPES",
            "ROWCALL_ISSUERS",
            "ROWCALL_KEY_TTL",
            "ROWCALL_LISTEN",
            "ROWCALL_MAX_BATCH_BYTES",
            "ROWCALL_MAX_CALL_WAIT",
            "ROWCALL_MAX_REQUEST_BYTES",
            "ROWCALL_MAX_WAITERS",
            "ROWCALL_OPS_LISTEN",
            "ROWCALL_PLAINTEXT",
            "ROWCALL_PROBE",
            "ROWCALL_PROCESSES",
            "ROWCALL_PUBLIC_TENANT",
            "ROWCALL_REFLECTION",
            "ROWCALL_REFLECTION_ACCESS",
            "ROWCALL_SUBMIT_BATCH",
            "ROWCALL_TLS_CERT",
            "ROWCALL_TLS_CLIENT_CA",
            "ROWCALL_TLS_KEY",
            "ROWCALL_TRACES_ASKED",
        }
    ),
    "rowcall-worker": frozenset(
        {
            "ROWCALL_ALLOW_FAULTS",
            "ROWCALL_ATTEMPT_LINES",
            "ROWCALL_AUDIT_RETENTION",
            "ROWCALL_GRACE",
            "ROWCALL_IMAGES",
            "ROWCALL_HEALTH_FILE",
            "ROWCALL_LEASE",
            "ROWCALL_MAX_REQUEST_BYTES",
            "ROWCALL_MAX_RESPONSE_BYTES",
            "ROWCALL_OPS_LISTEN",
            "ROWCALL_POLL",
            "ROWCALL_PRICES",
            "ROWCALL_PROBE",
            "ROWCALL_PROCESSES",
            "ROWCALL_QUEUES",
            "ROWCALL_SERVICERS",
            "ROWCALL_SLOTS",
            "ROWCALL_THREADS",
            "ROWCALL_TRACES_ASKED",
            "ROWCALL_TRACE_RELATION",
            "ROWCALL_TRANSACTION_LIMIT",
            "ROWCALL_TRANSACTION_WAIT",
        }
    ),
    "rowcall": frozenset(
        {
            "ROWCALL_ADDRESS",
            "ROWCALL_CLI_TLS",
            "ROWCALL_CLI_TLS_CA",
            "ROWCALL_CLI_TLS_CERT",
            "ROWCALL_CLI_TLS_KEY",
            "ROWCALL_CLI_TLS_NAME",
            "ROWCALL_REASON",
            "ROWCALL_TENANT",
            "ROWCALL_TOKEN",
            "ROWCALL_TOKEN_FILE",
            "ROWCALL_TOKEN_OVER_PLAINTEXT",
        }
    ),
    "embedded Postgres": frozenset({"ROWCALL_POSTGRES_BIN"}),
    "docker-compose.yml": frozenset({"ROWCALL_PASSWORD"}),
}
"""What each program reads beyond `ClusterSettings`. A test compares it with the programs' own declarations."""

_SERVICE: Final = re.compile(
    r"""ROWCALL(?:_[A-Z0-9]+)*_(?:
        SERVICE_HOST=[0-9a-f.:]+ | SERVICE_PORT(?:_[A-Z0-9_]+)?=\d+
        | PORT=(?:tcp|udp|sctp)://.* | PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?=.+
    )""",
    re.VERBOSE,
)
"""What Kubernetes adds to a pod's environment for a service whose name begins with "rowcall"."""

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
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _SERVICE.fullmatch(f"{name}={value}")
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one is most like; None if none is near."""
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return found[0] if found else None
