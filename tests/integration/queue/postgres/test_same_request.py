"""Whether two serialisations are the same request, as a shard says it: never where they are not, and always where a client
has only written one message in another way."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcall.catalogue.images import Catalogue, load_catalogue
from tests.fix_images import ImageBuilder
from tests.fix_queue import PostgresQueue
from tests.support.rewritten import canonical, part, rewritten, varint

ORDER = """\
syntax = "proto3";
package acme.v1;
import "google/protobuf/any.proto";
import "rowcall/options/v1/job.proto";
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; }
message Item {
  int32 count = 1;
  string name = 2;
  map<string, int32> notes = 3;
  google.protobuf.Any more = 4;
  repeated sint32 sizes = 5;
}
message Order {
  string name = 1;
  Item item = 2;
  repeated Item items = 3;
  map<string, Item> by_name = 4;
  google.protobuf.Any any = 5;
  repeated google.protobuf.Any anys = 6;
  map<int32, google.protobuf.Any> any_by_number = 7;
  repeated int64 numbers = 8;
  oneof choice {
    string text = 9;
    Item chosen = 10;
    int64 number = 11;
  }
  optional int32 perhaps = 12;
  map<bool, double> switches = 13;
  map<sint64, bytes> signed = 14;
  map<fixed32, string> fixed = 15;
  Colour colour = 16;
  double weight = 17;
  repeated Colour colours = 18;
  repeated fixed64 marks = 19;
  repeated bytes blobs = 20;
}
service Shop { rpc Buy(Order) returns (Item) { option (rowcall.options.v1.job) = {}; } }
"""
BUY = "acme.v1.Shop/Buy"
UNKNOWN_URL = "type.googleapis.com/acme.v1.Unknown"


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that knows the types of a catalogue."""

    catalogue: Catalogue
    connection: psycopg.Connection[Any]
    """As a gateway's login."""
    method_id: int

    def same(self, one: bytes, other: bytes) -> bool:
        """What it says."""
        found = self.connection.execute("select rowcall.same_request(%s, %s, %s)", [self.method_id, one, other])
        row = found.fetchone()
        assert row is not None
        assert isinstance(row[0], bool)
        return row[0]

    def new(self, kind: str, /, **fields: Any) -> Any:
        """A message of package acme.v1."""
        return GetMessageClass(self.catalogue.images[1].pool.FindMessageTypeByName(f"acme.v1.{kind}"))(**fields)

    def order(self, **fields: Any) -> Any:
        """A request."""
        return self.new("Order", **fields)

    def read(self, data: bytes) -> bytes | None:
        """A request in its one serialisation, as protobuf's library reads it; None if it cannot."""
        try:
            return canonical(type(self.order()).FromString(data), self.catalogue.images[1].pool)
        except DecodeError:
            return None


@pytest.fixture
async def shard(queue: PostgresQueue, build_image: ImageBuilder) -> AsyncIterator[Shard]:
    catalogue = load_catalogue([build_image({"acme/v1/order.proto": ORDER})])
    ids = await queue.store.publish(catalogue.methods[BUY])
    for shapes in catalogue.shapes():
        await queue.store.publish_types(shapes)
    with psycopg.connect(queue.logins.gateway, autocommit=True, prepare_threshold=None) as connection:
        yield Shard(catalogue, connection, ids.method_id)


def pack(message: Message) -> AnyMessage:
    """The message in an Any of its own pool's kind."""
    return AnyMessage(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )


def fill(target: Any, packed: AnyMessage) -> None:
    """Puts an Any into a field of another pool's kind."""
    target.type_url, target.value = packed.type_url, packed.value


texts = st.text(max_size=3)
int32s = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 2)
int64s = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2)


@st.composite
def anys(draw: st.DrawFn, shard: Shard, depth: int) -> AnyMessage:
    kind = draw(
        st.sampled_from(["item", "order", "struct", "any", "unknown", "broken", "bare"] if depth else ["unknown"])
    )
    if kind == "item":
        return pack(draw(items(shard, depth - 1)))
    if kind == "order":
        return pack(draw(orders(shard, depth - 1)))
    if kind == "any":
        return pack(draw(anys(shard, depth - 1)))
    if kind == "struct":
        packed = Struct()
        packed.update(draw(st.dictionaries(texts, st.none() | st.booleans() | st.lists(texts, max_size=2), max_size=4)))
        return pack(packed)
    url = {"unknown": UNKNOWN_URL, "broken": "type.googleapis.com/acme.v1.Item", "bare": "acme.v1.Item"}[kind]
    return AnyMessage(type_url=url, value=draw(st.binary(max_size=6)))


@st.composite
def items(draw: st.DrawFn, shard: Shard, depth: int) -> Any:
    item = shard.new(
        "Item",
        count=draw(int32s),
        name=draw(texts),
        notes=draw(st.dictionaries(texts, int32s, max_size=4)),
        sizes=draw(st.lists(int32s, max_size=3)),
    )
    if depth > 0 and draw(st.booleans()):
        fill(item.more, draw(anys(shard, depth - 1)))
    return item


@st.composite
def orders(draw: st.DrawFn, shard: Shard, depth: int = 2) -> Any:
    order = shard.order(
        name=draw(texts),
        numbers=draw(st.lists(int64s, max_size=4)),
        switches=draw(st.dictionaries(st.booleans(), st.floats(allow_nan=False), max_size=2)),
        signed=draw(st.dictionaries(int64s, st.binary(max_size=2), max_size=3)),
        fixed=draw(st.dictionaries(st.integers(0, 2**32 - 1), texts, max_size=3)),
        colour=draw(st.integers(0, 2)),
        weight=draw(st.sampled_from([0.0, -0.0, 1.5])),
        colours=draw(st.lists(st.integers(0, 2), max_size=3)),
        marks=draw(st.lists(st.integers(0, 2), max_size=3)),
        blobs=draw(st.lists(st.binary(max_size=2), max_size=3)),
    )
    if draw(st.booleans()):
        order.perhaps = draw(st.integers(0, 1))
    choice = draw(st.sampled_from(["", "text", "chosen", "number"]))
    if choice == "text":
        order.text = draw(texts)
    elif choice == "number":
        order.number = draw(int64s)
    elif choice == "chosen":
        order.chosen.CopyFrom(draw(items(shard, depth - 1)))
    if depth > 0:
        if draw(st.booleans()):
            order.item.CopyFrom(draw(items(shard, depth - 1)))
        order.items.extend(draw(st.lists(items(shard, depth - 1), max_size=2)))
        for key in draw(st.lists(texts, max_size=3)):
            order.by_name[key].CopyFrom(draw(items(shard, depth - 1)))
        if draw(st.booleans()):
            fill(order.any, draw(anys(shard, depth)))
        for packed in draw(st.lists(anys(shard, depth - 1), max_size=2)):
            fill(order.anys.add(), packed)
        for number in draw(st.lists(int32s, max_size=3)):
            fill(order.any_by_number[number], draw(anys(shard, depth - 1)))
    return order


def pieces(data: bytes) -> Sequence[bytes]:
    """A message's fields as they are written, tags and all."""
    found = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        start = at
        wire = number() & 7
        if wire == 0:
            number()
        elif wire == 2:
            size = number()
            at += size
        else:
            at += 8 if wire == 1 else 4
        found.append(data[start:at])
    return found


def in_both_orders(one: bytes, other: bytes) -> tuple[bytes, bytes]:
    """Two fields, once in each order."""
    return one + other, other + one


def item(*notes: str) -> bytes:
    """An item with notes in that order."""
    return b"".join(part(3, part(1, name.encode()) + varint(2 << 3) + varint(1)) for name in notes)


def any_of(value: bytes, url: str = "type.googleapis.com/acme.v1.Item") -> bytes:
    """An Any of that value."""
    return part(1, url.encode()) + part(2, value)


def test_a_map_inside_an_any_has_no_order_wherever_the_any_is(shard: Shard) -> None:
    one, other = item("a", "b"), item("b", "a")
    places: tuple[Callable[[bytes], bytes], ...] = (
        lambda inner: part(5, any_of(inner)),
        lambda inner: part(6, any_of(b"")) + part(6, any_of(inner)),
        lambda inner: part(7, varint(1 << 3) + varint(9) + part(2, any_of(inner))),
        lambda inner: part(5, any_of(part(4, any_of(inner)))),
        lambda inner: part(5, any_of(any_of(inner), "type.googleapis.com/google.protobuf.Any")),
        lambda inner: part(4, part(1, b"k") + part(2, part(4, any_of(inner)))),
    )
    for wrapped in places:
        assert shard.same(wrapped(one), wrapped(other))
        assert not shard.same(wrapped(one), wrapped(item("a", "c")))
        assert not shard.same(wrapped(one), wrapped(item("a")))


@pytest.mark.parametrize(
    "url", [UNKNOWN_URL, "acme.v1.Item", "", "type.googleapis.com/", "type.googleapis.com/\xff"], ids=repr
)
def test_what_is_inside_an_any_is_taken_by_its_bytes_where_its_type_is_not_known(shard: Shard, url: str) -> None:
    one, other = item("a", "b"), item("b", "a")
    assert not shard.same(part(5, any_of(one, url)), part(5, any_of(other, url)))
    # What is around it still has no order.
    assert shard.same(*in_both_orders(part(5, any_of(one, url)), part(1, b"n")))


@pytest.mark.parametrize(
    "broken",
    [b"\xff", b"\x0a\x05ab", b"\x0b\x0c", b"\x00\x01", b"\x08" + b"\x80" * 10 + b"\x01", b"\x0e", b"\x0d\x01"],
    ids=["no end", "cut off", "a group", "number 0", "too long", "no wire type", "cut off number"],
)
def test_what_cannot_be_read_inside_an_any_is_taken_by_its_bytes(shard: Shard, broken: bytes) -> None:
    one, other = (part(5, any_of(each)) for each in in_both_orders(broken, item("a")))
    assert not shard.same(one, other)
    assert shard.same(*in_both_orders(one, part(1, b"n")))


def test_of_what_comes_twice_the_order_counts(shard: Shard) -> None:
    """The last one is meant: a text, a oneof's member, a map's entry under one key, however the key is written."""
    for one, other in (
        (part(1, b"a"), part(1, b"b")),
        (part(9, b"a"), part(10, b"")),
        (varint(11 << 3) + b"\x01", part(9, b"a")),
        (part(2, b"\x08\x05"), part(2, b"\x08\x00")),
        (part(4, part(1, b"k")), part(4, part(1, b"k") + part(2, b"\x08\x01"))),
        (part(7, b"\x08\x01"), part(7, b"\x08\x81\x80\x80\x80\x10" + part(2, any_of(b"")))),
        (part(13, b"\x08\x01" + b"\x11" + b"1" * 8), part(13, b"\x08\x02" + b"\x11" + b"2" * 8)),
        (part(13, b"\x11" + b"1" * 8), part(13, b"\x08\x00" + b"\x11" + b"2" * 8)),
        (part(14, b"\x08\x01" + part(2, b"a")), part(14, b"\x08\x81\x00" + part(2, b"b"))),
        (part(4, part(1, b"a") + part(1, b"k")), part(4, part(1, b"k") + part(2, b"\x08\x01"))),
        (part(8, b"\x01"), part(8, b"\x02")),
        (part(3, b""), part(3, b"\x08\x01")),
        (part(1000, b"a"), part(1001, b"b")),
    ):
        assert not shard.same(*in_both_orders(one, other))
        assert shard.same(one + part(20, b"") + other, one + other + part(20, b"")), "of others it does not"


def test_zero_is_as_good_as_absent_unless_presence_counts(shard: Shard) -> None:
    for absent in (part(1, b""), varint(16 << 3) + b"\0", b"\x89\x01" + bytes(8), part(8, b"")):
        assert shard.same(absent, b"")
    minus_zero = b"\x89\x01" + bytes(7) + b"\x80"
    for present in (varint(12 << 3) + b"\0", part(9, b""), part(2, b""), part(20, b""), minus_zero):
        assert not shard.same(present, b"")
    # Of a message in two parts, which are put together, a zero in the second one counts.
    for number in (2, 10):
        five = part(number, b"\x08\x05")
        assert not shard.same(five + part(number, b"\x08\0"), five + part(number, b""))


def test_nesting_beyond_what_is_looked_at_is_taken_by_its_bytes(shard: Shard) -> None:
    def nested(inner: bytes, times: int) -> bytes:
        for _ in range(times):
            inner = any_of(inner, "type.googleapis.com/google.protobuf.Any")
        return part(5, inner)

    innermost = [any_of(item(*names)) for names in ("ab", "ba")]
    assert shard.same(*(nested(each, 80) for each in innermost))
    assert not shard.same(*(nested(each, 3000) for each in innermost))
    assert shard.same(*in_both_orders(nested(innermost[0], 3000), part(1, b"n")))


def test_many_fields_are_taken_by_their_bytes(shard: Shard) -> None:
    few, many = (part(5, any_of(item(*(str(each) for each in range(count))))) for count in (500, 50_000))
    other_few, other_many = (
        part(5, any_of(item(*(str(each) for each in reversed(range(count)))))) for count in (500, 50_000)
    )
    assert shard.same(few, other_few)
    assert not shard.same(many, other_many)
    assert shard.same(many, many)
    flat = part(20, b"x")
    assert shard.same(*in_both_orders(flat * 5_000, part(1, b"n")))
    assert not shard.same(*in_both_orders(flat * 20_000, part(1, b"n")))


def test_a_method_of_no_known_type_is_compared_by_bytes(shard: Shard) -> None:
    unknown = Shard(shard.catalogue, shard.connection, shard.method_id + 1000)
    assert unknown.same(b"x", b"x")
    assert not unknown.same(*in_both_orders(part(1, b"n"), part(9, b"t")))


async def test_versions_of_a_type_are_kept_together_with_care(queue: PostgresQueue) -> None:
    """A field that one image does not have is kept; one that is a map in only one of them has an order."""
    plain: Mapping[str, str | int] = {"kind": "plain", "wire": 0}
    implicit: Mapping[str, str | int] = {"kind": "implicit", "wire": 0}
    entries: Mapping[str, str | int] = {"wire": 2, "type": "a.B.CEntry"}
    await queue.store.publish_types({"a.B": {"1": implicit, "2": {"kind": "messages", **entries}, "3": implicit}})
    await queue.store.publish_types({"a.B": {"1": plain, "2": {"kind": "map", **entries}, "4": {**plain, "oneof": 4}}})
    merged = {
        "1": plain, "2": {"kind": "messages", **entries}, "3": implicit, "4": {**plain, "oneof": 4}
    }  # fmt: skip
    read = "select fields, xmin::text from rowcall.message_type where name = 'a.B'"
    [(fields, written)] = await (await queue.admin.execute(read)).fetchall()
    assert fields == merged
    for again in ({"a.B": {"1": implicit, "4": {**plain, "oneof": 4}}}, {"a.B": merged}):
        await queue.store.publish_types(again)
    assert await (await queue.admin.execute(read)).fetchall() == [(merged, written)], "nothing new, nothing written"


async def test_a_sessions_settings_do_not_change_what_is_the_same(shard: Shard) -> None:
    one, other = item("a", "b"), item("b", "a")
    shard.connection.execute("set standard_conforming_strings = off")
    shard.connection.execute("set bytea_output = 'escape'")
    assert shard.same(part(5, any_of(one)), part(5, any_of(other)))
    assert not shard.same(part(5, any_of(one)), part(5, any_of(item("a", "c"))))


SETTINGS = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@SETTINGS
@given(data=st.data())
def test_a_message_written_in_another_way_is_the_same_request(shard: Shard, data: st.DataObject) -> None:
    order = data.draw(orders(shard))
    dice = data.draw(st.randoms(use_true_random=False))
    pool = shard.catalogue.images[1].pool
    one, other = rewritten(order, pool, dice), rewritten(order, pool, dice)

    assert shard.read(one) == shard.read(other), "the test's own writer"
    assert shard.same(one, other)
    assert shard.same(other, order.SerializeToString(deterministic=True))


@SETTINGS
@given(data=st.data())
def test_two_messages_are_the_same_request_only_if_they_are_equal(shard: Shard, data: st.DataObject) -> None:
    one, other = (data.draw(orders(shard, 1)).SerializeToString() for _ in range(2))
    # Of either, so that much is the same in both, and fields come twice, split, and in any order.
    both = [*pieces(one), *pieces(other)]
    left = b"".join(data.draw(st.permutations(both)) if data.draw(st.booleans()) else both)
    right = b"".join(data.draw(st.lists(st.sampled_from(both), max_size=len(both)))) if both else b""
    for first, second in itertools.combinations((one, other, left, right), 2):
        if shard.same(first, second):
            assert shard.read(first) == shard.read(second)


@SETTINGS
@given(data=st.data())
def test_bytes_that_were_changed_are_the_same_request_only_if_they_mean_the_same(
    shard: Shard, data: st.DataObject
) -> None:
    order = data.draw(orders(shard, 1))
    packed = data.draw(items(shard, 1))
    fill(order.any, pack(packed))
    one = order.SerializeToString()
    changed = bytearray(one)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(changed)))
        changed = changed[cut:] + changed[:cut]

    if shard.same(one, bytes(changed)):
        assert shard.read(one) == shard.read(bytes(changed))
