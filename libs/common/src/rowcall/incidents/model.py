"""Incidents as they are noted and as they are kept. Values only."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from google.rpc.code_pb2 import Code

FAULTS: Final = frozenset({Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS, Code.UNAVAILABLE})
"""The codes of google.rpc that a fault of ours ends with."""


@dataclass(slots=True)
class Noted:
    """One kind of failure, as a process has met it since it last told of it."""

    fingerprint: str
    """Of all that are the same: 32 hexadecimal digits."""
    service: str
    """Who met it: "gateway", "worker"."""
    method: str
    """ "package.Service/Method"."""
    code: int
    """Of google.rpc."""
    kind: str
    """The types of the exception and its causes: "RowcallError(SHARD_UNAVAILABLE) < OperationalError(57P01)"."""
    location: str
    """Where it was raised: "module:function:line"; empty where it came through no code of ours or the handler's."""
    count: int
    first: float
    """time.monotonic() of the first time."""
    last: float
    trace_id: str
    """Of the last time; empty if that had none."""
    version: str
    """Of the program that met it."""


class IncidentState(enum.Enum):
    """Where an incident stands."""

    OPEN = "open"
    """Nobody has said that it is done with."""
    RESOLVED = "resolved"
    """Somebody has, and it has not been met since."""
    REGRESSED = "regressed"
    """Somebody had, and it has been met again."""


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident as a shard keeps it."""

    fingerprint: str
    service: str
    method: str
    code: int
    kind: str
    location: str
    count: int
    first_at: datetime
    last_at: datetime
    trace_id: str | None
    first_version: str
    last_version: str
    resolved_at: datetime | None
    resolved_by: str | None
    resolve_note: str | None
    regressions: int
    """How often it came back after it was resolved."""
