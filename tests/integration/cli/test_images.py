"""`rowcall image` and `rowcall methods list` against a running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.fix_commands import Ran
from tests.fix_gateway import Gateways
from tests.fix_images import ImageBuilder

SHOP = """\
syntax = "proto3";
package acme.v1;
import "rowcall/options/v1/job.proto";
message Order { string item = 1; }
message Receipt {}
service Shop { rpc Buy(Order) returns (Receipt) { option (rowcall.options.v1.job) = {queue: "shop"}; } }
"""

Command = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def command(rowcall_process: Callable[..., Ran], gateways: Gateways) -> Command:
    """Runs `rowcall ARGUMENTS` against a gateway of the test's own."""
    address = (await gateways.start()).address

    async def run(*arguments: object) -> Ran:
        return await asyncio.to_thread(rowcall_process, *map(str, arguments), ROWCALL_ADDRESS=address)

    return run


async def test_an_image_is_compared_published_listed_and_rolled_back(
    command: Command, build_image: ImageBuilder
) -> None:
    first = build_image({"acme/v1/shop.proto": SHOP})
    other = build_image({"acme/v1/shop.proto": SHOP.replace("string item", "int32 item").replace('"shop"', '"till"')})
    assert "No image was published" in (await command("image", "list")).err

    compared = await command("image", "diff", first, "--name", "shop")
    assert (compared.code, compared.out.splitlines()[1].split()[:2]) == (0, ["added", "acme.v1.Shop/Buy"])
    published = await command("image", "publish", first, "--name", "shop", "--note", "opening", "--actor", "ada")
    assert published.code == 0, published.err
    assert "shop is published as revision 1; served by 1 of 1 gateways." in published.err
    again = await command("image", "publish", first, "--name", "shop")
    assert (again.code, "shop is what was published already" in again.err) == (0, True)

    breaking = await command("image", "diff", other, "--name", "shop")
    assert breaking.code == 1
    told = [line.split()[:3] for line in breaking.out.splitlines()[1:]]
    assert told == [
        ["WIRE", "acme.v1.Order.item", "FIELD_WIRE_COMPATIBLE_TYPE"],
        ["policy", "acme.v1.Shop/Buy", "queue"],
    ]
    refused = await command("image", "publish", other, "--name", "shop")
    assert (refused.code, "--allow-breaking" in refused.err) == (1, True)
    allowed = await command("image", "publish", other, "--name", "shop", "--allow-breaking", "--json")
    assert (allowed.code, allowed.json["image"]["revision"]) == (0, "2")
    rolled = await command("image", "rollback", "shop", "--allow-breaking")
    assert (rolled.code, "shop is published as revision 3" in rolled.err) == (0, True)

    listed = (await command("image", "list", "--json")).json["images"]
    assert [(each["revision"], each.get("actor"), each["note"]) for each in listed[::2]] == [
        ("3", None, "rolled back to revision 1"),
        ("1", "ada", "opening"),
    ]
    rows = (await command("image", "list", "--name", "shop")).out.splitlines()
    assert rows[1].split()[:2] == ["shop", "3"]
    assert "1 of 1 gateways" in rows[1]
    methods = await command("methods", "list")
    [buy] = [line.split() for line in methods.out.splitlines() if line.startswith("acme.v1.Shop/Buy")]
    assert buy == ["acme.v1.Shop/Buy", "shop", "none", "nobody", "none", "shop", listed[0]["digest"][:12]]


async def test_what_is_no_image_is_told(command: Command, build_image: ImageBuilder) -> None:
    missing = await command("image", "publish", "no-such.binpb")
    assert (missing.code, "no-such.binpb: cannot be read" in missing.err) == (2, True)
    image = build_image({"acme/v1/shop.proto": SHOP.replace("{queue", "{max_attempts: 1001 queue")})
    wrong = await command("image", "publish", image, "--name", "shop")
    assert (wrong.code, "max_attempts: 1001 is more than 1000" in wrong.err) == (1, True)
    name = await command("image", "diff", image, "--name", "No_Name")
    assert (name.code, "Traceback" in name.err) == (1, False)
