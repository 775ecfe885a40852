"""Methods of a user's own image, served without generated code: keys in the message, rules, policies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import structlog
from google.longrunning.operations_pb2 import Operation

from rowcall.catalogue.images import Catalogue, load_catalogue
from rowcall.queue.hints import Hint
from rowcall.queue.model import Submission, Submitted
from rowcall.queue.postgres.store import PostgresJobStore
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, dynamic_stub, info_of, jobs, keyed, tenant, violations_of
from tests.fix_images import ImageBuilder
from tests.support.waiting import until

PROTO = """\
syntax = "proto3";
package acme.v1;
import "buf/validate/validate.proto";
import "google/longrunning/operations.proto";
import "rowcall/options/v1/job.proto";
service ShopService {
  // With a request_id of its own (AIP-155), and rules.
  rpc Order(OrderRequest) returns (OrderResponse) {
    option (rowcall.options.v1.job) = {queue: "shop" priority: PRIORITY_HIGH};
  }
  // Worth nothing once its caller is gone.
  rpc Quote(QuoteRequest) returns (QuoteResponse) {
    option (rowcall.options.v1.job) = {on_abandon: ON_ABANDON_CANCEL_IF_NOT_STARTED};
  }
  // Answered with an operation, after a wait of its own.
  rpc Ship(ShipRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {response_type: "ShipResponse" metadata_type: "rowcall.v1.JobMetadata"};
    option (rowcall.options.v1.job) = {wait: {nanos: 500000000}};
  }
}
message OrderRequest {
  string request_id = 1;
  string item = 2 [(buf.validate.field).string.max_len = 8];
  repeated int32 counts = 3 [(buf.validate.field).repeated.items.int32.gt = 0];
}
message OrderResponse { string receipt = 1; }
message QuoteRequest { string item = 1; }
message QuoteResponse { int32 price = 1; }
message ShipRequest {}
message ShipResponse {}
"""


QUOTE = "/acme.v1.ShopService/Quote"


@dataclass(frozen=True, slots=True)
class Shop:
    """The image, and a gateway that serves it."""

    image: Path
    catalogue: Catalogue
    channel: grpc.aio.Channel

    def message(self, name: str, **fields: Any) -> Any:
        """A request or response of the image."""
        for method in self.catalogue.methods.values():
            for kind in (method.request_class, method.response_class):
                if kind.DESCRIPTOR.name == name:
                    return kind(**fields)
        raise LookupError(name)

    def call(self, name: str, request: Any, **options: Any) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        """A call of a method of the image."""
        return dynamic_stub(self.channel, self.catalogue.methods[f"acme.v1.ShopService/{name}"])(request, **options)

    async def refused(self, name: str, request: Any, **options: Any) -> grpc.aio.AioRpcError:
        """A call that ends with an error."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.call(name, request, **options)
        return error.value


@pytest.fixture
async def shop(build_image: ImageBuilder, gateways: Gateways, bench: Bench) -> Shop:
    image = build_image({"acme/v1/shop.proto": PROTO})
    catalogue = load_catalogue([image])
    bench.serve(catalogue)
    return Shop(image, catalogue, await gateways.channel(await gateways.start(images=(image,))))


def states(cluster: Cluster) -> list[tuple[str, str | None]]:
    """State and request id of every job."""
    return [(state, request_id) for state, request_id in jobs(cluster, "state, request_id")]


async def test_the_messages_own_request_id_is_the_key(shop: Shop, bench: Bench, cluster: Cluster) -> None:
    request = shop.message("OrderRequest", request_id="order-1", item="tea")

    error = await shop.refused("Order", request, timeout=20, metadata=(("prefer", "wait=0"),))
    assert info_of(error).reason == "STILL_RUNNING"
    (held,) = await bench.claim()
    assert held.job.request_id == "order-1"
    await bench.answer(held, shop.message("OrderResponse", receipt="r-1"))

    # By itself, and said twice.
    assert (await shop.call("Order", request, timeout=20)).receipt == "r-1"
    assert (await shop.call("Order", request, timeout=20, metadata=keyed("order-1"))).receipt == "r-1"
    assert states(cluster) == [("SUCCEEDED", "order-1")]


async def test_two_keys_that_differ_are_refused(shop: Shop, cluster: Cluster) -> None:
    error = await shop.refused(
        "Order", shop.message("OrderRequest", request_id="a", item="tea"), timeout=20, metadata=keyed("b")
    )

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).reason == "REQUEST_ID_MISMATCH"
    assert states(cluster) == []


@pytest.mark.parametrize("request_id", ["x" * 256, "nul\0"])
async def test_a_request_id_that_cannot_be_a_key_is_refused(shop: Shop, request_id: str) -> None:
    error = await shop.refused("Order", shop.message("OrderRequest", request_id=request_id), timeout=20)

    assert info_of(error).reason == "INVALID_REQUEST"
    assert list(violations_of(error)) == ["request_id"]


async def test_every_violation_is_told_and_nothing_written(shop: Shop, cluster: Cluster) -> None:
    request = shop.message("OrderRequest", item="far too long", counts=[1, 0, -1])

    error = await shop.refused("Order", request, timeout=20, metadata=keyed("k"))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).reason == "INVALID_REQUEST"
    assert violations_of(error) == {"item": "string.max_len", "counts[1]": "int32.gt", "counts[2]": "int32.gt"}
    assert states(cluster) == []
    # The key was not used up by a call that was refused.
    good = await shop.refused(
        "Order", shop.message("OrderRequest", item="tea"), timeout=20, metadata=keyed("k", ("prefer", "wait=0"))
    )
    assert info_of(good).reason == "STILL_RUNNING"


async def test_the_methods_policy_is_the_rows(shop: Shop, cluster: Cluster) -> None:
    await shop.refused("Order", shop.message("OrderRequest"), timeout=20, metadata=tenant("acme", ("prefer", "wait=0")))

    assert jobs(cluster, "queue, priority, method") == [("shop", "HIGH", "acme.v1.ShopService/Order")]


async def test_an_operation_waits_as_long_as_its_method_says(shop: Shop) -> None:
    started = time.monotonic()
    operation: Operation = await shop.call("Ship", shop.message("ShipRequest"), timeout=20)

    assert 0.5 <= time.monotonic() - started < 3
    assert not operation.done


async def test_a_call_that_is_cancelled_while_it_waits_takes_its_unstarted_job_along(
    shop: Shop, cluster: Cluster
) -> None:
    # Called in the one way in which Python's client tells of headers, hence of the row, before the answer.
    quote: Callable[..., grpc.aio.UnaryStreamCall[bytes, bytes]] = shop.channel.unary_stream(QUOTE)
    call = quote(b"", timeout=20)
    assert "rowcall-operation" in dict(await call.initial_metadata())

    call.cancel()

    await until(lambda: states(cluster) == [("CANCELLED", None)])


async def test_a_call_that_is_cancelled_while_it_is_written_takes_its_unstarted_job_along(
    shop: Shop, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = PostgresJobStore.submit
    told = asyncio.Event()

    async def slowly(
        self: PostgresJobStore, submissions: Sequence[Submission], hint: Hint | None = None
    ) -> list[Submitted | Exception]:
        answers = await submit(self, submissions, hint)
        await told.wait()
        return answers

    monkeypatch.setattr(PostgresJobStore, "submit", slowly)
    call = shop.call("Quote", shop.message("QuoteRequest"), timeout=20)
    await until(lambda: len(states(cluster)) == 1)

    with structlog.testing.capture_logs() as lines:
        call.cancel()
        await until(lambda: [line["code"] for line in lines if line["event"] == "call"] == ["CANCELLED"])
    told.set()

    await until(lambda: states(cluster) == [("CANCELLED", None)])


async def test_a_call_that_runs_out_of_time_takes_its_unstarted_job_along(shop: Shop, cluster: Cluster) -> None:
    error = await shop.refused("Quote", shop.message("QuoteRequest"), timeout=4, metadata=keyed("k"))

    # Not "still running": it is told what became of the job.
    assert error.code() is grpc.StatusCode.CANCELLED
    assert info_of(error).reason == "JOB_CANCELLED"
    assert info_of(error).metadata["origin"] == "JOB"
    assert info_of(error).metadata["operation"].startswith("tenants/default/operations/")
    assert states(cluster) == [("CANCELLED", "k")]


async def test_a_started_job_goes_on_without_its_caller(shop: Shop, bench: Bench, cluster: Cluster) -> None:
    call = shop.call("Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed("cancelled"))
    late = asyncio.ensure_future(shop.refused("Quote", shop.message("QuoteRequest"), timeout=4, metadata=keyed("late")))
    held = await bench.claim(2)

    call.cancel()
    assert info_of(await late).reason == "STILL_RUNNING"

    for each in held:
        await bench.answer(each, shop.message("QuoteResponse", price=7))
    for key in ("cancelled", "late"):
        assert (await shop.call("Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed(key))).price == 7
    assert sorted(states(cluster)) == [("SUCCEEDED", "cancelled"), ("SUCCEEDED", "late")]


@pytest.mark.parametrize("where", ["another gateway", "the same gateway", "the same batch"])
async def test_a_job_that_another_caller_waits_for_is_kept(
    shop: Shop, gateways: Gateways, bench: Bench, cluster: Cluster, where: str
) -> None:
    """Who else waits is asked of the row: no gateway knows of the others' callers. The last one takes it along."""
    calls = []
    second = shop
    if where == "another gateway":
        second = Shop(shop.image, shop.catalogue, await gateways.channel(await gateways.start(images=(shop.image,))))
    for each in (shop, second):
        calls.append(each.call("Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed("k")))
        if where != "the same batch":
            await until(lambda: callers(cluster) == len(calls))
    await until(lambda: callers(cluster) == 2)

    calls[0].cancel()
    await until(lambda: callers(cluster) == 1)
    assert states(cluster) == [("READY", "k")]
    assert not calls[1].done()

    calls[1].cancel()
    await until(lambda: states(cluster) == [("CANCELLED", "k")])


async def test_a_caller_that_comes_again_and_again_is_one(shop: Shop, cluster: Cluster) -> None:
    """Its calls end before it has given up: with the last of them it has."""
    for _ in range(3):
        error = await shop.refused(
            "Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed("k", ("prefer", "wait=1"))
        )
        assert info_of(error).reason == "STILL_RUNNING"
        await until(lambda: callers(cluster) == 0)
    call = shop.call("Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed("k"))
    await until(lambda: callers(cluster) == 1)
    call.cancel()
    await until(lambda: states(cluster) == [("CANCELLED", "k")])


async def test_a_call_that_joins_and_is_gone_before_it_is_written_is_not_counted_on(
    shop: Shop, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.call("Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed("k"))
    await until(lambda: callers(cluster) == 1)
    submit, told = PostgresJobStore.submit, asyncio.Event()

    async def slowly(
        self: PostgresJobStore, submissions: Sequence[Submission], hint: Hint | None = None
    ) -> list[Submitted | Exception]:
        answers = await submit(self, submissions, hint)
        await told.wait()
        return answers

    monkeypatch.setattr(PostgresJobStore, "submit", slowly)
    second = shop.call("Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed("k"))
    await until(lambda: callers(cluster) == 2)
    with structlog.testing.capture_logs() as lines:
        second.cancel()
        await until(lambda: [line["code"] for line in lines if line["event"] == "call"] == ["CANCELLED"])
    told.set()
    await until(lambda: callers(cluster) == 1)
    first.cancel()
    await until(lambda: states(cluster) == [("CANCELLED", "k")])


def callers(cluster: Cluster) -> int | None:
    """How many calls are counted for the one key; None while there is none."""
    found: list[int] = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            found += [count for (count,) in connection.execute("select callers from rowcall.job_key").fetchall()]
    return found[0] if found else None


async def test_a_caller_that_does_not_want_to_wait_has_not_given_up(shop: Shop, cluster: Cluster) -> None:
    error = await shop.refused(
        "Quote", shop.message("QuoteRequest"), timeout=20, metadata=keyed("k", ("prefer", "wait=0"))
    )

    assert info_of(error).reason == "STILL_RUNNING"
    assert states(cluster) == [("READY", "k")]


async def test_one_of_two_callers_that_gives_up_takes_nothing_from_the_other(
    shop: Shop, bench: Bench, cluster: Cluster
) -> None:
    request = shop.message("QuoteRequest", item="tea")
    first = shop.call("Quote", request, timeout=20, metadata=keyed("k"))
    await until(lambda: len(states(cluster)) == 1)
    second = asyncio.ensure_future(_answer(shop.call("Quote", request, timeout=20, metadata=keyed("k"))))
    late = await shop.refused("Quote", request, timeout=4, metadata=keyed("k"))

    assert info_of(late).reason == "STILL_RUNNING"
    first.cancel()
    (held,) = await bench.claim()
    await bench.answer(held, shop.message("QuoteResponse", price=3))
    assert (await second).price == 3


MONEY = """\
syntax = "proto3";
package common;
import "buf/validate/validate.proto";
message Money { int64 units = 1%s; }
"""
TILL = """\
syntax = "proto3";
package {0}.v1;
import "common/money.proto";
import "rowcall/options/v1/job.proto";
service TillService {{ rpc Pay(PayRequest) returns (PayResponse) {{ option (rowcall.options.v1.job) = {{}}; }} }}
message PayRequest {{ common.Money amount = 1; }}
message PayResponse {{ common.Money left = 1; }}
"""


async def test_each_image_has_its_own_rules_for_a_type_of_one_name(
    build_image: ImageBuilder, gateways: Gateways, bench: Bench
) -> None:
    """Two teams, one common file, two versions of it: what one forbids, the other may allow."""
    versions = {"red": MONEY % "", "blue": MONEY % " [(buf.validate.field).int64.gte = 0]"}
    images = [
        build_image({"common/money.proto": version, f"{team}/v1/till.proto": TILL.format(team)})
        for team, version in versions.items()
    ]
    catalogue = load_catalogue(images)
    bench.serve(catalogue)
    channel = await gateways.channel(await gateways.start(images=tuple(images)))
    red, blue = (catalogue.methods[f"{team}.v1.TillService/Pay"] for team in versions)

    call = dynamic_stub(channel, red)(red.request_class(amount={"units": -1}), timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await dynamic_stub(channel, blue)(blue.request_class(amount={"units": -1}), timeout=20)
    assert violations_of(error.value) == {"amount.units": "int64.gte"}
    (held,) = await bench.claim()
    await bench.answer(held, red.response_class(left={"units": 7}))
    assert (await call).left.units == 7


async def _answer(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> Any:
    return await call
