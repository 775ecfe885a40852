"""One shard's queue for tests that are not asynchronous themselves: hypothesis's state machines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, TypeVar

import psycopg

from rowcall.catalogue.model import Policy
from tests.fix_queue import METHOD, Logins, Queue, opened

T = TypeVar("T")

_ROWS = """
select job_id, state, held, lease, attempt, lost, lost_alone, replays, coalesce(jsonb_array_length(attempts), 0),
  cancel_requested_at is not null, worker_id
from rowcall.job
union all
select job_id, state, null, lease, attempt, lost, lost_alone, replays, coalesce(jsonb_array_length(attempts), 0),
  cancel_requested_at is not null, worker_id
from rowcall.job_history
"""

_PASS = """
update rowcall.job
set run_at = run_at - %(time)s, deadline = deadline - %(time)s, attempt_deadline = attempt_deadline - %(time)s,
  ready_at = ready_at - %(time)s;
update rowcall.worker set lease_until = lease_until - %(time)s, renewed_at = renewed_at - %(time)s
"""

_CLEAN = """
delete from rowcall.job; delete from rowcall.job_history; delete from rowcall.job_key; delete from rowcall.worker;
delete from rowcall.turn; update rowcall.queue set paused_at = null; update rowcall.method set paused_at = null;
update rowcall.tenant_route set paused_at = null
"""


class Shard:
    """One shard's queue."""

    def __init__(self, logins: Logins, runner: asyncio.Runner, policy: Policy, *tenants: str) -> None:
        """
        Args:
            logins: Of the shard.
            runner: In whose loop everything is run.
            policy: Of METHOD.
            tenants: Who lives there.
        """
        self._runner = runner
        self._stack = AsyncExitStack()
        self.queue = self.run(self._open(logins, policy, tenants))
        self.seen: Counter[str] = Counter()
        """What happened in all examples together."""

    async def _open(self, logins: Logins, policy: Policy, tenants: tuple[str, ...]) -> Queue:
        store, work = await self._stack.enter_async_context(opened(logins))
        admin = await self._stack.enter_async_context(await psycopg.AsyncConnection.connect(logins.admin))
        await admin.set_autocommit(True)
        queue = Queue(logins, store, work, admin, await store.method_ids(METHOD, policy))
        await queue.adopt(*tenants)
        return queue

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something to its end."""
        return self._runner.run(work)

    def sql(self, statements: str, **parameters: object) -> None:
        """Runs statements as superuser."""
        # Several at once cannot have parameters of the server's own.
        self.run(psycopg.AsyncClientCursor(self.queue.admin).execute(statements.encode(), parameters))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query, as superuser."""

        async def fetched() -> list[tuple[Any, ...]]:
            return await (await self.queue.admin.execute(query.encode())).fetchall()

        return self.run(fetched())

    def clean(self) -> None:
        """Takes everything away that an example left."""
        self.sql(_CLEAN)

    def jobs(self) -> list[tuple[Any, ...]]:
        """Every row of a job, live or finished: its id, and what `queue_model.Job.facts` has."""
        return self.rows(_ROWS)

    def pass_time(self, time: timedelta) -> None:
        """Moves everything into the past."""
        self.sql(_PASS, time=time)

    def close(self) -> None:
        """Ends its connections."""
        self.run(self._stack.aclose())
