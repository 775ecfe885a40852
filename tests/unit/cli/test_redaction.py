"""Secret fields (`[debug_redact = true]`) as commands show them: masked, wherever in a payload they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rowcall_cli.redaction import MASK, has_secrets, to_json
from tests.fix_images import ImageBuilder

PROTO = """\
syntax = "proto3";
package acme.v1;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
message Card {
  string holder = 1;
  string card_number = 2 [debug_redact = true];
  repeated int32 codes = 3 [debug_redact = true];
  Card spare = 4 [debug_redact = true];
  Card next = 5;
}
message Order {
  string item = 1;
  Card card = 2;
  repeated Card cards = 3;
  map<string, Card> by_name = 4;
  map<bool, Card> by_use = 5;
  google.protobuf.Any anything = 6;
  oneof way { Card pay = 7; string cash = 8 [debug_redact = true]; }
  google.protobuf.Struct notes = 9;
  map<string, string> secrets = 10 [debug_redact = true];
  google.protobuf.Duration within = 11;
}
message Plain { string item = 1; Plain inner = 2; }
"""


@pytest.fixture
def pool(build_image: ImageBuilder) -> DescriptorPool:
    found = DescriptorPool()
    for file in FileDescriptorSet.FromString(build_image({"acme/v1/order.proto": PROTO}).read_bytes()).file:
        found.Add(file)
    return found


def made(pool: DescriptorPool, name: str, **fields: Any) -> Any:
    return GetMessageClass(pool.FindMessageTypeByName(f"acme.v1.{name}"))(**fields)


def shown(message: Message, pool: DescriptorPool, **options: bool) -> str:
    return json.dumps(to_json(message, pool, **options))


def as_any(packed: AnyMessage) -> dict[str, Any]:
    """Of the pool's own class of Any, another one is none."""
    return {"type_url": packed.type_url, "value": packed.value}


def card(pool: DescriptorPool, **more: Any) -> Any:
    return made(pool, "Card", holder="Ada", card_number="4711", codes=[4711, 4712], **more)


def test_a_secret_field_is_masked_whatever_its_type(pool: DescriptorPool) -> None:
    message = card(pool, spare=card(pool), next=card(pool))
    masked = {"holder": "Ada", "cardNumber": MASK, "codes": MASK}
    assert to_json(message, pool) == {**masked, "spare": MASK, "next": masked}
    assert "card_number" in shown(message, pool, proto_names=True)
    assert "4711" not in shown(message, pool, proto_names=True)
    # What is not set is not there.
    assert to_json(made(pool, "Card", holder="Ada"), pool) == {"holder": "Ada"}


def test_it_is_masked_at_any_depth(pool: DescriptorPool) -> None:
    packed = AnyMessage()
    packed.Pack(card(pool))
    order = made(
        pool,
        "Order",
        item="pen",
        card=card(pool),
        cards=[card(pool), made(pool, "Card", holder="Bob")],
        by_name={"a": card(pool)},
        by_use={True: card(pool)},
        anything=as_any(packed),
        pay=card(pool),
        secrets={"pin": "4711"},
    )
    order.notes["said"] = "hello"
    order.within.seconds = 3

    found = to_json(order, pool)

    assert "471" not in json.dumps(found)
    masked = {"holder": "Ada", "cardNumber": MASK, "codes": MASK}
    assert found == {
        "item": "pen",
        "card": masked,
        "cards": [masked, {"holder": "Bob"}],
        "byName": {"a": masked},
        "byUse": {"true": masked},
        "anything": {"@type": "type.googleapis.com/acme.v1.Card", **masked},
        "pay": masked,
        "notes": {"said": "hello"},
        "secrets": MASK,
        "within": "3s",
    }
    assert to_json(made(pool, "Order", cash="4711"), pool) == {"cash": MASK}


def test_an_any_within_an_any_is_masked_too(pool: DescriptorPool) -> None:
    inner, outer = AnyMessage(), AnyMessage()
    inner.Pack(card(pool))
    outer.Pack(made(pool, "Order", anything=as_any(inner)))
    assert "4711" not in shown(outer, pool)
    assert shown(outer, pool).count(MASK) == 2
    # Also right within it.
    outer.Pack(inner)
    assert "4711" not in shown(outer, pool)
    assert shown(outer, pool).count(MASK) == 2


def test_which_types_have_secrets(pool: DescriptorPool) -> None:
    assert {
        name: has_secrets(pool.FindMessageTypeByName(f"acme.v1.{name}")) for name in ("Card", "Order", "Plain")
    } == {
        "Card": True,
        "Order": True,
        "Plain": False,
    }
