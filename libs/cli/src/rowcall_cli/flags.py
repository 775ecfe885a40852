"""Times, spans and labels as people write them on the command line. Used by `job_filters`, `jobs`, `submit` and `admission`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from rowcall_cli.errors import CommandError, ExitCode

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def past_flag(flag: str, text: str) -> Timestamp | None:
    """The time that a flag says, as such or as how long ago it was; None where it was not given.

    Raises CommandError (USAGE).
    """
    return _time(flag, text, -1, "2h for two hours ago")


def future_flag(flag: str, text: str) -> Timestamp | None:
    """The time that a flag says, as such or as how far ahead of this machine's clock; None where it was not given.

    Raises CommandError (USAGE).
    """
    return _time(flag, text, 1, "2h for two hours from now")


def span_flag(flag: str, text: str) -> timedelta | None:
    """The span of time that a flag says; None where it was not given.

    Raises CommandError (USAGE).
    """
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    if span is None:
        raise CommandError(f"{flag} {text!r} is no span of time: write 90s, 10m, 2h or 1d.", ExitCode.USAGE)
    return timedelta(**{_UNITS[span[2]]: int(span[1])})


def label_flags(texts: Sequence[str] | None) -> Mapping[str, str]:
    """The labels that a repeated --label says.

    Raises CommandError (USAGE).
    """
    labels: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise CommandError(f"--label {text!r} is no label: write KEY=VALUE.", ExitCode.USAGE)
        if labels.setdefault(key, value) != value:
            raise CommandError(f"--label gives {key!r} two values: a job has one.", ExitCode.USAGE)
    return labels


def _time(flag: str, text: str, direction: int, example: str) -> Timestamp | None:
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    try:
        time = (
            datetime.fromisoformat(text).astimezone()
            if span is None
            else datetime.now(UTC) + direction * timedelta(**{_UNITS[span[2]]: int(span[1])})
        )
        made = Timestamp()
        made.FromDatetime(time)
    except (ValueError, OverflowError) as error:
        raise CommandError(
            f"{flag} {text!r} is no time: write 2031-05-04T13:30:00+02:00, or {example} (s, m, h, d).",
            ExitCode.USAGE,
        ) from error
    return made
