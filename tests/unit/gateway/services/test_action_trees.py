"""What of an action is shown, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from rowcall.queue.actions import ActionJob, ActionNode
from rowcall.v1.job_pb2 import JobState
from rowcall_gateway.services.action_trees import EACH, SHOWN, TOLD, choose, ordered

BEGAN = datetime(2031, 5, 4, tzinfo=UTC)
SUCCEEDED, FAILED, READY = JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_READY


def job(number: int, parent: int | None = None, *, state: int = SUCCEEDED, took: float | None = 1) -> ActionJob:
    """The job of a number, submitted so many seconds after the beginning."""
    at = BEGAN + timedelta(seconds=number)
    return ActionJob(
        UUID(int=number),
        None if parent is None else UUID(int=parent),
        "a.B/C",
        state,
        at,
        None if took is None else at + timedelta(seconds=took),
    )


def node(name: str, parent: str | None = None, at: float = 0) -> ActionNode:
    return ActionNode(
        name, parent, "SPAN", name, BEGAN + timedelta(seconds=at), None, None, 0, None, attributes={}, job_id=None
    )


def shown(jobs: list[ActionJob], named: int | None = None) -> set[int]:
    chosen = choose(jobs, None if named is None else UUID(int=named))
    assert {*chosen.shown} | {*chosen.hidden} == {each.job_id for each in jobs}
    assert not {*chosen.shown} & {*chosen.hidden}
    return {each.int for each in chosen.shown}


def test_few_are_all_shown() -> None:
    jobs = [job(1), *(job(number, 1) for number in range(2, EACH + 2)), job(50, 2)]
    assert shown(jobs) == {each.job_id.int for each in jobs}
    assert choose(jobs).groups == []


def test_of_many_those_that_failed_and_those_that_took_longest_are_shown() -> None:
    jobs = [job(1)]
    jobs += [job(10 + number, 1, took=number) for number in range(100)]
    jobs += [job(200 + number, 1, state=FAILED, took=0) for number in range(TOLD + 3)]
    expected = {1, *range(105, 110), *range(200, 200 + TOLD)}
    assert shown(jobs) == expected
    succeeded, failed = sorted(choose(jobs).groups, key=lambda group: group.state)
    assert (succeeded.parent, succeeded.method, succeeded.state, succeeded.jobs) == (
        UUID(int=1),
        "a.B/C",
        SUCCEEDED,
        95,
    )
    assert (failed.state, failed.jobs) == (FAILED, 3)
    assert succeeded.longest == timedelta(seconds=94)
    assert (succeeded.started_at, succeeded.ended_at) == (BEGAN + timedelta(seconds=10), BEGAN + timedelta(seconds=198))


def test_one_that_is_asked_for_is_shown_with_all_that_led_to_it() -> None:
    jobs = [job(1), *(job(number, 1) for number in range(2, 102)), *(job(1000 + number, 90) for number in range(100))]
    assert {1, 90, 1050} <= shown(jobs, named=1050)
    [group] = [each for each in choose(jobs).groups if each.parent == UUID(int=1)]
    assert group.descendants == 100


def test_those_that_go_on_are_told_before_those_that_ended() -> None:
    jobs = [job(1), *(job(number, 1) for number in range(2, 102)), job(500, 1, state=READY, took=None)]
    assert 500 in shown(jobs)


def test_no_more_are_shown_than_there_is_room_for() -> None:
    chain = [job(number, number - 1 if number > 1 else None) for number in range(1, 1001)]
    assert shown(chain) == set(range(1, SHOWN + 1))
    [group] = choose(chain).groups
    assert (group.jobs, group.descendants) == (1, 1000 - SHOWN - 1)
    wide = [job(1), *(job(number, 1 + number // 20) for number in range(2, 2001))]
    assert len(choose(wide).shown) <= SHOWN
    hidden = sum(group.jobs + group.descendants for group in choose(wide).groups)
    assert hidden + len(choose(wide).shown) == len(wide)


def test_whose_parent_is_gone_is_below_none() -> None:
    assert shown([job(5, 4), job(6, 5)]) == {5, 6}


def test_nodes_come_behind_what_they_are_below_in_the_order_of_time() -> None:
    nodes = [node("c", "a", 3), node("d", "b", 1), node("a", None, 1), node("b", "a", 2), node("e", "gone", 0)]
    found, more = ordered(nodes, 10)
    assert [(each.node, each.parent) for each in found] == [
        ("e", None), ("a", None), ("b", "a"), ("d", "b"), ("c", "a")
    ]  # fmt: skip
    assert not more


@pytest.mark.parametrize("limit", [1, 3])
def test_what_is_below_itself_is_shown_once(limit: int) -> None:
    nodes = [node("a", "b", 1), node("b", "a", 2), node("c", "c", 3)]
    found, more = ordered(nodes, limit)
    assert [(each.node, each.parent) for each in found] == [("a", None), ("b", "a"), ("c", None)][:limit]
    assert more is (limit < 3)
