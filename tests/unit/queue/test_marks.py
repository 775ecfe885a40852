"""The low-water mark against a model: whatever commits where and when is found in time, and the mark does save work."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcall.queue.marks import (
    FLOOR_EVERY,
    FLOOR_LAG,
    FLOOR_SHARE,
    FLOOR_WAIT,
    FRONT_EVERY,
    FRONT_SHARE,
    FRONT_WAIT,
    LAG,
    Begin,
    LowWaterMark,
    Scan,
)
from rowcall.queue.model import LANES, Moment
from rowcall.queue.sweeps import Horizon

Key = tuple[int, int]
"""Lane and order key."""


@dataclass
class Model:
    """A queue's index of ready jobs, and one claimer that goes by a mark."""

    horizon: Horizon = field(default_factory=Horizon)
    mark: LowWaterMark = field(init=False)
    now: float = 1000.0
    ready: dict[Key, float] = field(default_factory=dict)
    """Each job and when it could be seen."""
    open_since: int | None = None
    """The number of a writer that stays open; None: all end at once."""

    def __post_init__(self) -> None:
        self.mark = LowWaterMark(self.horizon)

    def renew(self) -> None:
        """A renewal brings a moment: of the writers so far all have ended, but for the one that stays open."""
        number = int(self.now * 1000)
        oldest = number if self.open_since is None else min(number, self.open_since)
        self.horizon.heard(Moment(datetime.fromtimestamp(self.now, UTC), number, oldest), self.now)

    def commit(self, lane: int, key: int) -> None:
        self.ready[lane, key] = self.now

    def claim(self, limit: int, took: float = 0.001) -> tuple[Scan, list[Key]]:
        """What the statement does: lanes first, in order, from the scan's start on."""
        began = self.now
        scan = self.mark.scan(began)
        found = sorted(job for job in self.ready if job[1] >= scan.start[job[0] - 1])[:limit]
        for job in found:
            del self.ready[job]
        self.now += took
        self.renew()
        self.mark.claimed(scan, found, limit=limit, began=began, ended=self.now)
        return scan, found

    def drain(self) -> tuple[Scan, list[Key]]:
        """The claimer looks every 50 ms and has room for all that is ready, which is found in time; the last claim."""
        last = self.now
        scan, found = self.claim(1000)
        while self.ready:
            self.now += 0.05
            assert self.now <= last + FRONT_EVERY + 0.2, f"left behind: {self.ready}"
            scan, found = self.claim(1000)
        return scan, found


def test_the_first_scan_is_from_the_front() -> None:
    model = Model()
    scan, _ = model.claim(10)
    assert scan.start == (0, 0, 0, 0)
    assert set(scan.begins) == {Begin.FRONT}


def test_the_mark_follows_what_was_claimed_with_a_lag() -> None:
    model = Model()
    model.claim(10)
    model.commit(3, 100)
    model.claim(10)
    model.now += LAG / 2
    assert model.mark.scan(model.now).start == (0, 0, 0, 0)
    model.now += LAG
    assert model.mark.scan(model.now).start == (0, 0, 100, 0)


def test_while_there_is_traffic_it_looks_from_the_floor_often() -> None:
    model = Model()
    begins = []
    for number in range(400):
        model.commit(3, 1000 + number)
        scan, _ = model.claim(10)
        begins.append((model.now, scan.begins[2]))
        model.now += 0.01
    floors = [now for now, begin in begins if begin is not Begin.MARK]
    assert max(later - earlier for earlier, later in itertools.pairwise(floors)) <= FLOOR_EVERY + 0.02
    share = sum(begin is Begin.MARK for _, begin in begins) / len(begins)
    assert share > 0.9, "most scans are from the mark"


def test_an_idle_queue_is_looked_at_from_the_front_and_not_more_often_than_that() -> None:
    model = Model()
    model.claim(10)
    due = model.mark.next_sweep()
    assert due == model.now + FRONT_EVERY
    while model.now < due - 0.1:
        scan, _ = model.claim(10)
        assert set(scan.begins) == {Begin.MARK}
        model.now += 0.05
    model.now = due
    scan, _ = model.claim(10)
    assert set(scan.begins) == {Begin.FRONT}


def test_a_straggler_behind_the_mark_is_found_soon_while_there_is_traffic() -> None:
    model = Model()
    for number in range(100):
        model.commit(3, 1000 + number)
        model.claim(10)
        model.now += 0.01
    model.commit(3, 1050)
    committed = model.now
    while (3, 1050) in model.ready:
        model.commit(3, 2000 + int(model.now * 1000))
        model.claim(10)
        model.now += 0.01
    assert model.now - committed <= FLOOR_EVERY + 0.03


def test_what_a_long_writer_leaves_is_found_from_the_floor() -> None:
    """However long it was open, with no hint, and where a look from the front is dear."""
    model = Model()
    model.claim(10, took=1.0)
    for number in range(50):
        model.commit(3, 1000 + number)
        model.claim(10)
        model.now += 0.1
    model.open_since = int(model.now * 1000)
    for number in range(600):
        model.commit(3, 2000 + number)
        model.claim(10)
        model.now += 0.1
    for _ in range(5):  # nothing more comes
        model.claim(10)
        model.now += 1
    model.commit(3, 2005)
    model.open_since = None
    committed = model.now
    begins: list[Begin] = []
    while model.ready:
        begins += model.claim(10)[0].begins[2:3]
        model.now += 0.1
        assert model.now <= committed + FLOOR_WAIT + 0.2
    assert Begin.FRONT not in begins


def test_a_hint_that_nothing_explains_leads_to_the_front_at_once() -> None:
    model = Model()
    model.commit(3, 1_000_000)
    model.claim(10)
    model.now += LAG + 0.01
    model.claim(10)
    model.now += FLOOR_LAG + 1
    model.claim(10)
    model.commit(3, 5)
    model.mark.hinted()
    scan, found = model.claim(10)
    if not found:
        assert scan.begins[2] is Begin.MARK
        scan, found = model.claim(10)
    assert found == [(3, 5)]


def test_a_hint_that_was_for_what_came_is_done_with() -> None:
    model = Model()
    model.claim(10)
    model.mark.hinted()
    model.commit(3, 100)
    model.claim(10)
    for _ in range(3):
        scan, _ = model.claim(10)
        assert set(scan.begins) == {Begin.MARK}


def test_a_hint_during_a_scan_is_not_lost_with_it() -> None:
    model = Model()
    model.now += 1
    scan = model.mark.scan(model.now)
    model.mark.hinted()
    model.mark.claimed(scan, [], limit=10, began=model.now, ended=model.now + 0.001)
    model.now += 0.5
    assert model.claim(10)[0].begins[0] is Begin.MARK
    model.now += 0.5
    assert model.claim(10)[0].begins[0] is Begin.FRONT


def test_a_busy_first_lane_does_not_use_up_the_sweeps_of_the_others() -> None:
    """One free slot, and a lane that always fills it: another lane's straggler comes as soon as there is room."""
    model = Model()
    model.claim(10)
    model.commit(3, 100)
    model.claim(10)
    for number in range(2000):
        model.commit(1, number)
        assert model.claim(1)[1][0][0] == 1
        model.now += 0.005
    model.commit(3, 50)
    found: list[Key] = []
    while not found:
        _, found = model.claim(1)
    assert found == [(3, 50)], "the first claim that gets past lane 1 begins at the front of lane 3"


def test_a_sweep_that_did_not_get_through_goes_on() -> None:
    model = Model()
    model.commit(3, 10_000)
    model.claim(10)
    model.now += LAG + 0.01
    model.claim(10)
    for key in range(1, 101):
        model.commit(3, key)
    model.now = model.mark.next_sweep()
    got = [key for _ in range(10) for _, key in model.claim(10)[1]]
    assert got == list(range(1, 101))


def test_long_scans_from_the_front_are_made_less_often() -> None:
    """A third of a second of dead entries must not be walked over every five."""
    model = Model()
    model.claim(10, took=0.3)
    assert model.mark.next_sweep() == pytest.approx(model.now + 0.3 / FRONT_SHARE)
    model.mark.hinted()
    model.claim(10)
    scan, _ = model.claim(10)
    assert scan.begins[0] is Begin.MARK, "nor at every hint"


def test_a_scan_that_hung_does_not_put_the_next_one_off_for_long() -> None:
    model = Model()
    model.claim(10, took=600.0)
    assert model.mark.next_sweep() == pytest.approx(model.now + FRONT_WAIT)


@pytest.mark.parametrize(
    ("took", "again"), [(0.001, FLOOR_EVERY), (0.05, 0.05 / FLOOR_SHARE), (600.0, FLOOR_WAIT)], ids=str
)
def test_long_scans_from_the_floor_are_made_less_often(took: float, again: float) -> None:
    """While somebody holds a snapshot, a second's dead entries are walked over by each."""
    model = Model()
    model.commit(3, 100)
    # From the front it is as long at least.
    model.claim(10, took)
    model.now += FLOOR_EVERY
    assert model.claim(10, took)[0].begins[2] is Begin.FLOOR
    swept = model.now
    # What was claimed since is what makes another one worth while.
    model.mark.claimed(model.mark.scan(swept), [(3, 200)], limit=10, began=swept, ended=swept)
    model.now = swept + again - 0.001
    assert model.mark.scan(model.now).begins[2] is not Begin.FLOOR
    model.now = swept + again + 0.001
    assert model.mark.scan(model.now).begins[2] is Begin.FLOOR


def test_what_lies_behind_the_floor_is_found_from_the_front() -> None:
    model = Model()
    model.commit(3, 1000)
    floor_follows_by = model.now + FLOOR_LAG + 2 * FLOOR_EVERY
    while model.now < floor_follows_by:
        model.claim(10)
        model.now += 0.05
    # Against all rules: everybody that could still commit there had ended.
    model.commit(3, 10)
    scan, found = model.claim(10)
    assert (scan.begins[2], found) == (Begin.MARK, [])
    scan, found = model.drain()
    assert (scan.begins[2], found) == (Begin.FRONT, [(3, 10)])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.sampled_from(LANES), st.integers(0, 10_000)),
        st.tuples(st.just("claim"), st.integers(1, 20), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 3000), st.just(0)),
        st.tuples(st.just("hint"), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_everything_is_found_in_time_wherever_it_commits(history: list[tuple[str, int, int]]) -> None:
    """Keys are arbitrary: far behind the mark, far ahead of it, in any lane, at any time."""
    model = Model()
    for step, number, key in history:
        if step == "commit":
            model.commit(number, key)
        elif step == "claim":
            model.claim(number)
        elif step == "wait":
            model.now += number / 1000
        else:
            model.mark.hinted()
    model.drain()


@given(steps)
@settings(max_examples=200, deadline=None)
def test_the_marks_never_pass_what_was_claimed_and_never_go_back(history: list[tuple[str, int, int]]) -> None:
    model = Model()
    highest = dict.fromkeys(LANES, 0)
    before = [0] * len(LANES)
    for step, number, key in history:
        if step == "commit":
            model.commit(number, key)
        elif step == "claim":
            for lane, claimed in model.claim(number)[1]:
                highest[lane] = max(highest[lane], claimed)
        elif step == "wait":
            model.now += number / 1000
        scan = model.mark.scan(model.now)
        for index, lane in enumerate(LANES):
            assert scan.start[index] <= highest[lane]
            if scan.begins[index] is Begin.MARK:
                assert scan.start[index] >= before[index]
                before[index] = scan.start[index]


def busy(model: Model, seconds: float) -> list[Key]:
    """Others' jobs all the time, each claimed as soon as it can be seen; everything that was claimed."""
    claimed: list[Key] = []
    until = model.now + seconds
    while model.now < until:
        model.commit(3, int(model.now * 1000))
        claimed += model.claim(10)[1]
        model.now += 0.01
    return claimed


@pytest.mark.parametrize("asked", [True, False])
def test_who_asks_for_a_look_is_found_behind_the_marks_of_a_busy_queue(asked: bool) -> None:
    """His transaction took long: the keys have moved on, and every claim gets something else."""
    model = Model()
    early = int(model.now * 1000) - 1
    busy(model, 3 * FLOOR_LAG)
    while model.mark.next_sweep() - model.now < FRONT_EVERY / 2:
        busy(model, 0.1)
    model.commit(3, early)
    if asked:
        model.mark.woken()

    assert ((3, early) in busy(model, FRONT_EVERY / 4)) is asked


def test_looks_that_are_asked_for_take_no_more_of_the_time_than_others() -> None:
    """From the front, where dead entries make that long."""
    model = Model()
    fronts = 0
    until = model.now + 60
    while model.now < until:
        model.mark.woken()
        model.commit(3, int(model.now * 1000))
        front = Begin.FRONT in model.mark.scan(model.now).begins
        model.claim(10, took=0.05 if front else 0.001)
        fronts += front
        model.now += 0.01
    assert fronts * 0.05 <= 60 * FRONT_SHARE * 1.2


def test_a_scan_that_had_no_connection_is_made_again() -> None:
    """A worker that starts while its database does must see what others left in front of the frontier."""
    mark = LowWaterMark(Horizon())
    scan = mark.scan(0.0)
    mark.failed(scan, began=0.0, ended=5.0)
    assert mark.scan(5.0).begins == scan.begins == (Begin.FRONT,) * len(LANES)
