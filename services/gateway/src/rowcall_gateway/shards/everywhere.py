"""One question to every shard at once, each of which has its own time to answer. Called by most of `services`, and by `looks`.

What one shard does is no matter to the others: its answer is there or it is missing, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog

from rowcall.errors import RowcallError, reason_name
from rowcall.sharding.bounded import bounded
from rowcall.sharding.faults import RETRY_AFTER, shard_unavailable
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.deadlines import margin
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.shards.links import ShardLink

PATIENCE: Final = 5.0
"""Seconds that a shard has to answer, where the call leaves as much."""

_log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """What the shards said."""

    given: Mapping[str, T]
    """By shard: those that answered."""
    missing: Mapping[str, RowcallError]
    """By shard: those that did not, and why."""

    def unreachable(self) -> RowcallError:
        """The error of a call that the shards that answered cannot answer alone."""
        return RowcallError(
            ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
            f"{listed(self.missing)} did not answer, and the call cannot be answered without. Call again later.",
            metadata={"shard": ",".join(sorted(self.missing))},
            retry_after=RETRY_AFTER,
        )


async def ask_everywhere(
    links: Iterable[ShardLink], question: Callable[[ShardLink], Awaitable[T]], call: IncomingCall
) -> Answers[T]:
    """Asks every shard at once, and waits for each as long as the call has time, at most PATIENCE.

    A question that writes is not taken back when its time is up: the shard may still do it.
    """
    asked = list(links)
    seconds = patience(call)
    answers = await asyncio.gather(*(ask_one(link, question, seconds) for link in asked))
    given: dict[str, T] = {}
    missing: dict[str, RowcallError] = {}
    for link, answer in zip(asked, answers, strict=True):
        if isinstance(answer, RowcallError):
            missing[link.name] = answer
        else:
            given[link.name] = answer
    return Answers(given, missing)


async def ask_one(link: ShardLink, question: Callable[[ShardLink], Awaitable[T]], seconds: float) -> T | RowcallError:
    """What one shard says within so many seconds, or why it says nothing."""

    async def answer() -> T:
        return await question(link)

    try:
        return await bounded(answer(), seconds)
    except RowcallError as error:
        why = error
    except TimeoutError:
        why = shard_unavailable(link.name, f"did not answer within {seconds:.1f} s")
    _log.warning("a shard did not answer", shard=link.name, reason=reason_name(why.reason))
    return why


def patience(call: IncomingCall) -> float:
    """Seconds that a call can wait for a shard."""
    remaining = call.remaining()
    return PATIENCE if remaining is None else min(PATIENCE, max(remaining - margin(remaining), 0))


def listed(shards: Iterable[str]) -> str:
    """Shards by name, for people: "shard a", "shards a, b"."""
    names = sorted(shards)
    return f"{'shard' if len(names) == 1 else 'shards'} {', '.join(names)}"
