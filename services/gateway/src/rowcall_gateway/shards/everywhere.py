"""One question to every shard at once, each of which has its own time to answer. Called by `queues` and `changes`.

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
    remaining = call.remaining()
    patience = PATIENCE if remaining is None else min(PATIENCE, max(remaining - margin(remaining), 0))

    async def ask(link: ShardLink) -> T | RowcallError:
        async def answer() -> T:
            return await question(link)

        try:
            return await bounded(answer(), patience)
        except RowcallError as error:
            return error
        except TimeoutError:
            return shard_unavailable(link.name, f"did not answer within {patience:.1f} s")

    asked = list(links)
    answers = await asyncio.gather(*(ask(link) for link in asked))
    given: dict[str, T] = {}
    missing: dict[str, RowcallError] = {}
    for link, answer in zip(asked, answers, strict=True):
        if isinstance(answer, RowcallError):
            _log.warning("a shard did not answer", shard=link.name, reason=reason_name(answer.reason))
            missing[link.name] = answer
        else:
            given[link.name] = answer
    return Answers(given, missing)


def listed(shards: Iterable[str]) -> str:
    """Shards by name, for people: "shard a", "shards a, b"."""
    names = sorted(shards)
    return f"{'shard' if len(names) == 1 else 'shards'} {', '.join(names)}"
