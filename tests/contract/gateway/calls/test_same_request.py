"""One request under one key is one job, however its client serialises it, through whichever gateway, and in SQL."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from rowcall.catalogue.images import Catalogue, load_catalogue
from rowcall.v1.job_service_pb2 import BatchSubmitRequest, JobSpec
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.fix_gateway import Bench, Gateways, info_of, refused
from tests.fix_images import ImageBuilder
from tests.fix_queue import Logins
from tests.support.rewritten import part, varint
from tests.support.waiting import until

SHOP = """\
syntax = "proto3";
package acme.v1;
import "google/longrunning/operations.proto";
import "google/protobuf/any.proto";
import "google/protobuf/empty.proto";
import "rowcall/options/v1/job.proto";
message Order {
  string name = 1;
  google.protobuf.Any detail = 2;
  map<string, string> tags = 3;
}
service Shop {
  rpc Buy(Order) returns (google.longrunning.Operation) {
    option (rowcall.options.v1.job) = {};
    option (google.longrunning.operation_info) = {response_type: "google.protobuf.Empty", metadata_type: "rowcall.v1.JobMetadata"};
  }
}
"""
DETAIL = """\
syntax = "proto3";
package acme.v1;
message Detail { map<string, int32> notes = 1; }
"""
BUY = "acme.v1.Shop/Buy"
DETAIL_URL = "type.googleapis.com/acme.v1.Detail"


def order(*notes: str, url: str = DETAIL_URL) -> bytes:
    """A request as a client writes it whose maps have that order."""
    detail = b"".join(part(1, part(1, note.encode()) + varint(2 << 3) + varint(1)) for note in notes)
    return part(1, b"4711") + part(2, part(1, url.encode()) + part(2, detail))


@dataclass(frozen=True, slots=True)
class Ways:
    """Every way of submitting an order on one shard."""

    catalogue: Catalogue
    """Of the first gateway."""
    knowing: grpc.aio.Channel
    """Of a gateway whose image has the detail's type."""
    plain: grpc.aio.Channel
    """Of one whose image has not."""
    service: psycopg.AsyncConnection[Any]
    """Of a service that shares the shard."""
    admin: psycopg.AsyncConnection[Any]

    async def call(self, channel: grpc.aio.Channel, request: bytes, key: str) -> str:
        """Calls a gateway; the job's id."""
        stub: Callable[..., grpc.aio.UnaryUnaryCall[bytes, Operation]] = channel.unary_unary(
            f"/{BUY}", response_deserializer=Operation.FromString
        )
        metadata = (("rowcall-tenant", "shop"), ("prefer", "wait=0"), ("idempotency-key", key))
        return (await stub(request, timeout=20, metadata=metadata)).name.rpartition("/")[2]

    async def in_sql(self, request: bytes, key: str) -> str:
        """Calls submit_v1; the job's id."""
        found = await self.service.execute("select rowcall.submit_v1('shop', %s, %s, %s)", [BUY, request, key])
        row = await found.fetchone()
        assert row is not None
        assert isinstance(row[0], UUID)
        return str(row[0])

    async def batch(self, request: bytes, key: str) -> str:
        """Calls BatchSubmit of the plain gateway, with a job of its own beside; the job's id."""
        jobs = [JobSpec(method=BUY, request_id=key), JobSpec(method=BUY)]
        for spec in jobs:
            spec.request.type_url = "type.googleapis.com/acme.v1.Order"
        jobs[0].request.value = request
        answer = await JobServiceStub(self.plain).BatchSubmit(
            BatchSubmitRequest(jobs=jobs), timeout=20, metadata=(("rowcall-tenant", "shop"),)
        )
        return str(answer.results[0].operation.name.rpartition("/")[2])

    async def each(self, way: str, request: bytes, key: str) -> str:
        """Goes one of the ways."""
        match way:
            case "knowing":
                return await self.call(self.knowing, request, key)
            case "plain":
                return await self.call(self.plain, request, key)
            case "batch":
                return await self.batch(request, key)
        return await self.in_sql(request, key)

    async def keys(self) -> int:
        """How many keys there are."""
        found = await (
            await self.admin.execute("select count(*) from rowcall.job_key where request_id <> 'first'")
        ).fetchone()
        assert found is not None
        return int(found[0])


WAYS = ("knowing", "plain", "batch", "sql")


@pytest.fixture
async def ways(build_image: ImageBuilder, gateways: Gateways, logins: Logins) -> AsyncIterator[Ways]:
    shop = {"acme/v1/shop.proto": SHOP}
    image = build_image({**shop, "acme/v1/detail.proto": DETAIL})
    knowing = await gateways.channel(await gateways.start(images=(image,), placement={"b": 0}))
    plain = await gateways.channel(await gateways.start(images=(build_image(shop),), placement={"b": 0}))
    async with (
        await psycopg.AsyncConnection.connect(logins.submitter, autocommit=True, prepare_threshold=None) as service,
        await psycopg.AsyncConnection.connect(logins.admin, autocommit=True) as admin,
    ):
        made = Ways(load_catalogue([image]), knowing, plain, service, admin)
        await made.call(knowing, order(), "first")

        async def published() -> bool:
            found = await admin.execute("select from rowcall.message_type where name = 'acme.v1.Detail'")
            return await found.fetchone() is not None

        await until(published)
        yield made


async def test_a_map_inside_an_any_has_no_order_whichever_way_a_call_comes(ways: Ways) -> None:
    orders: Sequence[bytes] = [order("a", "b", "c"), order("c", "a", "b")]
    for number, (first, second) in enumerate(itertools.product(WAYS, WAYS)):
        key = f"{first}, {second}"
        job = await ways.each(first, orders[0], key)
        assert await ways.each(second, orders[1], key) == job, key
        assert await ways.each(second, orders[0], key) == job, key
        assert await ways.keys() == number + 1


@pytest.mark.parametrize(
    "other",
    [order("a", "c"), order("a"), order("b", "a", url="type.googleapis.com/acme.v1.Other")],
    ids=["other notes", "fewer", "of another type"],
)
async def test_another_request_is_refused_whichever_way_a_call_comes(ways: Ways, other: bytes) -> None:
    job = await ways.call(ways.knowing, order("a", "b"), "k")
    for way in ("knowing", "plain", "batch"):
        error = await refused(ways.each(way, other, "k"))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")
        assert info_of(error).metadata["operation"] == f"tenants/shop/operations/{job}"
    with pytest.raises(psycopg.errors.UniqueViolation, match=f"names job {job} with another request"):
        await ways.in_sql(other, "k")


async def test_an_any_of_a_type_that_no_gateway_has_is_taken_by_its_bytes(ways: Ways) -> None:
    url = "type.googleapis.com/acme.v1.Unknown"
    job = await ways.call(ways.knowing, order("a", "b", url=url), "k")
    assert await ways.in_sql(order("a", "b", url=url), "k") == job
    error = await refused(ways.call(ways.plain, order("b", "a", url=url), "k"))
    assert info_of(error).reason == "IDEMPOTENCY_KEY_REUSED"


async def test_a_key_of_an_older_format_is_compared_by_the_stored_request(ways: Ways, bench: Bench) -> None:
    """While its job is live, and when it is history."""
    bench.serve(ways.catalogue)
    job = await ways.call(ways.knowing, order("a", "b"), "k")
    older = await ways.admin.execute(
        "update rowcall.job_key set fingerprint = sha256(fingerprint) where request_id = 'k' returning fingerprint"
    )
    kept = await older.fetchall()
    assert len(kept) == 1

    async def check() -> None:
        for way in WAYS:
            assert await ways.each(way, order("a", "b"), "k") == job
            assert await ways.each(way, order("b", "a"), "k") == job
        error = await refused(ways.call(ways.plain, order("a"), "k"))
        assert info_of(error).reason == "IDEMPOTENCY_KEY_REUSED"

    await check()
    # Its own, the first one's, and those of the batches.
    for held in await bench.claim(4):
        await bench.answer(held, Empty())
    await check()
