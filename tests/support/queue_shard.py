"""One shard's queue for tests that are not asynchronous themselves: hypothesis's state machines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from rowcall.catalogue.model import Policy
from tests.support.probe import Implementation
from tests.support.queues import opened

T = TypeVar("T")


class Shard:
    """One shard's queue."""

    def __init__(self, implementation: Implementation, runner: asyncio.Runner, policy: Policy, *tenants: str) -> None:
        """
        Args:
            implementation: Of the queue.
            runner: In whose loop everything is run.
            policy: Of METHOD.
            tenants: Who lives there.
        """
        self._runner = runner
        self._stack = AsyncExitStack()
        self.queue = self.run(self._stack.enter_async_context(opened(implementation, policy, tenants)))
        self.seen: Counter[str] = Counter()
        """What happened in all examples together."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something to its end."""
        return self._runner.run(work)

    def close(self) -> None:
        """Ends its connections."""
        self.run(self._stack.aclose())
