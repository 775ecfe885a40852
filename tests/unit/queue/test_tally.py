"""What happens to jobs is counted, and told once."""

from __future__ import annotations

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.tally import Tally, Told, What, by_tenant_and_by_queue
from rowcall.telemetry import metrics, tallies
from rowcall.telemetry.tallies import OTHER
from rowcall.v1.error_reason_pb2 import ErrorReason

ACCEPTED, STARTED, DEAD = What.ACCEPTED, What.STARTED, What.DEAD


class Shard:
    """Takes what it is told, or fails."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.fails: ErrorReason.ValueType | None = None

    async def tell(self, told: Told) -> None:
        if self.fails is not None:
            raise RowcallError(self.fails, "away")
        self.told.append(told)


def counts(**of: int) -> list[int]:
    return [of.get(what.name.lower(), 0) for what in What]


async def test_what_was_told_is_not_told_again() -> None:
    shard, tally = Shard(), Tally({1: "default"}.get)
    tally.count("acme", 1, ACCEPTED)
    tally.count("acme", 1, ACCEPTED, 2)
    tally.count("acme", 2, STARTED)
    await tally.tell(shard.tell)
    await tally.tell(shard.tell)
    assert shard.told == [{("acme", 1): counts(accepted=3), ("acme", 2): counts(started=1)}]


async def test_what_a_shard_did_not_take_is_told_the_next_time_with_what_came_since() -> None:
    shard, tally = Shard(), Tally({1: "default"}.get)
    tally.count("acme", 1, ACCEPTED)
    shard.fails = ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE
    with pytest.raises(RowcallError):
        await tally.tell(shard.tell)
    tally.count("acme", 1, DEAD)
    shard.fails = None
    await tally.tell(shard.tell)
    assert shard.told == [{("acme", 1): counts(accepted=1, dead=1)}]


async def test_what_may_have_been_taken_is_not_counted_twice() -> None:
    shard, tally = Shard(), Tally({1: "default"}.get)
    tally.count("acme", 1, ACCEPTED)
    shard.fails = ErrorReason.ERROR_REASON_COMMIT_UNKNOWN
    with pytest.raises(RowcallError):
        await tally.tell(shard.tell)
    shard.fails = None
    await tally.tell(shard.tell)
    assert shard.told == []


async def test_what_is_sent_and_consumed_is_a_figure_of_the_process_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it takes to tell the shard."""
    monkeypatch.setattr(tallies, "_kept", True)
    shard, tally = Shard(), Tally({1: "default"}.get)

    def figures() -> list[float]:
        sent = [metrics.SENT.value(metrics.ROWCALL, metrics.SEND, queue) for queue in ("default", OTHER)]
        return [*sent, metrics.CONSUMED.value(metrics.ROWCALL, metrics.RECEIVE, "default")]

    before = figures()
    tally.count("acme", 1, ACCEPTED, 3)
    tally.count("bolt", 1, ACCEPTED)
    tally.count("acme", 2, ACCEPTED, 2)
    tally.count("acme", 1, STARTED, 5)
    shard.fails = ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE
    with pytest.raises(RowcallError):
        await tally.tell(shard.tell)
    shard.fails = None
    await tally.tell(shard.tell)
    assert [after - each for after, each in zip(figures(), before, strict=True)] == [4, 2, 5]
    assert shard.told == [
        {("acme", 1): counts(accepted=3, started=5), ("bolt", 1): counts(accepted=1), ("acme", 2): counts(accepted=2)}
    ]


def test_sums_are_of_tenants_and_of_queues() -> None:
    told = {("acme", 1): counts(accepted=1), ("acme", 2): counts(accepted=2, dead=1), ("bolt", 1): counts(accepted=4)}
    assert by_tenant_and_by_queue(told) == {
        ("acme", 0): counts(accepted=3, dead=1),
        ("bolt", 0): counts(accepted=4),
        ("", 1): counts(accepted=5),
        ("", 2): counts(accepted=2, dead=1),
    }
