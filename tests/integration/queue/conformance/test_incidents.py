"""What every implementation of the queue keeps to: incidents are added up, resolved, and said to be back."""

from __future__ import annotations

import time
from dataclasses import replace

from google.rpc.code_pb2 import Code

from rowcall.audit.model import SYSTEM, Act
from rowcall.incidents.model import IncidentRow, Noted
from tests.support.queues import Queue

ONE = "1" * 32


def met(fingerprint: str = ONE, count: int = 1, trace: str = "t", version: str = "0.1", ago: float = 0.0) -> Noted:
    now = time.monotonic()
    return Noted(
        fingerprint=fingerprint,
        service="gateway",
        method="a.B/C",
        code=Code.INTERNAL,
        kind="ValueError",
        location="acme.mail:handle:7",
        count=count,
        first=now - ago,
        last=now - ago,
        trace_id=trace,
        version=version,
    )


async def one(queue: Queue, fingerprint: str = ONE) -> IncidentRow:
    [found] = await queue.operators.incidents(fingerprint=fingerprint, limit=5)
    return found


async def test_the_same_is_added_up_whoever_tells_of_it(queue: Queue) -> None:
    assert await queue.operators.record_incidents([met(count=3, trace="a", ago=60)]) == []
    first = await one(queue)
    assert await queue.work.record_incidents([met(count=4, trace="b", version="0.2")]) == []
    found = await one(queue)
    assert (found.count, found.trace_id, found.first_version, found.last_version) == (7, "b", "0.1", "0.2")
    assert found.first_at == first.first_at
    assert 55 < (found.last_at - found.first_at).total_seconds() < 120
    assert (found.service, found.method, found.code, found.kind) == ("gateway", "a.B/C", Code.INTERNAL, "ValueError")


async def test_the_latest_are_listed_first(queue: Queue) -> None:
    await queue.operators.record_incidents([met("1" * 32, ago=30), met("2" * 32), met("3" * 32, ago=60)])
    assert [each.fingerprint[0] for each in await queue.operators.incidents(limit=2)] == ["2", "1"]


async def test_one_that_is_resolved_and_met_again_is_said_to_be_back_once(queue: Queue) -> None:
    await queue.operators.record_incidents([met()])
    assert await queue.operators.resolve_incident(ONE, by="ann", note="fixed", act=Act(actor="ann"))
    resolved = await one(queue)
    assert resolved.resolved_at is not None
    assert resolved.last_at <= resolved.resolved_at
    assert (resolved.resolved_by, resolved.resolve_note) == ("ann", "fixed")
    assert await queue.operators.record_incidents([met(), met("2" * 32)]) == [ONE]
    assert await queue.operators.record_incidents([met()]) == [], "that is known"
    back = await one(queue)
    assert back.resolved_at is not None
    assert back.last_at > back.resolved_at
    assert back.regressions == 1


async def test_what_was_met_before_it_was_resolved_and_is_told_later_is_no_regression(queue: Queue) -> None:
    await queue.operators.record_incidents([met(ago=60)])
    await queue.operators.resolve_incident(ONE, by=None, note=None)
    assert await queue.operators.record_incidents([replace(met(ago=30), count=5)]) == []
    found = await one(queue)
    assert (found.count, found.regressions) == (6, 0)
    assert found.resolved_at is not None
    assert found.last_at < found.resolved_at


async def test_a_resolution_is_recorded_and_of_what_is_not_there_none(queue: Queue) -> None:
    await queue.operators.record_incidents([met()])
    assert not await queue.operators.resolve_incident("9" * 32, by="ann", note=None, act=Act(actor="ann"))
    await queue.operators.resolve_incident(ONE, by="ann", note="fixed", act=Act(actor="ann"))
    [entry] = await queue.operators.audit_entries(SYSTEM, limit=5)
    said = entry.content
    assert (said.action, said.target, said.actor, said.reason) == (
        "incident.resolve",
        f"incidents/{ONE}",
        "ann",
        "fixed",
    )
