"""Heads of the audit, as a gateway tells them: the catalogue's to its log, all of them over OTLP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from structlog.testing import capture_logs

from rowcall.queue.choice import queue_of
from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall_gateway.edge.head_export import HeadExport
from rowcall_gateway.services.heads import Heads
from tests.fix_cluster import Cluster
from tests.support.waiting import until

NOWHERE = "postgresql://postgres@127.0.0.1:1/nothing"


@pytest.fixture
async def router(cluster: Cluster) -> AsyncIterator[Router]:
    settings = ClusterSettings.model_validate(cluster.settings)
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        yield router


async def test_it_is_told_when_it_has_grown_and_not_again(router: Router) -> None:
    head = Heads(router.audit, {}, None)
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
    head = Heads(router.audit, {}, None, look_every=0.05)
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
            await Heads(router.audit, {}, None).look()
    assert [line for line in told if line["event"] == "audit head"] == []


async def test_over_otlp_go_those_of_all_databases_that_have_grown(router: Router, cluster: Cluster) -> None:
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn, autocommit=True) as connection:
            for tenant in ("", "acme", "acme"):
                connection.execute("select rowcall.record_action('{}', %s, 'x', 'y', null, null)", [tenant])

            def all_sealed(connection: psycopg.Connection = connection) -> bool:
                connection.execute("select from rowcall.seal_audit(1000)")
                return connection.execute("select count(*) from rowcall.audit_seal").fetchone() == (3,)

            await until(all_sealed)
    await router.revocations.revoke("idp", "eve", None, by="root", note=None)
    settings = ClusterSettings.model_validate(cluster.settings)
    admins = {name: queue_of(shard, settings).admin() for name, shard in router.shards.items()}
    kept = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    await Heads(router.audit, admins, HeadExport(provider)).look()
    told = {
        (said["rowcall.audit.database"], said["rowcall.audit.chain"]): (
            said["rowcall.audit.place"],
            said["rowcall.audit.hash"],
        )
        for said in (each.log_record.attributes or {} for each in kept.get_finished_logs())
    }
    catalogue = await router.audit.head()
    expected = {("catalogue", "system"): (1, catalogue.hash.hex())}
    for name, admin in admins.items():
        for chain, tenant, place in (("system", "", 1), ("tenants/acme", "acme", 2)):
            expected[name, chain] = (place, (await admin.audit_head(tenant)).hash.hex())
    assert told == expected
    assert {each.log_record.event_name for each in kept.get_finished_logs()} == {"rowcall.audit.head"}
    assert await admins["a"].audit_grown(timedelta(0)) == []
    provider.shutdown()
