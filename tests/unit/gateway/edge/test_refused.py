"""Calls that are refused for who makes them: counted by reason and method, bounded, and told."""

from __future__ import annotations

import grpc
import pytest
from structlog.testing import capture_logs

from rowcall_gateway.edge.refused import KINDS, RefusedCalls
from tests.support.waiting import until

NO_ROLE = (grpc.StatusCode.PERMISSION_DENIED, "MISSING_ROLE", "a.B/C")
NOBODY = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REQUIRED", "a.B/C")


def test_they_are_told_by_reason_and_method_and_counted_anew_then() -> None:
    refused = RefusedCalls()
    for each in (NO_ROLE, NOBODY, NO_ROLE):
        refused.count(*each)
    refused.count(grpc.StatusCode.PERMISSION_DENIED, "MISSING_ROLE", "a.B/D")
    with capture_logs() as told:
        refused.tell()
        refused.tell()
    assert [(line["reason"], line["method"], line["count"]) for line in told] == [
        ("CREDENTIALS_REQUIRED", "a.B/C", 1),
        ("MISSING_ROLE", "a.B/C", 2),
        ("MISSING_ROLE", "a.B/D", 1),
    ]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL]
)
def test_what_is_refused_for_something_else_is_not_counted(code: grpc.StatusCode) -> None:
    refused = RefusedCalls()
    refused.count(code, "ANY", "a.B/C")
    assert refused.counts == {}


def test_more_kinds_than_are_kept_are_counted_by_reason_alone() -> None:
    refused = RefusedCalls()
    for number in range(KINDS + 500):
        refused.count(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REQUIRED", f"a.B/{number}")
    assert len(refused.counts) == KINDS + 1
    assert refused.counts["CREDENTIALS_REQUIRED", ""] == 500
    assert sum(refused.counts.values()) == KINDS + 500


async def test_they_are_told_again_and_again_and_at_the_end() -> None:
    refused = RefusedCalls(tell_every=0.01)
    with capture_logs() as told:
        refused.start()
        refused.count(*NO_ROLE)

        async def there() -> bool:
            return bool(told)

        await until(there)
        refused.count(*NOBODY)
        await refused.close()
    assert [line["reason"] for line in told] == ["MISSING_ROLE", "CREDENTIALS_REQUIRED"]
