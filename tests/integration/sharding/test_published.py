"""Images that were published, as the catalogue keeps them: revisions one after another, and which gateways serve them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall.sharding.published import PublishedImages
from tests.fix_cluster import Cluster

ME = uuid4()


@pytest.fixture
async def images(cluster: Cluster) -> AsyncIterator[PublishedImages]:
    settings = ClusterSettings.model_validate(cluster.settings)
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        yield router.images


async def publish(images: PublishedImages, base: int, name: str = "shop", content: bytes = b"x") -> int | None:
    """The revision that it is; None: it was not published."""
    found = await images.publish(name, content, f"digest of {content!r}", base=base, by="ada", note=None)
    return None if found is None else found.revision


async def after(images: PublishedImages, number: int) -> list[tuple[str, int, int]]:
    """What a gateway is told: name, revision, number."""
    found = await images.after(number, gateway_id=ME, name="here", version="1")
    return [(each.name, each.revision, each.number) for each in found]


async def test_a_revision_follows_the_one_that_it_was_compared_with(images: PublishedImages) -> None:
    assert await publish(images, 0) == 1
    assert await publish(images, 0) is None
    assert await publish(images, 1) == 2
    assert await publish(images, 1) is None
    assert await publish(images, 0, "till") == 1


async def test_of_many_who_publish_at_once_one_does(images: PublishedImages) -> None:
    answers = await asyncio.gather(*(publish(images, 0, content=bytes([each])) for each in range(8)))
    assert sorted(answers, key=str) == [1, *[None] * 7]


async def test_a_gateway_is_told_the_latest_of_what_is_new(images: PublishedImages) -> None:
    assert await after(images, 0) == []
    for base in range(3):
        await publish(images, base)
    await publish(images, 0, "till")
    assert await after(images, 0) == [("shop", 3, 3), ("till", 1, 4)]
    assert await after(images, 3) == [("till", 1, 4)]
    assert await after(images, 4) == []


async def test_content_is_read_by_revision(images: PublishedImages) -> None:
    for base in range(2):
        await publish(images, base, content=bytes([base]) * 1000)
    latest, first = await images.read("shop"), await images.read("shop", 1)
    assert latest is not None
    assert first is not None
    assert (latest.revision, latest.content, first.revision, first.content) == (2, b"\1" * 1000, 1, b"\0" * 1000)
    assert await images.read("shop", 3) is None
    assert await images.read("nothing") is None


async def test_the_last_twenty_revisions_of_each_are_kept(images: PublishedImages) -> None:
    await publish(images, 0, "till")
    for base in range(23):
        assert await publish(images, base) == base + 1
    assert [each.revision for each in await images.page("shop", None, 100)] == list(range(23, 3, -1))
    assert [each.latest for each in await images.page("", None, 3)] == [True, False, False]
    assert len(await images.page("till", None, 100)) == 1


async def test_gateways_are_known_while_they_live(images: PublishedImages, cluster: Cluster) -> None:
    await publish(images, 0)
    await after(images, 0)
    assert [(each.name, each.version, each.number) for each in await images.gateways()] == [("here", "1", 0)]
    await after(images, 1)
    assert [each.number for each in await images.gateways()] == [1]

    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("update rowcall_catalogue.gateway set seen_at = clock_timestamp() - interval '16 seconds'")
    assert await images.gateways() == []
    await after(images, 1)
    assert len(await images.gateways()) == 1
    await images.forget(ME)
    assert await images.gateways() == []
