"""What was revoked, as the catalogue keeps it: in the order of commits, one a subject, and never moved back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall.sharding.revocations import Revocations
from tests.fix_cluster import Cluster

NOWHERE = "postgresql://postgres@127.0.0.1:1/nothing"


@pytest.fixture
async def revocations(cluster: Cluster) -> AsyncIterator[Revocations]:
    settings = ClusterSettings.model_validate(cluster.settings)
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        yield router.revocations


async def revoke(found: Revocations, subject: str = "ada", before: datetime | None = None, issuer: str = "idp") -> int:
    return (await found.revoke(issuer, subject, before, by="root", note=None)).number


async def test_what_is_new_is_read_and_nothing_twice(revocations: Revocations) -> None:
    assert await revocations.since(0) == []
    first = await revoke(revocations)
    [read] = await revocations.since(0)
    assert (read.issuer, read.subject, read.number) == ("idp", "ada", first)
    assert abs(read.before - time.time()) < 60
    assert await revocations.since(first) == []
    second = await revoke(revocations, "bob")
    assert [each.subject for each in await revocations.since(first)] == ["bob"]
    assert second > first


async def test_a_revocation_is_never_moved_back_nor_into_the_future(revocations: Revocations) -> None:
    now = datetime.now(UTC)
    first = await revocations.revoke("idp", "ada", now - timedelta(hours=1), by="root", note="one")
    earlier = await revocations.revoke("idp", "ada", now - timedelta(hours=2), by="eve", note="two")
    assert earlier.before == first.before
    later = await revocations.revoke("idp", "ada", now + timedelta(days=1), by="root", note=None)
    assert first.before < later.before < now.timestamp() + 3600, "it is cut to now"
    assert [each.subject for each in await revocations.since(0)] == ["ada"], "one a subject"


async def test_whoever_has_read_up_to_a_number_never_meets_a_lower_one(
    cluster: Cluster, revocations: Revocations
) -> None:
    """A transaction that was first and is committed last would be missed by everybody who reads by numbers."""
    async with await psycopg.AsyncConnection.connect(cluster.catalogue_dsn) as slow:
        await slow.execute("select from rowcall_catalogue.revoke_credentials('idp', 'slow', null, null, null)")
        quick = asyncio.create_task(revoke(revocations, "quick"))
        _, waits = await asyncio.wait({quick}, timeout=0.5)
        assert waits, "until the first one is committed"
        assert await revocations.since(0) == []
        await slow.commit()
        last = await quick
    assert [(each.subject, each.number) for each in await revocations.since(0)] == [("slow", last - 1), ("quick", last)]


async def test_pages_are_the_latest_first_and_of_one_issuer_where_that_is_asked(revocations: Revocations) -> None:
    for number in range(5):
        await revoke(revocations, f"s{number}", issuer="idp" if number % 2 else "other")
    page = await revocations.page("", None, 2)
    assert [each.subject for each in page] == ["s4", "s3"]
    assert [each.subject for each in await revocations.page("", page[-1].number, 10)] == ["s2", "s1", "s0"]
    assert [each.subject for each in await revocations.page("idp", None, 10)] == ["s3", "s1"]
    assert page[0].actor == "root"


async def test_many_are_read_whole(cluster: Cluster, revocations: Revocations) -> None:
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute(
            "insert into rowcall_catalogue.revocation (issuer, subject, before, number, created_at) "
            "select 'idp', n::text, now(), n, now() from generate_series(1, 12000) n"
        )
    assert [each.number for each in await revocations.since(0)] == list(range(1, 12_001))


async def test_a_catalogue_that_is_away_is_said(cluster: Cluster) -> None:
    settings = ClusterSettings.model_validate({**cluster.settings, "catalogue": NOWHERE, "pool_timeout": "1s"})
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        with pytest.raises(RowcallError) as refused:
            await router.revocations.since(0)
    assert reason_name(refused.value.reason) == "CATALOGUE_UNAVAILABLE"
