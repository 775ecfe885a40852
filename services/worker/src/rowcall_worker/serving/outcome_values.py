"""What a handler can say of its job instead of answering: exceptions that it raises. Read by `rowcall_worker.running.outcomes`.

`raise Snooze(timedelta(minutes=5))`, or `context.snooze(timedelta(minutes=5))`, which does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import grpc
from google.protobuf.message import Message

LONGEST_DELAY: Final = timedelta(days=366)
"""The longest wait that a handler may ask for."""


class OutcomeValue(Exception):
    """The outcome of an attempt, as its handler wants it."""


class Snooze(OutcomeValue):
    """Not now: the job runs again after a while, and this attempt is not used up."""

    def __init__(self, delay: timedelta) -> None:
        """Raises ValueError or TypeError for a delay that is none, is negative or longer than 366 days."""
        super().__init__(f"the job asks to run again in {_checked(delay)}")
        self.delay = delay


class Retry(OutcomeValue):
    """This attempt failed and the next may not: the job is tried again while attempts are left, else it is FAILED."""

    def __init__(self, delay: timedelta | None = None, message: str = "") -> None:
        """Args:
            delay: How long to wait; None: as the method's backoff has it.
            message: What went wrong, for the attempt's record and, after the last one, the caller.

        Raises ValueError or TypeError as Snooze does.
        """
        super().__init__(message or "the handler asks for another attempt")
        self.delay = None if delay is None else _checked(delay)
        self.message = message


class Cancel(OutcomeValue):
    """There is no point in it any more: the job ends as CANCELLED."""

    def __init__(self, message: str = "") -> None:
        """Args:
        message: Why, for the caller.
        """
        super().__init__(message or "the handler cancelled its job")
        self.message = message


class Fail(OutcomeValue):
    """The job is FAILED, whatever the code and however many attempts are left."""

    def __init__(self, code: grpc.StatusCode, message: str, details: Sequence[Message] = ()) -> None:
        """Args:
            code: The status's code, for the caller; neither OK nor CANCELLED.
            message: Its message.
            details: Messages for its details, of google.rpc or your own.

        Raises ValueError for a code that is no failure, TypeError for one that is no grpc.StatusCode and for details
        that are no messages.
        """
        if not isinstance(code, grpc.StatusCode):
            raise TypeError(f"Fail needs a grpc.StatusCode, not {code!r}")
        if code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            raise ValueError(f"{code.name} is no failure: return a response, or raise Cancel")
        for detail in details:
            if not isinstance(detail, Message):
                raise TypeError(f"Fail's details are protobuf messages, not {type(detail).__name__}")
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.details = tuple(details)


def _checked(delay: timedelta) -> timedelta:
    if not isinstance(delay, timedelta):
        raise TypeError(f"a delay is a datetime.timedelta, not {delay!r}")
    if not timedelta(0) <= delay <= LONGEST_DELAY:
        raise ValueError(f"a delay is between nothing and 366 days, not {delay}")
    return delay
