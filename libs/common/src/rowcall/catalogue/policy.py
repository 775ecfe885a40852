"""A method's option rowcall.options.v1.job as a `Policy`, every default resolved and every bound checked.

Used by `rowcall.catalogue.methods`. The defaults are those of `Policy`; the option's comments state them too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from rowcall.catalogue.model import Policy
from rowcall.options.v1.job_pb2 import JobOptions, OnAbandon, Priority, Retention

MAX_ATTEMPTS: Final = 1000
"""As many attempts as a policy can allow."""
MAX_MULTIPLIER: Final = 1000.0
"""As steep as a backoff can be."""
MAX_WAIT: Final = timedelta(seconds=50)
"""As long as any call waits (a gateway's max_call_wait): idle calls are cut by proxies on their way."""

MAX_DURATION: Final = timedelta(days=365)
"""As long as any other duration can be."""

_DURATION_SECONDS: Final = 315_576_000_000  # the bound of google.protobuf.Duration itself
_QUEUE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DEFAULT: Final = Policy()


class PolicyError(ValueError):
    """An option that is no policy; the message has a line for each field that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def resolve(options: JobOptions) -> Policy:
    """The policy of an option.

    Raises:
        PolicyError: Fields are out of their bounds, or nothing enforces them; each is named, with what to do.
    """
    backoff = options.backoff
    problems: list[str] = []
    policy = Policy(
        queue=_queue(options.queue, problems),
        priority=_enum_value("priority", options.priority, Priority.items(), _DEFAULT.priority, problems),
        max_attempts=_max_attempts(options.max_attempts, problems),
        backoff_initial=_duration(
            "backoff.initial",
            backoff.initial if backoff.HasField("initial") else None,
            _DEFAULT.backoff_initial,
            problems,
        ),
        backoff_maximum=_duration(
            "backoff.maximum",
            backoff.maximum if backoff.HasField("maximum") else None,
            _DEFAULT.backoff_maximum,
            problems,
        ),
        backoff_multiplier=_multiplier(backoff.multiplier, problems),
        timeout=_duration(
            "timeout", options.timeout if options.HasField("timeout") else None, _DEFAULT.timeout, problems
        ),
        wait=_duration(
            "wait", options.wait if options.HasField("wait") else None, _DEFAULT.wait, problems, at_most=MAX_WAIT
        ),
        retention=_enum_value("retention", options.retention, Retention.items(), _DEFAULT.retention, problems),
        on_abandon=_enum_value("on_abandon", options.on_abandon, OnAbandon.items(), _DEFAULT.on_abandon, problems),
        deadline=_duration("deadline", options.deadline, timedelta(0), problems)
        if options.HasField("deadline")
        else None,
        retry_codes=_codes(options.retry_codes, problems),
    )
    if options.limits:
        problems.append("limits: this release enforces none; leave them out until the release that does")
    if not problems and policy.backoff_initial > policy.backoff_maximum:
        problems.append(
            f"backoff: initial ({_seconds(policy.backoff_initial)}) is longer than maximum "
            f"({_seconds(policy.backoff_maximum)}); set both"
        )
    if problems:
        raise PolicyError(problems)
    return policy


def _queue(name: str, problems: list[str]) -> str:
    if not name:
        return _DEFAULT.queue
    if _QUEUE.fullmatch(name) is None:
        problems.append(
            f'queue: {name[:80]!r} is no queue\'s name; use lower-case letters, digits, "-" and "_", a letter or '
            "digit first, 63 characters at most"
        )
    return name


def _max_attempts(value: int, problems: list[str]) -> int:
    # The field has no presence: 0 is "not set".
    if value > MAX_ATTEMPTS:
        problems.append(f"max_attempts: {value} is more than {MAX_ATTEMPTS}; set 1 to {MAX_ATTEMPTS}")
    return value or _DEFAULT.max_attempts


def _multiplier(value: float, problems: list[str]) -> float:
    # As above. A NaN is true and within no bounds.
    if value and not 1 <= value <= MAX_MULTIPLIER:
        problems.append(
            f"backoff.multiplier: {value:g} would make waits shrink or overflow; set 1 to {MAX_MULTIPLIER:g}"
        )
    return value or _DEFAULT.backoff_multiplier


def _codes(names: Sequence[str], problems: list[str]) -> tuple[int, ...]:
    unknown = sorted({name for name in names if name == "OK" or name not in Code.keys()})  # noqa: SIM118  no dict
    if unknown:
        problems.append(
            f"retry_codes: {', '.join(map(repr, unknown))} is no status of an error; write gRPC's names, such as UNAVAILABLE"
        )
        return _DEFAULT.retry_codes
    return tuple(sorted({Code.Value(name) for name in names})) or _DEFAULT.retry_codes


def _duration(
    field: str,
    value: Duration | None,
    default: timedelta,
    problems: list[str],
    *,
    at_most: timedelta = MAX_DURATION,
) -> timedelta:
    if value is None:
        return default
    if value.seconds * value.nanos < 0 or abs(value.nanos) >= 10**9 or abs(value.seconds) > _DURATION_SECONDS:
        problems.append(
            f"{field}: {value.seconds} s and {value.nanos} ns is no valid duration; give both one sign, and less than a "
            "second of ns"
        )
        return default
    length = value.ToTimedelta()
    if not timedelta(0) < length <= at_most:
        problems.append(
            f"{field}: {_seconds(length)} is out of bounds; set more than 0 s and at most {_seconds(at_most)}"
        )
    return length


def _enum_value(field: str, value: int, known: Sequence[tuple[str, int]], default: int, problems: list[str]) -> int:
    # The first value of each enum, 0, is "not set".
    if value not in (number for _, number in known):
        names = ", ".join(name for name, number in known if number)
        problems.append(f"{field}: {value} is no value that this release knows; set one of {names}")
    return value or default


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():g} s"
