"""Settling batches: one commit for many jobs, and one bad row does not fail its neighbours. Called by the work queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow

from rowcall.names import operation_name
from rowcall.queue import statuses
from rowcall.queue.faults import ChildRefusedError
from rowcall.queue.hints import Hint
from rowcall.queue.model import Settled, Settlement
from rowcall.queue.postgres.faults import fault, of_a_row
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.spending import booked
from rowcall.queue.postgres.submitting import Submitter
from rowcall.queue.postgres.wire.arrays import (
    Array,
    BigintArray,
    BooleanArray,
    ByteaArray,
    IntegerArray,
    IntervalArray,
    RowArray,
    SmallintArray,
    TextArray,
    UuidArray,
)
from rowcall.queue.postgres.wire.connection import again_on_collision, execute
from rowcall.queue.postgres.wire.types import Connection
from rowcall.queue.spend import Spend

NOT_OURS = Settled(settled=False, state=None, waiter_id=None)
"""The job's lease is another one's by now, or the job is gone."""


class Settler:
    """Writes settlements to one shard."""

    def __init__(self, session: Session, submitter: Submitter) -> None:
        """
        Args:
            session: Where settlements are written.
            submitter: Writes the children.
        """
        self._session = session
        self._submitter = submitter

    async def settle(self, settlements: Sequence[Settlement], hint: Hint | None = None) -> list[Settled | Exception]:
        """The answers in the settlements' order. Not to be cancelled: run it shielded."""
        # Rows are locked in the order of their names, here as in rescue and release: no deadlocks between them.
        order = sorted(
            range(len(settlements)),
            # A UUID compares as its number does, ten times as slowly.
            key=lambda index: (settlements[index].tenant, settlements[index].job_id.int),
        )
        answers = dict(zip(order, await self._halving([settlements[index] for index in order], hint), strict=True))
        return [answers[index] for index in range(len(settlements))]

    async def _halving(self, batch: Sequence[Settlement], hint: Hint | None) -> list[Settled | Exception]:
        try:
            found = await self._write(batch, hint)
        except Exception as error:  # noqa: BLE001 - each call is answered with what it means for it
            if not (of_a_row(error) or isinstance(error, ChildRefusedError)) or len(batch) == 1:
                return [self._fault(error, each) for each in batch]
            middle = len(batch) // 2
            return [*await self._halving(batch[:middle], hint), *await self._halving(batch[middle:], hint)]
        answers: list[Settled | Exception] = [NOT_OURS] * len(batch)
        for place, state, waiter_id in found:
            answers[place - 1] = Settled(settled=True, state=state, waiter_id=waiter_id)
        return answers

    async def _write(self, batch: Sequence[Settlement], hint: Hint | None) -> list[TupleRow]:
        if not any(each.children for each in batch):
            return await self._session.run(*_statement(batch), hint=hint)

        if hint is not None:
            hint.sent = False

        async def once() -> list[TupleRow]:
            async with self._session.connection() as found, found.transaction():
                return await self.settle_within(found, batch)

        return await again_on_collision(once)

    async def settle_within(self, found: Connection, batch: Sequence[Settlement]) -> list[TupleRow]:
        """Settles in an open transaction, and submits the children of the settlements that count: place, state, waiter.

        Raises psycopg.Error, or RowcallError if a child is refused.
        """
        settled = await execute(found, *_statement(batch))
        children = [child for row in settled for child in batch[row[0] - 1].children]
        if children:
            await self._submitter.submit_within(found, children)
        return settled

    async def book(self, settlement: Settlement) -> None:
        """Books what was spent of a settlement whose transaction was rolled back, for it did not count. Raises RowcallError."""
        entries = _entries([settlement])
        if entries:
            await self._session.rows("book_spend", {"spent": booked(entries)})

    def _fault(self, error: Exception, settlement: Settlement) -> Exception:
        operation = operation_name(settlement.tenant, settlement.job_id)
        return fault(error, shard=self._session.shard, writing=True, operation=operation)


def _statement(batch: Sequence[Settlement]) -> tuple[str, dict[str, object]]:
    """Its name and parameters. Where nothing was spent, and that is nearly always, it does not ask for that at all."""
    parameters = _parameters(batch)
    entries = _entries(batch)
    if not entries:
        return "settle_jobs", parameters
    return "settle_and_book", {**parameters, "spent": booked(entries)}


def _entries(batch: Sequence[Settlement]) -> list[tuple[str, UUID, int, Spend]]:
    return [(each.tenant, each.job_id, each.lease, call) for each in batch for call in each.spend]


def _parameters(batch: Sequence[Settlement]) -> dict[str, object]:
    # In the order of the type rowcall.settlement.
    columns: list[Array[Any]] = [
        TextArray([each.tenant for each in batch]),
        UuidArray([each.job_id for each in batch]),
        BigintArray([each.lease for each in batch]),
        SmallintArray([each.state for each in batch]),
        IntervalArray([each.delay for each in batch]),
        BooleanArray([each.snoozed for each in batch]),
        ByteaArray([each.response for each in batch]),
        ByteaArray([each.error for each in batch]),
        IntegerArray([each.error_code for each in batch]),
        TextArray([each.error_message for each in batch]),
        TextArray([each.span_id for each in batch]),
        TextArray([each.location for each in batch]),
    ]
    return {"settlement": RowArray(columns), "cancelled_error": statuses.cancelled()}
