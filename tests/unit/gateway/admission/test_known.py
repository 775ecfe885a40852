"""The bounds as a gateway knows them: which of them a call goes by, and what becomes of them without a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from rowcall.bounds import EACH_TENANT, Bound, Target
from rowcall.queue.protocol import AdmissionStore
from rowcall.sharding.faults import catalogue_unavailable, shard_unavailable
from rowcall_gateway.admission.known import LOOK_EVERY, KnownBounds

QUEUE, METHOD = "documents", "acme.v1.PrintService/Print"


def bound(number: int, tenant: str = "", queue: str = "", method: str = "", rate: float | None = 1.0) -> Bound:
    none: Any = None
    return Bound(
        Target(tenant, queue, method), rate, none, none, none, none, number, datetime.now(UTC), actor=None, note=None
    )


class Catalogue:
    def __init__(self, *rows: Bound) -> None:
        self.rows = list(rows)
        self.away = False

    async def read(self, number: int) -> Sequence[Bound]:
        if self.away:
            raise catalogue_unavailable("")
        return [row for row in self.rows if row.number > number]


class Shard:
    """What is left on a shard."""

    def __init__(self, *rows: Bound) -> None:
        self.rows = {row.target: row for row in rows}
        self.away = False
        self.told = 0

    async def keep(self, bounds: Sequence[Bound]) -> None:
        if self.away:
            raise shard_unavailable("a", "is away")
        self.told += 1
        self.rows |= {each.target: each for each in bounds}

    async def kept(self) -> Sequence[Bound]:
        if self.away:
            raise shard_unavailable("a", "is away")
        return list(self.rows.values())


def known(catalogue: Catalogue, **shards: Shard) -> tuple[KnownBounds, list[int]]:
    changes: list[int] = []
    stores = {name: cast("AdmissionStore", shard) for name, shard in shards.items()}
    return KnownBounds(catalogue.read, stores, lambda: changes.append(1)), changes


def numbers(found: KnownBounds, tenant: str = "acme") -> set[int]:
    return {each.number for each in found.of(tenant, QUEUE, METHOD)}


async def test_a_call_goes_by_every_bound_on_it_and_by_no_other() -> None:
    ours = [
        bound(1, "acme"), bound(2, queue=QUEUE), bound(3, method=METHOD), bound(4, "acme", QUEUE),
        bound(5, "acme", method=METHOD), bound(6, queue=QUEUE, method=METHOD),
    ]  # fmt: skip
    others = [bound(7, "bolt"), bound(8, queue="other"), bound(9, method="a.B/C"), bound(10, "bolt", QUEUE)]
    found, _ = known(Catalogue(*ours, *others))
    await found.look()
    assert numbers(found) == {1, 2, 3, 4, 5, 6}


async def test_a_tenants_own_bound_stands_in_place_of_each_tenants() -> None:
    catalogue = Catalogue(bound(1, EACH_TENANT), bound(2, "acme"), bound(3, EACH_TENANT, QUEUE))
    found, _ = known(catalogue)
    await found.look()
    assert numbers(found, "acme") == {2, 3}
    assert numbers(found, "bolt") == {1, 3}
    catalogue.rows.append(bound(4, "acme", rate=None))
    await found.look()
    assert numbers(found, "acme") == {1, 3}, "it was taken away"


async def test_what_was_taken_away_bounds_nothing_and_is_told_of_once() -> None:
    catalogue = Catalogue(bound(1, "acme"))
    found, changes = known(catalogue)
    assert not found.any
    await found.look()
    await found.look()
    assert (found.any, len(changes)) == (True, 1)
    catalogue.rows.append(bound(2, "acme", rate=None))
    await found.look()
    assert (found.any, len(changes)) == (False, 2)
    assert numbers(found) == set()


async def test_what_is_known_stays_while_the_catalogue_is_away() -> None:
    catalogue = Catalogue(bound(1, "acme"))
    found, _ = known(catalogue)
    await found.look()
    catalogue.away = True
    await found.look()
    assert numbers(found) == {1}
    catalogue.away = False
    catalogue.rows.append(bound(2, queue=QUEUE))
    await found.look()
    assert numbers(found) == {1, 2}


async def test_one_that_starts_without_a_catalogue_goes_by_the_latest_that_was_left_on_a_shard() -> None:
    catalogue = Catalogue()
    catalogue.away = True
    away = Shard()
    away.away = True
    found, _ = known(
        catalogue, a=Shard(bound(1, "acme")), b=Shard(bound(3, "acme", rate=None), bound(2, "bolt")), c=away
    )
    await found.look()
    assert numbers(found, "acme") == set()
    assert numbers(found, "bolt") == {2}


async def test_every_shard_gets_each_bound_once_and_later_if_it_was_away() -> None:
    catalogue = Catalogue(bound(1, "acme"))
    here, away = Shard(), Shard()
    away.away = True
    found, _ = known(catalogue, a=here, b=away)
    await found.look()
    away.away = False
    catalogue.rows.append(bound(2, "bolt"))
    for _ in range(3):
        await found.look()
    assert [sorted(row.number for row in shard.rows.values()) for shard in (here, away)] == [[1, 2], [1, 2]]
    assert (here.told, away.told) == (2, 1)


def test_two_looks_are_within_the_two_seconds_that_were_promised() -> None:
    assert timedelta(seconds=2 * LOOK_EVERY) <= timedelta(seconds=2)
