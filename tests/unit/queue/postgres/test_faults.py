"""The one table from the database's errors to what a call is told."""

from __future__ import annotations

import psycopg
import psycopg_pool
import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall.queue.postgres.faults import collided, fault, lost, of_a_row
from rowcall.v1.error_reason_pb2 import ErrorReason


def of_state(sqlstate: str, text: str = "payload: secret") -> psycopg.Error:
    """An error as the server sends it."""
    return psycopg.errors.lookup(sqlstate)(text)


@pytest.mark.parametrize(
    ("error", "reading", "writing"),
    [
        (psycopg.OperationalError("server closed the connection"), "SHARD_UNAVAILABLE", "COMMIT_UNKNOWN"),
        (of_state("57P01"), "SHARD_UNAVAILABLE", "COMMIT_UNKNOWN"),
        (of_state("57P02"), "SHARD_UNAVAILABLE", "COMMIT_UNKNOWN"),
        (of_state("08006"), "SHARD_UNAVAILABLE", "COMMIT_UNKNOWN"),
        (of_state("40003"), "SHARD_UNAVAILABLE", "COMMIT_UNKNOWN"),
        (ConnectionResetError(), "SHARD_UNAVAILABLE", "COMMIT_UNKNOWN"),
        (psycopg_pool.PoolTimeout("no connection"), "SHARD_UNAVAILABLE", "SHARD_UNAVAILABLE"),
        (psycopg_pool.PoolClosed("closed"), "SHARD_UNAVAILABLE", "SHARD_UNAVAILABLE"),
        (psycopg_pool.TooManyRequests("queue is full"), "SHARD_UNAVAILABLE", "SHARD_UNAVAILABLE"),
        (of_state("57014"), "SHARD_UNAVAILABLE", "SHARD_UNAVAILABLE"),
        (of_state("53100"), "SHARD_UNAVAILABLE", "SHARD_UNAVAILABLE"),
        (of_state("53300"), "SHARD_UNAVAILABLE", "SHARD_UNAVAILABLE"),
        (of_state("25006"), "SHARD_UNAVAILABLE", "SHARD_UNAVAILABLE"),
        (of_state("40001"), "CONFLICT", "CONFLICT"),
        (of_state("40P01"), "CONFLICT", "CONFLICT"),
        (of_state("55P03"), "CONFLICT", "CONFLICT"),
        (of_state("42883"), "SCHEMA_MISMATCH", "SCHEMA_MISMATCH"),
        (of_state("3F000"), "SCHEMA_MISMATCH", "SCHEMA_MISMATCH"),
        (of_state("42501"), "INTERNAL", "INTERNAL"),
        (of_state("23505"), "INTERNAL", "INTERNAL"),
        (of_state("22021"), "INTERNAL", "INTERNAL"),
        (of_state("42601"), "INTERNAL", "INTERNAL"),
        (RuntimeError("bug"), "INTERNAL", "INTERNAL"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}",
)
def test_each_error_has_its_reason(error: Exception, reading: str, writing: str) -> None:
    for is_writing, expected in ((False, reading), (True, writing)):
        made = fault(error, shard="a", writing=is_writing, operation="tenants/t/operations/o")
        assert reason_name(made.reason) == expected
        assert made.__cause__ is error
        assert "secret" not in made.message, "the database's text may quote rows"
        assert "'a'" in made.message


def test_an_unknown_commit_names_the_operation_and_an_unreachable_shard_itself() -> None:
    unknown = fault(psycopg.OperationalError("x"), shard="a", writing=True, operation="tenants/t/operations/o")
    assert unknown.metadata == {"operation": "tenants/t/operations/o"}
    assert fault(psycopg.OperationalError("x"), shard="a").metadata == {"shard": "a"}


def test_an_error_of_ours_is_passed_on_as_another_object() -> None:
    error = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "it is away", metadata={"shard": "a"})
    made = fault(error, shard="a", writing=True)
    assert made is not error
    assert (made.reason, made.message, made.metadata) == (error.reason, error.message, error.metadata)
    assert made.__cause__ is error


def test_what_is_split_what_is_tried_again_and_what_is_neither() -> None:
    assert all(of_a_row(of_state(state)) for state in ("22P05", "23502", "54000", "21000"))
    assert of_a_row(psycopg.DataError("NUL"))
    assert of_a_row(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"))
    assert not of_a_row(psycopg.OperationalError("gone"))
    assert not of_a_row(of_state("57014"))
    assert collided(of_state("40P01"))
    assert not collided(of_state("23505"))
    assert not lost(of_state("23505"))
