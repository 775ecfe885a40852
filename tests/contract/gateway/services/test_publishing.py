"""Images that are published: compared first, served by every gateway without a restart, rolled back, and gone when they are replaced."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import grpc
import pytest

from rowcall.catalogue.images import LoadedImage, load_catalogue
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.catalogue_service_pb2 import (
    ImageChangeKind,
    ListImagesRequest,
    ListImagesResponse,
    ListMethodsRequest,
    PublishImageRequest,
    PublishImageResponse,
    RollbackImageRequest,
)
from rowcall.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from rowcall_gateway.server import Gateway
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, dynamic_stub, info_of, jobs, refused
from tests.fix_images import ImageBuilder
from tests.fix_worker import Workers
from tests.support.waiting import until

NOW = (("prefer", "wait=0"),)
SHOP = """\
syntax = "proto3";
package acme.v1;
import "buf/validate/validate.proto";
import "rowcall/options/v1/job.proto";
message Order { string item = 1 [(buf.validate.field).string.max_len = 8]; int32 count = 2; }
message Receipt { string number = 1; }
service Shop {
  rpc Buy(Order) returns (Receipt) { option (rowcall.options.v1.job) = {queue: "shop"}; }
}
"""
BUY = "acme.v1.Shop/Buy"
ECHO = "rowcall.probe.v1.ProbeService/Echo"


class Shop:
    """A gateway, and what its admin does."""

    def __init__(self, gateway: Gateway, channel: grpc.aio.Channel) -> None:
        self.gateway = gateway
        self.channel = channel
        self.catalogue = CatalogueServiceStub(channel)

    async def publish(self, image: Path, *, allow: bool = False, only_say: bool = False) -> PublishImageResponse:
        """Publishes an image as "shop"."""
        request = PublishImageRequest(
            name="shop",
            content=await asyncio.to_thread(image.read_bytes),
            note="why",
            allow_breaking=allow,
            validate_only=only_say,
        )
        response: PublishImageResponse = await self.catalogue.PublishImage(
            request, timeout=40, metadata=(("rowcall-actor", "ada"),)
        )
        return response

    async def methods(self) -> dict[str, str]:
        """The images of what it serves, by method."""
        answer = await self.catalogue.ListMethods(ListMethodsRequest(), timeout=20)
        return {method.name: method.image for method in answer.methods}

    async def buy(self, image: Path, **fields: Any) -> str:
        """Calls the image's method, which nobody works on: why that ends."""
        method = load_catalogue([image]).methods[BUY]
        call = dynamic_stub(self.channel, method)(method.request_class(**fields), timeout=20, metadata=NOW)
        return info_of(await refused(call)).reason


@pytest.fixture
async def shop(gateways: Gateways) -> Shop:
    gateway = await gateways.start()
    return Shop(gateway, await gateways.channel(gateway))


async def another(gateways: Gateways) -> Shop:
    """Another gateway."""
    gateway = await gateways.start()
    return Shop(gateway, await gateways.channel(gateway))


async def test_a_new_method_is_published_under_load_without_an_error(
    shop: Shop, gateways: Gateways, workers: Workers, build_image: ImageBuilder, cluster: Cluster
) -> None:
    image = build_image({"acme/v1/shop.proto": SHOP})
    other = await another(gateways)
    await workers.start()
    done = asyncio.Event()
    answered = [0, 0]

    async def call(index: int, each: Shop) -> None:
        probe = ProbeServiceStub(each.channel)
        while not done.is_set():
            await probe.Echo(EchoRequest(payload=b"x"), timeout=20)
            answered[index] += 1

    load = [asyncio.ensure_future(call(index, each)) for index, each in enumerate((shop, other) * 2) if index < 2]
    await until(lambda: min(answered) > 5)
    assert await shop.buy(image, item="tea") == "UNKNOWN_METHOD"

    published = (await shop.publish(image)).image
    before = list(answered)
    # When it is said to be published, every gateway serves it.
    assert [await each.buy(image, item="tea") for each in (shop, other)] == ["STILL_RUNNING"] * 2
    assert (len(published.gateways), list(published.gateways_behind)) == (2, [])
    await until(lambda: all(after > first for after, first in zip(answered, before, strict=True)))
    done.set()
    await asyncio.gather(*load)

    assert (await other.methods())[BUY] == "shop"
    served = (await other.catalogue.ListMethods(ListMethodsRequest(), timeout=20)).methods
    # The worker serves the probe alone.
    assert {method.name: len(method.workers) for method in served if method.name in (BUY, ECHO)} == {BUY: 0, ECHO: 1}
    assert jobs(cluster, "method, queue").count((BUY, "shop")) == 2


async def test_a_gateway_that_starts_later_serves_it_from_its_first_call(
    shop: Shop, gateways: Gateways, build_image: ImageBuilder
) -> None:
    image = build_image({"acme/v1/shop.proto": SHOP})
    await shop.publish(image)
    later = await another(gateways)
    assert await later.buy(image, item="tea") == "STILL_RUNNING"
    # By the rules of the image.
    assert await later.buy(image, item="far too long") == "INVALID_REQUEST"


async def test_what_breaks_the_wire_is_not_published_unless_it_is_allowed(
    shop: Shop, build_image: ImageBuilder
) -> None:
    await shop.publish(build_image({"acme/v1/shop.proto": SHOP}))
    source = SHOP.replace("int32 count", "string count").replace('{queue: "shop"}', '{queue: "till"}')
    image = build_image({"acme/v1/shop.proto": source})

    answer = await shop.publish(image)

    assert not answer.HasField("image")
    assert [(each.kind, each.subject, each.rule, each.breaking) for each in answer.changes] == [
        (ImageChangeKind.IMAGE_CHANGE_KIND_WIRE, "acme.v1.Order.count", "FIELD_WIRE_COMPATIBLE_TYPE", True),
        (ImageChangeKind.IMAGE_CHANGE_KIND_POLICY, BUY, "queue", False),
    ]
    assert [each.revision for each in (await listed(shop)).images] == [1]

    allowed = await shop.publish(image, allow=True)
    assert (allowed.image.revision, allowed.changes) == (2, answer.changes)


async def listed(shop: Shop, **more: Any) -> ListImagesResponse:
    """What was published."""
    response: ListImagesResponse = await shop.catalogue.ListImages(ListImagesRequest(**more), timeout=20)
    return response


async def test_a_change_of_policy_is_told_and_published(
    shop: Shop, build_image: ImageBuilder, cluster: Cluster
) -> None:
    await shop.publish(build_image({"acme/v1/shop.proto": SHOP}))
    image = build_image({"acme/v1/shop.proto": SHOP.replace('"shop"', '"till"')})

    answer = await shop.publish(image)

    assert answer.image.revision == 2
    assert [each.rule for each in answer.changes] == ["queue"]
    await shop.buy(image, item="tea")
    assert jobs(cluster, "queue") == [("till",)]


async def test_to_say_what_would_change_changes_nothing(shop: Shop, build_image: ImageBuilder) -> None:
    image = build_image({"acme/v1/shop.proto": SHOP})
    answer = await shop.publish(image, only_say=True)
    assert (answer.HasField("image"), [each.subject for each in answer.changes]) == (False, [BUY])
    assert BUY not in await shop.methods()


async def test_the_same_image_is_published_once(shop: Shop, build_image: ImageBuilder) -> None:
    image = build_image({"acme/v1/shop.proto": SHOP})
    assert (await shop.publish(image)).image.revision == 1
    again = await shop.publish(image)
    assert (again.HasField("image"), list(again.changes)) == (False, [])


async def test_an_earlier_revision_is_published_again(
    shop: Shop, gateways: Gateways, build_image: ImageBuilder
) -> None:
    first = build_image({"acme/v1/shop.proto": SHOP})
    second = SHOP.replace(
        "service Shop {", "service Shop { rpc Sell(Order) returns (Receipt) { option (rowcall.options.v1.job) = {}; }"
    )
    await shop.publish(first)
    await shop.publish(build_image({"acme/v1/shop.proto": second}))
    assert "acme.v1.Shop/Sell" in await shop.methods()

    # A method would be gone.
    refusal = await shop.catalogue.RollbackImage(RollbackImageRequest(name="shop"), timeout=40)
    assert (refusal.HasField("image"), [each.rule for each in refusal.changes]) == (False, ["RPC_NO_DELETE"])
    rolled = await shop.catalogue.RollbackImage(RollbackImageRequest(name="shop", allow_breaking=True), timeout=40)

    assert (rolled.image.revision, rolled.image.note) == (3, "rolled back to revision 1")
    methods = await shop.methods()
    assert ("acme.v1.Shop/Sell" in methods, BUY in methods) == (False, True)
    answer = await listed(shop, page_size=2)
    assert [(each.revision, each.latest, each.actor) for each in answer.images] == [(3, True, ""), (2, False, "ada")]
    rest = await listed(shop, page_size=2, page_token=answer.next_page_token)
    assert [(each.revision, each.note) for each in rest.images] == [(1, "why")]
    assert rest.images[0].digest == answer.images[0].digest


async def test_what_was_never_published_cannot_be_rolled_back(shop: Shop) -> None:
    error = await refused(shop.catalogue.RollbackImage(RollbackImageRequest(name="nothing"), timeout=20))
    assert info_of(error).reason == "NOT_KNOWN"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (SHOP.replace('{queue: "shop"}', "{max_attempts: 1001}"), "max_attempts: 1001 is more than 1000"),
        (SHOP.replace('option (rowcall.options.v1.job) = {queue: "shop"};', ""), "has no job method"),
        (
            SHOP.replace('"shop"};', '"shop"}; option (rowcall.options.v1.access) = {roles: "viewer"};').replace(
                'import "rowcall/options/v1/job.proto";',
                'import "rowcall/options/v1/job.proto"; import "rowcall/options/v1/access.proto";',
            ),
            "names the role 'viewer'",
        ),
    ],
)
async def test_an_image_that_cannot_be_served_is_not_published(
    shop: Shop, build_image: ImageBuilder, source: str, said: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await shop.publish(build_image({"acme/v1/shop.proto": source}))
    assert info_of(error.value).reason == "INVALID_REQUEST"
    assert said in str(error.value.details())
    assert not (await listed(shop)).images


async def test_a_method_that_an_image_of_the_settings_defines_otherwise_is_not_published(
    gateways: Gateways, build_image: ImageBuilder
) -> None:
    own = build_image({"acme/v1/shop.proto": SHOP})
    gateway = await gateways.start(images=(own,))
    shop = Shop(gateway, await gateways.channel(gateway))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await shop.publish(build_image({"acme/v1/shop.proto": SHOP.replace('"shop"', '"till"')}))
    assert f"shop: method {BUY} is not the one of {own}: they differ in the policy" in str(error.value.details())


async def test_two_who_publish_at_once_do_not_overwrite_each_other(shop: Shop, build_image: ImageBuilder) -> None:
    """What one of them was compared with is not there any more."""
    images = [build_image({"acme/v1/shop.proto": SHOP.replace('"shop"', f'"shop{index}"')}) for index in range(4)]
    answers = await asyncio.gather(*(shop.publish(image) for image in images), return_exceptions=True)
    conflicts = [each for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    published = [each for each in answers if isinstance(each, PublishImageResponse)]
    assert {info_of(each).reason for each in conflicts} <= {"CONFLICT"}
    revisions = sorted(each.image.revision for each in published)
    assert revisions == list(range(1, len(published) + 1))
    for each in published:
        assert each.image.revision == 1 or each.changes


async def test_replaced_images_are_gone(shop: Shop, build_image: ImageBuilder) -> None:
    """Their pools, classes and rules: what stays is what is served."""
    images = [build_image({"acme/v1/shop.proto": SHOP.replace('"shop"', f'"shop{index}"')}) for index in range(2)]

    def loaded() -> int:
        return sum(isinstance(each, LoadedImage) for each in gc.get_objects())

    await shop.publish(images[0])
    gc.collect()
    before = loaded()
    for index in range(6):
        assert (await shop.publish(images[(index + 1) % 2])).image.revision == index + 2
    gc.collect()
    assert loaded() <= before
