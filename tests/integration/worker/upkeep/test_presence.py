"""A worker tells the shard what it serves, and whoever reads its log what nobody submits to."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import psycopg
import pytest
import structlog

from rowcall_worker.upkeep import presence
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways
from tests.fix_worker import Workers
from tests.support.waiting import until

MISSING = "served, but nobody submits to it"
PROBE = "rowcall.probe.v1.ProbeService"
METHODS = [f"{PROBE}/Await", f"{PROBE}/Echo", f"{PROBE}/Run"]

Lines = Sequence[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "PATIENCE", 1.0)
    monkeypatch.setattr(presence, "AGAIN_EVERY", 1.0)
    monkeypatch.setattr(presence, "LOOK_EVERY", 0.1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each look whether something was missing."""
    made: list[bool] = []
    init = presence.Missing.__init__

    def look(self: presence.Missing, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(bool(self))

    monkeypatch.setattr(presence.Missing, "__init__", look)
    return made


def rows(cluster: Cluster, query: str, shard: str = "a") -> list[tuple[Any, ...]]:
    with psycopg.connect(cluster.shards[shard]) as connection:
        return connection.execute(query.encode()).fetchall()


def serving(cluster: Cluster, shard: str = "a") -> list[tuple[Any, ...]]:
    """Worker, methods and queues of whoever serves."""
    return rows(
        cluster,
        """
        select s.worker, array_agg(m.name order by m.name), s.queues
        from rowcall.serving s cross join unnest(s.method_id) i join rowcall.method m on m.method_id = i
        group by s.worker_id, s.worker, s.queues
        """,
        shard,
    )


def told(lines: Lines, shard: str = "a") -> Lines:
    return [line for line in lines if line["event"] == MISSING and line["shard"] == shard]


async def published(cluster: Cluster, gateways: Gateways) -> None:
    """A gateway has published the probe's methods."""
    await gateways.start()
    await until(lambda: rows(cluster, "select count(*) from rowcall.method where queue_id is not null") == [(3,)])


async def test_every_shard_is_told_what_is_served_and_who_did_when_it_has_left(
    workers: Workers, cluster: Cluster
) -> None:
    everything = await workers.start(probe=True)
    one = await workers.start(probe=True, queues=["probe", "mail=2"])
    wanted = sorted([(everything.name, METHODS, None), (one.name, METHODS, ["mail", "probe"])])
    await until(lambda: all(sorted(serving(cluster, shard)) == wanted for shard in cluster.shards))
    await everything.drain()
    await one.drain()
    for shard in cluster.shards:
        assert serving(cluster, shard) == []
        last = rows(cluster, "select queue, worker, count(*) from rowcall.served group by 1, 2 order by 1", shard)
        assert last == [("", everything.name, 3), ("mail", one.name, 3), ("probe", one.name, 3)]


async def test_a_worker_with_a_new_identity_tells_it_again(workers: Workers, cluster: Cluster) -> None:
    worker = await workers.start(probe=True)
    await until(lambda: bool(serving(cluster)))
    # As the sweep does with one that was cut off for too long.
    rows(cluster, "update rowcall.worker set dead_at = clock_timestamp() returning 1")
    assert serving(cluster) == []
    await until(lambda: [row[0] for row in serving(cluster)] == [worker.name])


async def test_a_misspelt_queue_is_named_with_what_may_be_meant(
    workers: Workers, gateways: Gateways, cluster: Cluster, looks: list[bool]
) -> None:
    await published(cluster, gateways)
    with structlog.testing.capture_logs() as lines:
        await workers.start(probe=True, queues=["prboe"])
        await until(lambda: len(told(lines)) == presence.TOLD_AT_MOST)
        # Looks go on, and say nothing more.
        seen = len(looks)
        await until(lambda: len(looks) >= seen + 2 * len(cluster.shards))
    assert [(line["log_level"], line["methods"], line["queues"], line["cause"]) for line in told(lines)] == [
        ("warning", [], ["prboe"], "queue prboe: no method is submitted to it; did you mean probe?")
    ] * presence.TOLD_AT_MOST


async def test_a_worker_that_is_there_before_the_first_gateway_is_no_mistake(
    workers: Workers, gateways: Gateways, cluster: Cluster
) -> None:
    with structlog.testing.capture_logs() as lines:
        await workers.start(probe=True)
        await until(lambda: bool(told(lines)))
        await published(cluster, gateways)
        await until(lambda: any(line["event"].startswith("everything that is served") for line in lines))
    first = told(lines)[0]
    assert (first["log_level"], first["methods"]) == ("info", METHODS)
    assert first["cause"] == "no gateway has published a method on this shard yet"


async def test_a_worker_all_of_whose_methods_are_published_says_nothing(
    workers: Workers, gateways: Gateways, cluster: Cluster, looks: list[bool]
) -> None:
    await published(cluster, gateways)
    await until(lambda: rows(cluster, "select count(*) from rowcall.method where queue_id is not null", "b") == [(3,)])
    with structlog.testing.capture_logs() as lines:
        await workers.start(probe=True, queues=["probe"])
        await until(lambda: len(looks) == len(cluster.shards))
    assert looks == [False] * len(cluster.shards)
    assert [line for line in lines if line["event"] == MISSING] == []
