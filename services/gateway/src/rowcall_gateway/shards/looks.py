"""A question to every shard whose answer many want to know: asked once in a while, however many they are. Called by `workers`, `activity` and `errors`.

Nobody who watches costs the shards more than the first one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from rowcall.errors import RowcallError
from rowcall.sharding.faults import shard_unavailable
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.shards.everywhere import PATIENCE, Answers, ask_one, patience
from rowcall_gateway.shards.links import ShardLink

KEPT: Final = 1.0
"""Seconds for which a shard's answer is given to whoever asks."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Look(Generic[T]):
    """A shard was asked."""

    at: datetime
    until: float
    """The loop's time until which its answer holds."""
    answer: asyncio.Task[T | RowcallError]


class Looks(Generic[T]):
    """One question."""

    def __init__(self, links: Iterable[ShardLink], question: Callable[[ShardLink], Awaitable[T]]) -> None:
        """
        Args:
            links: The shards.
            question: What is asked of each.
        """
        self._links = links
        self._question = question
        self._looks: dict[str, _Look[T]] = {}

    async def answers(self, call: IncomingCall) -> tuple[datetime, Answers[T]]:
        """When the last one was asked, and what they said, as far as the call has time to wait for it."""
        now = asyncio.get_running_loop().time()
        for link in self._links:
            look = self._looks.get(link.name)
            # One that is on its way is waited for: a shard that hangs is not asked again meanwhile.
            if look is None or (look.answer.done() and now >= look.until):
                self._looks[link.name] = self._look(link, now)
        looks = dict(self._looks)
        # Who leaves does not take the answers from the others.
        await asyncio.wait([look.answer for look in looks.values()], timeout=patience(call))
        given: dict[str, T] = {}
        missing: dict[str, RowcallError] = {}
        for shard, look in looks.items():
            answer = look.answer.result() if look.answer.done() else shard_unavailable(shard, "did not answer in time")
            if isinstance(answer, RowcallError):
                missing[shard] = answer
            else:
                given[shard] = answer
        return max(look.at for look in looks.values()), Answers(given, missing)

    def forget(self) -> None:
        """Something was changed: whoever asks from now on is not told of before."""
        self._looks = {}

    def _look(self, link: ShardLink, now: float) -> _Look[T]:
        answer = asyncio.get_running_loop().create_task(
            ask_one(link, self._question, PATIENCE), name=f"look at shard {link.name}"
        )
        return _Look(datetime.now(UTC), now + KEPT, answer)
