"""Submitting batches: each call its own answer, whatever its neighbours do. Called by the store.

A batch is made of calls with different keys (duplicates wait for the first one's answer), sorted by key (two gateways
with the same keys would deadlock otherwise), and written by one statement. When the database refuses it because of a
row, it is halved until the row stands alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

from psycopg.rows import TupleRow

from rowcall.errors import RowcallError
from rowcall.names import operation_name
from rowcall.queue.faults import ChildRefusedError
from rowcall.queue.hints import Hint
from rowcall.queue.model import FollowUp, Submission, SubmitOutcome, Submitted
from rowcall.queue.postgres.faults import fault, of_a_row
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import (
    Array,
    BigintArray,
    ByteaArray,
    IntegerArray,
    IntervalArray,
    JsonbArray,
    RowArray,
    SmallintArray,
    TextArray,
    TimestamptzArray,
    UuidArray,
)
from rowcall.queue.postgres.wire.connection import again_on_collision, execute
from rowcall.queue.postgres.wire.types import Connection
from rowcall.queue.tenants import ERASED
from rowcall.queue.turns import Flow, Turn, Turns
from rowcall.sharding.faults import tenant_erased
from rowcall.v1.error_reason_pb2 import ErrorReason

_ID_AHEAD = 5
"""submit_jobs: the id's time is more than an hour ahead of the database's clock."""

_WRITTEN = (SubmitOutcome.CREATED, SubmitOutcome.JOINED)
_OF_NO_JOB = (SubmitOutcome.WRONG_SHARD, SubmitOutcome.NOT_ADMITTED)


class Submitter:
    """Writes submissions to one shard."""

    def __init__(self, session: Session, turns: Turns, *, key_ttl: timedelta) -> None:
        self._session = session
        self._key_ttl = key_ttl
        self._turns = turns

    async def submit(self, submissions: Sequence[Submission], hint: Hint | None = None) -> list[Submitted | Exception]:
        """Independent calls; the answers come in their order. Not to be cancelled: run it shielded."""
        keys = _keys(submissions)
        answers: dict[int, Submitted | Exception] = {}
        left = list(range(len(submissions)))
        while left:
            firsts = _firsts(keys, left)
            order = _sorted(keys, firsts.values())
            written = await self._halving([submissions[index] for index in order], hint)
            answers.update(zip(order, written, strict=True))
            # Whoever shares a key with one that was answered gets its answer from that, or comes with the next round.
            for index in left if len(firsts) < len(left) else ():
                first = firsts[keys[index]]
                if index != first:
                    answer = self._of_duplicate(submissions[index], submissions[first], answers[first])
                    if answer is not None:
                        answers[index] = answer
            left = [index for index in left if index not in answers]
        return [answers[index] for index in range(len(submissions))]

    async def submit_atomic(self, submissions: Sequence[Submission]) -> list[Submitted]:
        """Calls of one tenant, all or none. Raises RowcallError. Not to be cancelled: run it shielded."""
        keys = _keys(submissions)
        firsts = _firsts(keys, range(len(submissions)))
        submissions = await _aligned(self._session.rows, keys, firsts, submissions)
        order = _sorted(keys, firsts.values())
        # One key with two requests among them: the database is asked, so that the answers are right, but nothing stays.
        clash = len(firsts) < len(submissions) and any(
            submissions[firsts[key]].fingerprint != each.fingerprint
            for key, each in zip(keys, submissions, strict=True)
        )
        written = dict(zip(order, await self._atomically([submissions[i] for i in order], keep=not clash), strict=True))
        answers = []
        for index, each in enumerate(submissions):
            first = firsts[keys[index]]
            answer = written[first]
            answers.append(answer if index == first else _shared(each, submissions[first], answer) or answer)
        return answers

    async def submit_within(self, found: Connection, submissions: Sequence[Submission]) -> list[Submitted]:
        """Submits in an open transaction; the answers in their order.

        Raises psycopg.Error, or RowcallError if one is refused: the transaction must then be rolled back.
        """
        keys = _keys(submissions)
        firsts = _firsts(keys, range(len(submissions)))
        submissions = await _aligned(partial(execute, found), keys, firsts, submissions)
        order = _sorted(keys, firsts.values())
        rows = await self._execute_compared(found, [submissions[index] for index in order])
        written = {index: self._answer(row) for index, row in zip(order, rows, strict=True)}
        answers = []
        for index, each in enumerate(submissions):
            first = firsts[keys[index]]
            answer = written[first]
            if isinstance(answer, Exception):
                raise _refused_for(each, answer)
            answer = answer if index == first else _shared(each, submissions[first], answer) or answer
            if answer.outcome not in _WRITTEN:
                raise _refused_for(each, await _refusal(found, each, answer))
            answers.append(answer)
        return answers

    async def _halving(self, batch: Sequence[Submission], hint: Hint | None) -> list[Submitted | Exception]:
        try:
            found = await again_on_collision(lambda: self._write(batch, hint))
        except Exception as error:  # noqa: BLE001 - each call is answered with what it means for it
            if not of_a_row(error) or len(batch) == 1:
                return [self._fault(error, each) for each in batch]
            middle = len(batch) // 2
            return [*await self._halving(batch[:middle], hint), *await self._halving(batch[middle:], hint)]
        return [self._answer(row) for row in found]

    async def _write(self, batch: Sequence[Submission], hint: Hint | None) -> list[TupleRow]:
        async with self._session.connection() as found:
            return await self._execute(found, batch, hint)

    async def _execute(
        self, found: Connection, batch: Sequence[Submission], hint: Hint | None = None, *, whole: bool = False
    ) -> list[TupleRow]:
        """Where all are to be written or none (`whole`), no turn is remembered of those that are not kept."""
        turn = self._turns.take([Flow(each.ids.queue_id, each.lane, each.tenant) for each in batch])
        keys: list[int | None] = [None] * len(batch)
        try:
            rows = await self._session.execute(found, "submit_jobs", _parameters(batch, turn, self._key_ttl), hint=hint)
            if not whole or all(row[1] not in _OF_NO_JOB for row in rows):
                keys = [row[3] if row[1] == SubmitOutcome.CREATED else None for row in rows]
            return rows
        finally:
            self._turns.end(turn, keys)

    async def _execute_compared(self, found: Connection, batch: Sequence[Submission]) -> list[TupleRow]:
        """In an open transaction; what differs from its key's job in nothing but the fingerprint joins it."""
        rows = await self._execute(found, batch, whole=True)
        for place, (each, row) in enumerate(zip(batch, rows, strict=True)):
            if row[1] == SubmitOutcome.KEY_REUSED:
                [[kept]] = await execute(found, "kept_fingerprint", key_and_request(each))
                if kept is not None:
                    [rows[place]] = await self._execute(found, [replace(each, fingerprint=bytes(kept))])
        return rows

    async def _atomically(self, batch: Sequence[Submission], *, keep: bool) -> list[Submitted]:
        committing = False

        async def once() -> list[Submitted]:
            nonlocal committing
            committing = False
            async with self._session.connection() as found, found.transaction():
                rows = await self._execute_compared(found, batch)
                answers = [self._answer(row) for row in rows]
                written = [answer for answer in answers if isinstance(answer, Submitted)]
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
                if not keep or any(answer.outcome not in _WRITTEN for answer in written):
                    raise _RolledBack(written)
                committing = True
                return written

        try:
            return await again_on_collision(once)
        except _RolledBack as rolled_back:
            return rolled_back.answers
        except RowcallError:
            raise
        except Exception as error:
            # Before the COMMIT is sent nothing can have been written.
            raise fault(error, shard=self._session.shard, writing=committing) from error

    def _of_duplicate(
        self, submission: Submission, first: Submission, answer: Submitted | Exception
    ) -> Submitted | Exception | None:
        """What a call is answered that has the same key as the first; None if it must be submitted itself."""
        if isinstance(answer, Submitted):
            return None if submission.counted else _shared(submission, first, answer)
        cause = answer.__cause__
        # What was wrong with the first one's row need not be wrong with this one.
        return self._fault(cause, submission) if isinstance(cause, Exception) and not of_a_row(cause) else None

    def _answer(self, row: TupleRow) -> Submitted | Exception:
        if row[1] == _ID_AHEAD:
            return RowcallError(
                ErrorReason.ERROR_REASON_INTERNAL,
                f"The gateway's clock is more than an hour ahead of the clock of shard {self._session.shard!r}; nothing "
                "was written. The operator must set the clocks right.",
            )
        if row[1] == SubmitOutcome.CREATED:
            # A job that is not ready has no place in line yet.
            return Submitted(SubmitOutcome.CREATED, row[2], row[4], row[3] == 0)
        return Submitted(SubmitOutcome(row[1]), row[2])

    def _fault(self, error: Exception, submission: Submission) -> RowcallError:
        made = fault(
            error,
            shard=self._session.shard,
            writing=True,
            operation=operation_name(submission.tenant, submission.job_id),
        )
        # A stock retry of a call without a key would submit it twice.
        made.no_retry = made.reason == ErrorReason.ERROR_REASON_COMMIT_UNKNOWN and submission.request_id is None
        return made


class _RolledBack(Exception):
    """Ends the transaction of a batch that is not to be kept."""

    def __init__(self, answers: list[Submitted]) -> None:
        super().__init__()
        self.answers = answers


_Key: TypeAlias = tuple[str, int, str] | int


def _keys(submissions: Sequence[Submission]) -> list[_Key]:
    """What each must not share with another of its batch; its place where it has no key."""
    return [index if (key := each.key) is None else key for index, each in enumerate(submissions)]


def _firsts(keys: Sequence[_Key], indexes: Iterable[int]) -> dict[_Key, int]:
    """The first submission with each key."""
    firsts: dict[_Key, int] = {}
    for index in indexes:
        firsts.setdefault(keys[index], index)
    return firsts


async def _aligned(
    ask: Callable[[str, Mapping[str, object]], Awaitable[list[TupleRow]]],
    keys: Sequence[_Key],
    firsts: Mapping[_Key, int],
    submissions: Sequence[Submission],
) -> Sequence[Submission]:
    """The same calls; one that repeats the first with its key in another serialisation has the first one's fingerprint."""
    aligned = [*submissions]
    for index, each in enumerate(submissions):
        first = submissions[firsts[keys[index]]]
        if each.fingerprint != first.fingerprint:
            parameters = {"method_id": each.ids.method_id, "one": first.request, "other": each.request}
            [[same]] = await ask("same_request", parameters)
            if same:
                aligned[index] = replace(each, fingerprint=first.fingerprint)
    return aligned


def key_and_request(submission: Submission) -> dict[str, object]:
    """What the statement kept_fingerprint is asked with."""
    return {
        "tenant": submission.tenant,
        "method_id": submission.ids.method_id,
        "request_id": submission.request_id,
        "request": submission.request,
    }


def _sorted(keys: Sequence[_Key], indexes: Iterable[int]) -> list[int]:
    """Keyed calls first, in the order in which every gateway locks keys; the others behind them, as they came."""
    keyed: list[tuple[tuple[str, int, str], int]] = []
    unkeyed: list[int] = []
    for index in indexes:
        key = keys[index]
        if isinstance(key, int):
            unkeyed.append(index)
        else:
            keyed.append((key, index))
    keyed.sort()
    return [*(index for _, index in keyed), *unkeyed]


def _shared(submission: Submission, first: Submission, answer: Submitted) -> Submitted | None:
    """What the answer to the first call with a key says to another one; None if it must be submitted itself."""
    if answer.outcome in _OF_NO_JOB:
        return replace(answer, job_id=submission.job_id)
    if submission.fingerprint == first.fingerprint:
        return answer if answer.outcome is SubmitOutcome.KEY_REUSED else replace(answer, outcome=SubmitOutcome.JOINED)
    if answer.outcome is SubmitOutcome.KEY_REUSED:
        return None
    return replace(answer, outcome=SubmitOutcome.KEY_REUSED)


def _parameters(batch: Sequence[Submission], turn: Turn, key_ttl: timedelta) -> dict[str, object]:
    # In the order of the type rowcall.submission.
    columns: list[Array[Any]] = [
        TextArray([each.tenant for each in batch]),
        UuidArray([each.job_id for each in batch]),
        IntegerArray([each.ids.method_id for each in batch]),
        IntegerArray([each.ids.policy_id for each in batch]),
        IntegerArray([each.ids.queue_id for each in batch]),
        SmallintArray([each.lane for each in batch]),
        BigintArray(turn.last_keys),
        BigintArray(turn.steps),
        TimestamptzArray([each.run_at for each in batch]),
        ByteaArray([each.request for each in batch]),
        TextArray([each.request_id for each in batch]),
        ByteaArray([each.fingerprint for each in batch]),
        TextArray([each.actor for each in batch]),
        TextArray([each.fairness_key for each in batch]),
        TextArray([each.traceparent for each in batch]),
        TextArray([each.tracestate for each in batch]),
        JsonbArray([each.labels or None for each in batch]),
        UuidArray([each.waiter_id for each in batch]),
        IntervalArray([each.deadline for each in batch]),
        UuidArray([each.parent_job_id for each in batch]),
        TextArray([_follow_up(each.on_done) for each in batch]),
        IntegerArray([each.limit_id for each in batch]),
        TextArray([each.limit_key for each in batch]),
        UuidArray([each.group_id for each in batch]),
    ]
    return {"submission": RowArray(columns), "key_ttl": key_ttl}


def _follow_up(on_done: FollowUp | None) -> str | None:
    if on_done is None:
        return None
    ids = on_done.ids
    return f"{ids.method_id},{ids.policy_id},{ids.queue_id},{on_done.lane}"


def _refused_for(submission: Submission, why: Exception) -> Exception:
    if not isinstance(why, RowcallError):
        return why
    refused = ChildRefusedError(why.reason, why.message, metadata=why.metadata)
    refused.submission = submission
    return refused


async def _refusal(found: Connection, submission: Submission, answer: Submitted) -> RowcallError:
    """What a job was refused for, told in the transaction that was to submit it."""
    if answer.outcome is SubmitOutcome.WRONG_SHARD:
        if (ERASED,) in await execute(found, "tenant_state", {"tenant": submission.tenant}):
            return tenant_erased(submission.tenant)
        return RowcallError(
            ErrorReason.ERROR_REASON_WRONG_SHARD, f"The tenant {submission.tenant!r} no longer lives on this shard."
        )
    if answer.outcome is SubmitOutcome.NOT_ADMITTED:
        return RowcallError(
            ErrorReason.ERROR_REASON_NOT_ADMITTED,
            f"The tenant {submission.tenant!r} has as many jobs waiting in that queue as its bound lets in.",
            metadata={"measure": "backlog"},
        )
    return RowcallError(
        ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
        f"The key {submission.request_id!r} names a job with another request.",
        metadata={"operation": operation_name(submission.tenant, answer.job_id)},
    )
