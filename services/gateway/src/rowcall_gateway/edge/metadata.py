"""The metadata that a call may carry: one closed table, read once for each call by the interceptor.

Keys of ours begin with "rowcall-", and one that is not in the table is refused, so that a typo does not vanish.
Everybody else's keys (x-goog-*, user-agent, …) are left alone. The trace headers are `rowcall.tracing`'s.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote

from rowcall.errors import RowcallError
from rowcall.options.v1.job_pb2 import Priority
from rowcall.v1.error_reason_pb2 import ErrorReason

IDEMPOTENCY_KEY: Final = "idempotency-key"
PREFER: Final = "prefer"
RUN_AT: Final = "rowcall-run-at"
PRIORITY: Final = "rowcall-priority"
FAIRNESS_KEY: Final = "rowcall-fairness-key"
LABEL_PREFIX: Final = "rowcall-label-"
ON_DONE: Final = "rowcall-on-done"
TENANT: Final = "rowcall-tenant"
ACTOR: Final = "rowcall-actor"
REASON: Final = "rowcall-reason"
PREVIOUS_ATTEMPTS: Final = "grpc-previous-rpc-attempts"
"""Set by gRPC itself on a call that it repeats (gRFC A6)."""

OPERATION: Final = "rowcall-operation"
"""The one key that the gateway answers with: the operation's name."""

MAX_KEY_CHARS: Final = 255
"""Of an idempotency key, an actor and a label's value."""

MAX_LABELS: Final = 16

MAX_REASON_CHARS: Final = 1000
"""Of a reason, once it is decoded; as of a request's note."""

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9998, 12, 31, tzinfo=UTC)
"""The times that a job can be scheduled for; a year's room, so that they exist in every time zone."""

MAX_WAIT: Final = timedelta(days=1)
"""A longer `prefer: wait` means this much: every call ends sooner anyway."""

_T = TypeVar("_T")
_ZERO: Final = timedelta(0)
_NOT_AT_ALL: Final = ["wait=0"]
_OURS: Final = "rowcall-"
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_FAIRNESS: Final = re.compile(r"[\x21-\x7e]{1,63}")
_LANES: Final[Mapping[str, int]] = MappingProxyType(
    {name.removeprefix("PRIORITY_").lower(): number for name, number in Priority.items() if number > 0}
)


_NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})


class CallMetadata(NamedTuple):
    """What a call's metadata says."""

    idempotency_key: str | None = None
    """The same key of the same method is the same job."""
    wait: timedelta | None = None
    """How long the caller would wait (`prefer: wait=N`, RFC 7240); zero: only until the row is durable."""
    run_at: datetime | None = None
    """Not to be started before this time (aware)."""
    priority: int | None = None
    """rowcall.options.v1.Priority, if not the method's."""
    fairness_key: str | None = None
    """Shares the tenant's turn within the tenant."""
    labels: Mapping[str, str] = _NO_LABELS
    """To find the job by."""
    on_done: str | None = None
    """The method of a job to be submitted when this one has ended; `drafts` decides whether it can be."""
    tenant: str | None = None
    """What the caller says its tenant is; `identity` decides whether that counts."""
    actor: str | None = None
    """What the caller says who triggered the call; `identity` decides whether that counts."""
    previous_attempts: int = 0
    """How often gRPC itself has sent the call before."""
    reason: str | None = None
    """What an operator's action is for; recorded with it."""


def read_metadata(items: Iterable[tuple[str, str | bytes]]) -> CallMetadata:
    """Reads a call's metadata.

    Raises:
        RowcallError: UNKNOWN_METADATA or INVALID_METADATA, with the key.
    """
    values: dict[str, str] = {}
    labels: dict[str, str] | None = None
    preferences: list[str] | None = None
    for key, value in items:
        if key in _SINGLE:
            if key in values:
                raise _invalid(key, "is given more than once; give it once")
            values[key] = _text(key, value)
        elif key == PREFER:
            preferences = preferences or []
            preferences.append(_text(key, value))
        elif key.startswith(LABEL_PREFIX):
            labels = labels or {}
            _add_label(labels, key, value)
        elif key.startswith(_OURS):
            raise _unknown(key)
    # What is absent nearly always costs nothing.
    get = values.get
    rare = values.keys() & _RARE
    return CallMetadata(
        _read(IDEMPOTENCY_KEY, get(IDEMPOTENCY_KEY), _bounded),
        None if preferences is None else _wait(preferences),
        _read(RUN_AT, get(RUN_AT), _time) if rare else None,
        _read(PRIORITY, get(PRIORITY), _lane) if rare else None,
        _read(FAIRNESS_KEY, get(FAIRNESS_KEY), _fairness) if rare else None,
        _NO_LABELS if labels is None else labels,
        _read(ON_DONE, get(ON_DONE), _bounded) if rare else None,
        get(TENANT),
        _read(ACTOR, get(ACTOR), _bounded),
        (_read(PREVIOUS_ATTEMPTS, get(PREVIOUS_ATTEMPTS), _count) or 0) if rare else 0,
        _read(REASON, get(REASON), _reason) if rare else None,
    )


_RARE: Final = frozenset({RUN_AT, PRIORITY, FAIRNESS_KEY, ON_DONE, PREVIOUS_ATTEMPTS, REASON})
_SINGLE: Final = frozenset({IDEMPOTENCY_KEY, TENANT, ACTOR}) | _RARE
_KNOWN: Final = sorted(key for key in _SINGLE if key.startswith(_OURS))


def _read(key: str, value: str | None, parse: Callable[[str, str], _T]) -> _T | None:
    return None if value is None else parse(key, value)


def _text(key: str, value: str | bytes) -> str:
    if isinstance(value, bytes):
        raise _invalid(key, "is binary; send text under a key without the suffix -bin")
    if not value.isascii():
        # gRPC's metadata is ASCII. What comes all the same is read as one encoding by one library, as another by the next.
        raise _invalid(key, "is not ASCII, which is all that metadata can hold; percent-encode it, or leave it out")
    return value


def _bounded(key: str, value: str) -> str:
    if not 1 <= len(value) <= MAX_KEY_CHARS:
        raise _invalid(key, f"has {len(value)} characters; it may have 1 to {MAX_KEY_CHARS}")
    return value


def _reason(key: str, value: str) -> str:
    """Words of any language, percent-encoded as in a URL."""
    try:
        text = unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise _invalid(key, "is not UTF-8 once its percent-encoding is undone") from None
    if not 1 <= len(text) <= MAX_REASON_CHARS or "\0" in text:
        raise _invalid(key, f"must have 1 to {MAX_REASON_CHARS} characters, none of them NUL")
    return text


def _time(key: str, value: str) -> datetime:
    try:
        # `fromisoformat` alone takes all of ISO 8601: weeks, basic notation, times without minutes.
        time = datetime.fromisoformat(value.upper()) if _RFC_3339.fullmatch(value) else None
    except ValueError:
        time = None
    if time is None:
        raise _invalid(key, "is not a time with its zone; write it as RFC 3339, for example 2031-05-04T13:30:00Z")
    if not EARLIEST <= time <= LATEST:
        raise _invalid(key, f"is not from {EARLIEST:%Y} to {LATEST:%Y}")
    return time


def _lane(key: str, value: str) -> int:
    lane = _LANES.get(value.lower().removeprefix("priority_"))
    if lane is None:
        raise _invalid(key, f"is none of {', '.join(_LANES)}")
    return lane


def _fairness(key: str, value: str) -> str:
    if not _FAIRNESS.fullmatch(value):
        raise _invalid(key, "is not 1 to 63 printable characters without blanks")
    return value


def _count(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise _invalid(key, "is not a number; it is gRPC's own to set")
    return int(value[:9])


def _wait(preferences: Iterable[str]) -> timedelta | None:
    """RFC 7240: the first `wait` counts, parameters and other preferences are nobody's fault."""
    if preferences == _NOT_AT_ALL:
        return _ZERO
    for preference in ",".join(preferences).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = value.strip().strip('"')
            if not seconds.isascii() or not seconds.isdigit():
                raise _invalid(PREFER, "has a wait that is not a whole number of seconds; write prefer: wait=5")
            return min(timedelta(seconds=int(seconds[:9])), MAX_WAIT)
    return None


def _add_label(labels: dict[str, str], key: str, value: str | bytes) -> None:
    name = key.removeprefix(LABEL_PREFIX)
    text = _text(key, value)
    if not _LABEL.fullmatch(name):
        raise _invalid(key, "names no label: lower-case letters, digits, '_', '.' and '-', 63 characters at most")
    if name in labels:
        raise _invalid(key, "is given more than once; give it once")
    if len(text) > MAX_KEY_CHARS:
        raise _invalid(key, f"has {len(text)} characters; a label's value may have {MAX_KEY_CHARS}")
    if len(labels) == MAX_LABELS:
        raise _invalid(key, f"is one label too many; a call may have {MAX_LABELS}")
    labels[name] = text


def _invalid(key: str, what: str) -> RowcallError:
    # Said twice: of a key as long as all of a call's metadata, more than the answer's can hold.
    key = key[:MAX_KEY_CHARS]
    return RowcallError(ErrorReason.ERROR_REASON_INVALID_METADATA, f"The metadata {key} {what}.", metadata={"key": key})


def _unknown(key: str) -> RowcallError:
    known = [*_KNOWN, LABEL_PREFIX + "NAME"]
    key = key[:MAX_KEY_CHARS]
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}."
    return RowcallError(
        ErrorReason.ERROR_REASON_UNKNOWN_METADATA,
        f"There is no metadata {key}; {hint}",
        metadata={"key": key},
    )
