"""The view rowcall.jobs says in words what rows keep as numbers and bytes: codes, outcomes, and the reasons of errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status
from psycopg.types.json import Jsonb

from rowcall.errors import Origin, RowcallError, envelope
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import AttemptOutcome, Hold, JobState
from tests.fix_queue import PostgresQueue


def ours(reason: ErrorReason.ValueType, message: str = "Ünlucky.", *before: ErrorInfo | RequestInfo) -> Status:
    """An error as a worker writes it, behind details of the handler's own."""
    code = grpc.StatusCode.UNAVAILABLE if reason == ErrorReason.ERROR_REASON_HANDLER_ERROR else None
    made = envelope(
        RowcallError(reason, message, code=code), origin=Origin.JOB, trace_id="0af7651916cd43dd8448eb211c80319c"
    )
    status = Status(code=made.code, message=made.message)
    for detail in before:
        status.details.add().Pack(detail)
    status.details.extend(made.details)
    return status


async def fail(queue: PostgresQueue, job: Any, status: Status, **more: Any) -> None:
    await queue.settle(
        job,
        error=status.SerializeToString(),
        error_code=status.code,
        error_message=status.message,
        **{"state": JobState.JOB_STATE_FAILED, **more},
    )


async def test_a_reader_sees_why_a_job_failed_and_why_each_attempt_did(queue: PostgresQueue) -> None:
    await queue.submit(queue.call())
    worker = await queue.worker("printer-1")
    [first] = await queue.claim(worker)
    handlers = ours(ErrorReason.ERROR_REASON_HANDLER_ERROR, "Out of paper.")
    await fail(queue, first, handlers, state=JobState.JOB_STATE_SCHEDULED, delay=timedelta(0))
    await queue.ready_now()
    [second] = await queue.claim(worker)
    await fail(queue, second, ours(ErrorReason.ERROR_REASON_ATTEMPT_TIMEOUT, "Too long."))

    await queue.admin.execute("set role rowcall_auditor")
    rows = await queue.admin.execute(
        "select state, error_code, error_reason, error_message, attempts from rowcall.jobs"
    )
    [(state, code, reason, message, attempts)] = await rows.fetchall()

    assert (state, code, reason, message) == ("FAILED", "DEADLINE_EXCEEDED", "ATTEMPT_TIMEOUT", "Too long.")
    [attempt] = attempts
    assert attempt.keys() == {"attempt", "lease", "worker", "started", "ended", "outcome", "code", "reason", "message"}
    assert (attempt["attempt"], attempt["worker"], attempt["outcome"]) == (1, "printer-1", "RETRIED")
    assert (attempt["code"], attempt["reason"], attempt["message"]) == ("UNAVAILABLE", "HANDLER_ERROR", "Out of paper.")


async def test_a_job_that_succeeded_has_neither(queue: PostgresQueue) -> None:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job, response=b"")

    rows = await queue.admin.execute("select error_code, error_reason, attempts from rowcall.jobs")
    assert await rows.fetchall() == [(None, None, None)]


FOREIGN = ErrorInfo(reason="OUT_OF_PAPER", domain="printers.example")
PASSED_ON = ErrorInfo(reason="WORKER_LOST", domain="rowcall.dev")
TIMEOUT = ErrorReason.ERROR_REASON_ATTEMPT_TIMEOUT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ours(TIMEOUT), "ATTEMPT_TIMEOUT"),
        (ours(TIMEOUT, "type.googleapis.com/google.rpc.ErrorInfo"), "ATTEMPT_TIMEOUT"),
        (ours(TIMEOUT, "m" * 1000, RequestInfo(request_id="r" * 40_000)), "ATTEMPT_TIMEOUT"),
        (ours(TIMEOUT, "m", FOREIGN), "ATTEMPT_TIMEOUT"),
        (ours(TIMEOUT, "m", PASSED_ON), "ATTEMPT_TIMEOUT"),
        (Status(code=-5, message="no details"), None),
        (Status(), None),
    ],
)
async def test_the_reason_is_that_of_the_envelope(queue: PostgresQueue, error: Status, reason: str | None) -> None:
    assert await queue.value("select rowcall.error_reason(%s)", error.SerializeToString()) == reason


async def test_bytes_that_are_no_error_stop_nobody_from_looking(queue: PostgresQueue) -> None:
    good = ours(TIMEOUT, "m", FOREIGN).SerializeToString()
    for spoilt in ("substring(e for n)", "set_byte(e, n, 255)", "set_byte(e, n, 0)", "substring(e from n + 1)"):
        counted = "select count(*) from (values (%s::bytea)) v (e), generate_series(0, octet_length(e) - 1) n where"
        query = f"{counted} coalesce(rowcall.error_reason({spoilt}), '') is not null"
        assert await queue.value(query, good) == len(good)


async def test_every_state_and_every_reason_to_hold_a_job_has_its_word(queue: PostgresQueue) -> None:
    for state in JobState.values():
        word = await queue.value("select rowcall.state_name(%s::smallint)", state)
        assert word == (JobState.Name(state).removeprefix("JOB_STATE_") if state else None)
    for held, words in ((0, None), (1, ["PAUSED"]), (6, ["SUSPECT"]), (15, ["PAUSED", "SUSPECT", "LIMITED"])):
        assert await queue.value("select rowcall.hold_names(%s::smallint)", held) == words
    named = {hold for hold in Hold.values() if hold}
    assert len(await queue.value("select rowcall.hold_names(32767::smallint)")) == len(named)


async def test_a_reader_sees_what_holds_a_job(queue: PostgresQueue) -> None:
    call = queue.call()
    await queue.submit(call, queue.call())
    await queue.probe.change([call.job_id], held=3)
    await queue.admin.execute("set role rowcall_auditor")
    rows = await queue.admin.execute("select held, state from rowcall.jobs order by job_id")
    assert await rows.fetchall() == [(["PAUSED", "SUSPECT"], "READY"), (None, "READY")]


async def test_the_version_of_what_failed_is_told_where_it_is_known(queue: PostgresQueue) -> None:
    await queue.submit(queue.call(), queue.call(), queue.call())
    worker = await queue.worker("printer-1")
    await queue.admin.execute("update rowcall.worker set version = '1.7'")
    again, failed, done = await queue.claim(worker)
    await fail(queue, again, ours(TIMEOUT), state=JobState.JOB_STATE_SCHEDULED, delay=timedelta(0))
    await fail(queue, failed, ours(TIMEOUT))
    await queue.settle(done, response=b"")
    assert [each.worker_version for each in (await queue.row(again)).attempts] == ["1.7"]
    assert [(await queue.row(job)).worker_version for job in (failed, done)] == ["1.7", None]


async def test_every_code_and_every_outcome_has_its_word(queue: PostgresQueue) -> None:
    for code in grpc.StatusCode:
        assert await queue.value("select rowcall.code_name(%s)", code.value[0]) == code.name
    assert await queue.value("select rowcall.code_name(99)") == "99"
    numbers = [number for number in AttemptOutcome.values() if number]
    kept = Jsonb([{"outcome": number} for number in [*numbers, 99]])
    words = [{"outcome": AttemptOutcome.Name(number).removeprefix("ATTEMPT_OUTCOME_")} for number in numbers]
    assert await queue.value("select rowcall.attempts_in_words(%s)", kept) == [*words, {"outcome": 99}]
