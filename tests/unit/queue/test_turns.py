"""Start-time fair queueing, the submitter's half: steps within a batch, batches in flight, bounded memory."""

from __future__ import annotations

from rowcall.queue.model import ORDER_STRIDE
from rowcall.queue.turns import Flow, Turns

ACME = Flow(1, 3, "acme")
BOLT = Flow(1, 3, "bolt")
OTHER_LANE = Flow(1, 1, "acme")


def test_each_flow_of_a_batch_counts_its_own_steps() -> None:
    turn = Turns().take([ACME, BOLT, ACME, OTHER_LANE, ACME])
    assert list(turn.steps) == [ORDER_STRIDE * step for step in (1, 1, 2, 1, 3)]
    assert set(turn.last_keys) == {0}


def test_the_next_batch_begins_behind_the_keys_that_were_given() -> None:
    turns = Turns()
    turns.end(turns.take([ACME, ACME]), [700, 800])
    assert list(turns.take([ACME, BOLT]).last_keys) == [800, 0]


def test_a_batch_begins_behind_those_that_are_on_their_way() -> None:
    turns = Turns()
    first = turns.take([ACME, ACME])
    assert list(turns.take([ACME]).steps) == [3 * ORDER_STRIDE]
    turns.end(first, [5 * ORDER_STRIDE, 6 * ORDER_STRIDE])
    third = turns.take([ACME])
    assert list(third.last_keys) == [6 * ORDER_STRIDE]
    assert list(third.steps) == [2 * ORDER_STRIDE], "the second is still on its way"


def test_repeats_and_failures_cost_a_tenant_no_turn() -> None:
    turns = Turns()
    for _ in range(1000):
        turns.end(turns.take([ACME, ACME]), [None, None])
    assert list(turns.take([ACME]).last_keys) == [0]


def test_an_older_batch_that_ends_last_does_not_put_the_key_back() -> None:
    turns = Turns()
    first, second = turns.take([ACME]), turns.take([ACME])
    turns.end(second, [900])
    turns.end(first, [500])
    assert list(turns.take([ACME]).last_keys) == [900]


def test_only_the_flows_used_last_are_remembered() -> None:
    turns = Turns(capacity=2)
    for number, flow in enumerate((ACME, BOLT, ACME, OTHER_LANE), start=1):
        turns.end(turns.take([flow]), [number * 100])
    assert list(turns.take([ACME, BOLT, OTHER_LANE]).last_keys) == [300, 0, 400]
