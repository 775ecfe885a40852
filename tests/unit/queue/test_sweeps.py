"""From when on looks in the order of time begin: nothing is left behind, and dear looks take a share of the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcall.queue.model import Moment
from rowcall.queue.sweeps import FLOOR_WAIT, FRONT_SHARE, FRONT_WAIT, MARK_LAG, Horizon, Look, Pace, Sweep

START = datetime(2026, 1, 1, tzinfo=UTC)
DEAR = 1.0
"""Seconds that a look from the front takes beside a snapshot that is held for long."""


@dataclass
class Model:
    """A shard whose index is in the order of time, its writers, and one worker that sweeps."""

    now: float = 100.0
    number: int = 100
    visible: set[datetime] = field(default_factory=set)
    open: dict[int, datetime] = field(default_factory=dict)
    """Writers that are open, by their numbers, with the time that each one's row has."""
    horizon: Horizon = field(default_factory=Horizon)
    sweep: Sweep = field(init=False)

    def __post_init__(self) -> None:
        self.sweep = Sweep(self.horizon)

    @property
    def clock(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def write(self) -> int:
        """Begins a writer whose row is due now."""
        self.number += 1
        self.open[self.number] = self.clock
        return self.number

    def commit(self, number: int) -> None:
        self.visible.add(self.open.pop(number))

    def renew(self) -> None:
        self.number += 1
        self.horizon.heard(Moment(self.clock, self.number, min((*self.open, self.number))), self.now)

    def look(self, dear: float = 0.0) -> Look:
        """One look: it finds what is due from where it begins; from the front it takes so long."""
        began = self.now
        look = self.sweep.look(began)
        self.visible = {due for due in self.visible if look.since is not None and due < look.since}
        self.now += 0.001 + (dear if look.front else 0.0)
        self.sweep.looked(look, whole=True, began=began, ended=self.now)
        return look

    def seconds(self, count: float, dear: float = 0.0) -> list[Look]:
        """Beats of a second, two looks in each."""
        looks = []
        until = self.now + count
        while self.now < until:
            self.renew()
            for _ in range(2):
                looks.append(self.look(dear))
                self.now += 0.5
        return looks


def test_where_it_is_cheap_every_look_is_from_the_front() -> None:
    assert all(look.front for look in Model().seconds(10))


def test_where_it_is_dear_looks_begin_at_a_mark_that_follows() -> None:
    model = Model()
    looks = model.seconds(300, DEAR)
    front = sum(look.front for look in looks)
    assert front <= 2 + 300 / (DEAR / FRONT_SHARE), "one look from the front costs as much as all others"
    last = looks[-1].since
    assert last is not None
    assert model.clock - last <= MARK_LAG + timedelta(seconds=3)


def test_what_commits_late_is_found_from_the_floor_however_late() -> None:
    model = Model()
    model.seconds(30, DEAR)
    writer = model.write()
    model.seconds(120, DEAR)
    model.commit(writer)
    looks = model.seconds(2, DEAR)
    assert not model.visible
    assert not any(look.front for look in looks), "it need not be looked for from the front"


def test_the_floor_stays_behind_what_was_not_swept_since() -> None:
    """A writer ends between two looks: that no writer of then is open any more does not mean that its row was seen."""
    model = Model()
    model.seconds(30, DEAR)
    writer = model.write()
    model.seconds(10, DEAR)
    model.commit(writer)
    model.renew()
    model.renew()
    while model.visible:
        assert model.clock < START + timedelta(seconds=200)
        model.look(DEAR)
        model.now += 0.5


def test_a_look_that_found_as_much_as_it_was_allowed_moves_nothing() -> None:
    model = Model()
    model.seconds(5, DEAR)
    stopped = model.clock
    for _ in range(40):
        model.renew()
        look = model.sweep.look(model.now)
        assert look.since is not None
        assert look.since <= stopped
        model.sweep.looked(look, whole=False, began=model.now, ended=model.now)
        model.now += 0.5


@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "commit", "wait", "renew", "look"]), st.integers(0, 8000)), max_size=60
    )
)
@settings(max_examples=300, deadline=None)
def test_nothing_is_left_behind(history: list[tuple[str, int]]) -> None:
    """Without a look from the front: all that a writer leaves is found, whenever it commits."""
    model = Model()
    model.seconds(3, DEAR)
    for step, number in history:
        if step == "write":
            model.write()
        elif step == "commit" and model.open:
            model.commit(sorted(model.open)[number % len(model.open)])
        elif step == "wait":
            model.now += number / 1000
        elif step == "renew":
            model.renew()
        elif step == "look":
            model.look(DEAR)
    for writer in list(model.open):
        model.commit(writer)
    model.seconds(FLOOR_WAIT + 2, DEAR)
    assert not model.visible


def test_a_moment_that_was_overtaken_says_nothing() -> None:
    horizon = Horizon()
    horizon.heard(Moment(START, 10, 5), 1.0)
    horizon.heard(Moment(START + timedelta(seconds=2), 20, 10), 3.0)
    horizon.heard(Moment(START + timedelta(seconds=1), 15, 10), 2.0)
    assert (horizon.latest, horizon.sealed, horizon.sealed_at) == (START + timedelta(seconds=2), START, 1.0)


def test_another_server_counts_anew() -> None:
    horizon = Horizon()
    horizon.heard(Moment(START, 1_000_000, 1_000_000), 1.0)
    horizon.heard(Moment(START + timedelta(seconds=1), 10, 10), 2.0)
    horizon.heard(Moment(START + timedelta(seconds=2), 11, 11), 3.0)
    assert horizon.sealed == START + timedelta(seconds=1)


@pytest.mark.parametrize(("took", "wait"), [(0.001, 0.1), (1.0, 1.0 / FRONT_SHARE), (600.0, FRONT_WAIT)])
def test_dear_looks_take_a_share_of_the_time(took: float, wait: float) -> None:
    pace = Pace()
    assert pace.due(0.0)
    pace.made(10.0, 10.0 + took)
    assert not pace.due(10.0 + took + wait * 0.99)
    assert pace.due(10.0 + took + wait * 1.01)
