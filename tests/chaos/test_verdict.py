"""The verdict sees each way in which a run can go wrong: of a run that is well, one thing is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from rowcall.errors import DETAILS_KEY, Origin, RowcallError, envelope
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from tests.chaos import errors
from tests.chaos.evidence import Evidence, Late, Row
from tests.chaos.history import Came, History, Invoked, Outcome
from tests.chaos.receipts import Receipt
from tests.chaos.verdict import judge

SUCCEEDED = int(JobState.JOB_STATE_SUCCEEDED)
FAILED = int(JobState.JOB_STATE_FAILED)
RUN = "rowcall.probe.v1.ProbeService/Run"
AWAIT = "rowcall.probe.v1.ProbeService/Await"

FIRST = Receipt(1, "aa", 1)
LOST = Receipt(2, "bb", 1)
"""A run of the second call that did not count."""
SECOND = Receipt(2, "cc", 3)

# The first call is a Run, acknowledged with its name; the second an Await that ran twice, answered; of the third nobody
# knows anything, and there is no job.
WELL = Evidence(
    rows=[Row("one", 1, SUCCEEDED, 1, 0, RUN, FIRST, None), Row("two", 2, SUCCEEDED, 3, 1, AWAIT, SECOND, None)],
    effects=[FIRST],
    starts=[FIRST, LOST, SECOND],
    late=[Late("two", 1, woken=True)],
)
ANSWERS: tuple[tuple[int, Came, str], ...] = (
    (1, "unknown", "UNAVAILABLE"),
    (1, "name", "one"),
    (2, "response", SECOND.encode().decode()),
    (3, "unknown", "DEADLINE_EXCEEDED"),
)


def write(path: Path, *outcomes: tuple[int, Came, str]) -> Path:
    """A history of three calls with these outcomes."""
    with History(path) as log:
        for call in (1, 2, 3):
            log.write(Invoked(call, "keyed"))
        for outcome in outcomes:
            log.write(Outcome(*outcome))
    return path


def changed(evidence: Evidence, place: int, **changes: object) -> Evidence:
    """The evidence with one row changed."""
    rows = [*evidence.rows]
    rows[place] = replace(rows[place], **changes)  # type: ignore[arg-type]
    return replace(evidence, rows=rows)


def test_a_run_that_is_well_has_no_problem_and_its_figures(tmp_path: Path) -> None:
    verdict = judge(write(tmp_path / "log", *ANSWERS), WELL)
    assert verdict.problems == []
    assert (verdict.calls, verdict.acknowledged, verdict.open, verdict.rows) == (3, 2, 1, 2)
    assert (verdict.effects, verdict.starts, verdict.lost_runs) == (1, 3, 1)
    assert (verdict.late, verdict.late_of_woken) == (1, 1)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda well: replace(well, rows=well.rows[1:], effects=[]), "Every acknowledged call has a row"),
        (
            lambda well: replace(well, rows=[*well.rows, replace(well.rows[1], name="two again")]),
            "No call has two rows",
        ),
        (lambda well: changed(well, 0, call=4), "No row is of a call that was never sent"),
        (lambda well: changed(well, 1, state=FAILED, error="lost"), "Every job has succeeded"),
        (lambda well: changed(well, 0, name="another"), "A call's name is its row's"),
        (lambda well: changed(well, 1, receipt=LOST, lease=1), "A call's response is its row's"),
        (lambda well: changed(well, 1, lease=4), "The result that counts is of the last lease"),
        (lambda well: replace(well, effects=[]), "Every result has its effect"),
        (lambda well: replace(well, effects=[FIRST, LOST]), "Every effect has its result"),
        (lambda well: replace(well, effects=[FIRST, FIRST]), "No effect is there twice"),
        (lambda well: replace(well, starts=[LOST, SECOND]), "Every result is of a run that was noted"),
        (
            lambda well: replace(well, late=[Late("two", 3, woken=True)]),
            "A settle is refused only where the lease was another's by then",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[Evidence], Evidence], broken: str) -> None:
    verdict = judge(write(tmp_path / "log", *ANSWERS), change(WELL))
    assert any(problem.startswith(f"{broken}: not so of 1, such as ") for problem in verdict.problems), verdict.problems


def test_a_refused_call_is_named_with_its_answers(tmp_path: Path) -> None:
    log = write(tmp_path / "log", *ANSWERS, (3, "refused", "INTERNAL STORAGE_ERROR: refused by the shard"))
    (problem,) = judge(log, WELL).problems
    assert problem == (
        "No call is refused: not so of 1, such as 3 (unknown DEADLINE_EXCEEDED; refused INTERNAL STORAGE_ERROR: refused "
        "by the shard | no row)"
    )


def test_a_failed_job_is_named_with_what_it_failed_with(tmp_path: Path) -> None:
    failed = changed(WELL, 1, state=FAILED, error="INTERNAL HANDLER_ERROR: broken")
    (problem,) = judge(write(tmp_path / "log", *ANSWERS), failed).problems
    assert problem == (
        "Every job has succeeded: not so of 1, such as two of call 2 (response 2 cc 3 | two FAILED lease 3, lost "
        "1, INTERNAL HANDLER_ERROR: broken)"
    )


class _Refused(grpc.aio.AioRpcError):
    """An error as a client gets it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...]) -> None:
        super().__init__(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)


def test_a_calls_error_is_told_with_code_reason_and_message() -> None:
    error = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "The shard is away.")
    status = envelope(error, origin=Origin.GATEWAY, trace_id="0" * 32)
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    ours = _Refused(grpc.StatusCode.UNAVAILABLE, "The shard is away.", trailers)
    assert errors.of_call(ours) == "UNAVAILABLE SHARD_UNAVAILABLE: The shard is away."
    grpcs = _Refused(grpc.StatusCode.UNKNOWN, "Stream removed", ())
    assert errors.of_call(grpcs) == "UNKNOWN without a reason: Stream removed"
