"""How people name jobs on the command line: by the whole name, or by its id alone; and how they name traces. Used by `jobs`, `job_actions`,
`spend` and `trace`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from rowcall.names import operation_name, parse_operation_name
from rowcall.tracing import TraceContext
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import default_tenant

FORMS: Final = "tenants/{tenant}/operations/{uuid}, or the uuid alone"
"""What a job's name looks like, for help and errors."""

TRACE_FORMS: Final = "32 hex digits, or a whole traceparent"
"""What a trace's name looks like, for help and errors."""

_TRACE: Final = re.compile(r"[0-9A-Fa-f]{32}")
_ID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def is_name(text: str) -> bool:
    """Whether a text is a job's name, whole or its id alone."""
    return _ID.fullmatch(text) is not None or parse_operation_name(text) is not None


def trace_named(text: str) -> str | None:
    """The id of the trace that a text names, 32 hex digits in lower case; None: it names none."""
    if _TRACE.fullmatch(text):
        return text.lower()
    found = TraceContext.parse(text.lower())
    return None if found is None else found.trace_id


def read_names(names: Sequence[str], tenant: str | None) -> tuple[str, list[str]]:
    """The tenant to call for, and the jobs' whole names: an id alone, as logs and SQL have it, is a job of that tenant.

    Args:
        names: As they were typed.
        tenant: The one that was said; None: the first whole name's, else the default. Empty: the credential's, which only the
            gateway knows.

    Raises:
        CommandError: USAGE: one is no name.
    """
    if tenant is None:
        tenant = next((found[0] for name in names if (found := parse_operation_name(name))), default_tenant())
    return tenant, [_whole(name, tenant) for name in names]


def _whole(name: str, tenant: str) -> str:
    if _ID.fullmatch(name):
        if not tenant:
            raise CommandError(
                f"{name!r} is a job's id alone, and the gateway knows whose job is meant by the credential only: say the tenant too "
                "(--tenant NAME), or the whole name.",
                ExitCode.USAGE,
            )
        return operation_name(tenant, UUID(name))
    if parse_operation_name(name) is None:
        raise CommandError(f"{name!r} is not a job's name: it looks like {FORMS}.", ExitCode.USAGE)
    return name
