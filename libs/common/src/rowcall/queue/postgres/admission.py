"""What gateways let in by, on Postgres: the shard's copy of the bounds, and what each gateway needs of them. One object a shard."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from psycopg.types.json import Jsonb

from rowcall.bounds import Bound, Budget
from rowcall.queue.model import NOBODY_NEEDS, Need, OthersNeed, QueueLoad, Spending
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import BigintArray, IntegerArray, SmallintArray, TextArray
from rowcall.queue.postgres.wire.connection import Shield
from rowcall.queue.postgres.wire.types import Pool

_GIVE_UP_AFTER: Final = timedelta(seconds=5)
"""For a statement that comes round each second: a later one says more."""

_THOUSANDTHS: Final = 1000


class PostgresAdmissionStore:
    """A `rowcall.queue.protocol.AdmissionStore` over one shard's pools. Raises RowcallError."""

    def __init__(self, write_pool: Pool, read_pool: Pool, *, shard: str) -> None:
        """
        Args:
            write_pool: For what writes.
            read_pool: For what reads.
            shard: The shard's name, for errors.
        """
        self._shield = Shield()
        self._write = Session(write_pool, shard=shard, shield=self._shield, give_up_after=_GIVE_UP_AFTER)
        self._read = Session(read_pool, shard=shard)

    async def keep(self, bounds: Sequence[Bound]) -> None:
        """See AdmissionStore.keep."""
        if bounds:
            await self._write.rows("keep_bounds", {"bounds": Jsonb([_as_json(bound) for bound in bounds])})

    async def kept(self) -> Sequence[Bound]:
        """See AdmissionStore.kept."""
        return [Bound.of_row(row) for row in await self._read.rows("kept_bounds")]

    async def lease(self, gateway_id: UUID, needs: Sequence[Need]) -> Sequence[OthersNeed]:
        """See AdmissionStore.lease."""
        rows = await self._write.rows(
            "lease_bounds",
            {
                "gateway_id": gateway_id,
                "target": TextArray([need.target for need in needs]),
                "rate": BigintArray([round(need.rate * _THOUSANDTHS) for need in needs]),
                "in_flight": IntegerArray([need.in_flight for need in needs]),
                "in_flight_wanted": IntegerArray([need.in_flight_wanted for need in needs]),
                "waiters": IntegerArray([need.waiters for need in needs]),
                "waiters_wanted": IntegerArray([need.waiters_wanted for need in needs]),
            },
        )
        found = [NOBODY_NEEDS] * len(needs)
        for place, gateways, rate, *places in rows:
            found[place - 1] = OthersNeed(gateways, rate / _THOUSANDTHS, *places)
        return found

    async def leave(self, gateway_id: UUID) -> None:
        """See AdmissionStore.leave."""
        await self._write.rows("leave_bounds", {"gateway_id": gateway_id})

    async def loads(self, queues: Sequence[str]) -> dict[str, QueueLoad]:
        """See AdmissionStore.loads."""
        if not queues:
            return {}
        rows = await self._write.rows("look_at_queues", {"queue": TextArray(list(queues))})
        return {queues[place - 1]: QueueLoad(backlog, oldest) for place, backlog, oldest in rows}

    async def spent(self, budgets: Sequence[tuple[str, Budget]]) -> list[Spending]:
        """See AdmissionStore.spent."""
        if not budgets:
            return []
        rows = await self._read.rows(
            "spent_of_budgets",
            {
                "tenant": TextArray([tenant for tenant, _ in budgets]),
                "currency": TextArray([budget.currency for _, budget in budgets]),
                "period": SmallintArray([budget.period for _, budget in budgets]),
            },
        )
        return [Spending(spent, left) for spent, left in rows]

    async def close(self) -> None:
        """Waits for the statements in flight. The pools are their owner's to close, afterwards."""
        await self._shield.wait()


def _as_json(bound: Bound) -> dict[str, object]:
    return {
        "tenant": bound.target.tenant,
        "queue": bound.target.queue,
        "method": bound.target.method,
        "rate": bound.rate,
        "in_flight": bound.in_flight,
        "waiters": bound.waiters,
        "backlog": bound.backlog,
        "oldest_age": None if bound.oldest_age is None else bound.oldest_age.total_seconds(),
        "number": bound.number,
        "updated_at": bound.updated_at.isoformat(),
        "actor": bound.actor,
        "note": bound.note,
        "budget": None if bound.budget is None else str(bound.budget.amount),
        "budget_currency": None if bound.budget is None else bound.budget.currency,
        "budget_period": None if bound.budget is None else bound.budget.period,
    }
