"""The head of the catalogue's chain, as a gateway tells it to its log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall_gateway.services.heads import CatalogueHead
from tests.fix_cluster import Cluster
from tests.support.waiting import until

NOWHERE = "postgresql://postgres@127.0.0.1:1/nothing"


@pytest.fixture
async def router(cluster: Cluster) -> AsyncIterator[Router]:
    settings = ClusterSettings.model_validate(cluster.settings)
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        yield router


async def test_it_is_told_when_it_has_grown_and_not_again(router: Router) -> None:
    head = CatalogueHead(router.audit)
    with capture_logs() as told:
        await head.look()
        assert told == [], "there is none yet"
        await router.revocations.revoke("idp", "eve", None, by="root", note=None)
        await head.look()
        await head.look()
        await router.revocations.revoke("idp", "mallory", None, by="root", note=None)
        await head.look()
    now = await router.audit.head()
    assert [(line["event"], line["database"], line["chain"], line["place"]) for line in told] == [
        ("audit head", "catalogue", "system", 1),
        ("audit head", "catalogue", "system", 2),
    ]
    assert told[1]["hash"] == now.hash.hex()


async def test_it_is_looked_for_again_and_again(router: Router) -> None:
    head = CatalogueHead(router.audit, look_every=0.05)
    with capture_logs() as told:
        head.start()
        try:
            await router.revocations.revoke("idp", "eve", None, by="root", note=None)
            await until(lambda: bool(told))
        finally:
            await head.close()
    assert told[0]["place"] == 1


async def test_a_catalogue_that_is_away_is_no_matter(cluster: Cluster) -> None:
    settings = ClusterSettings.model_validate({**cluster.settings, "catalogue": NOWHERE, "pool_timeout": "1s"})
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        with capture_logs() as told:
            await CatalogueHead(router.audit).look()
    assert [line for line in told if line["event"] == "audit head"] == []
