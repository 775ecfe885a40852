"""Requests of job methods: what can be decoded, how what cannot is refused, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import ListValue

from rowcall.catalogue.images import load_catalogue
from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.requests import decode, fingerprint
from rowcall.errors import RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.fix_images import ImageBuilder

ORDER = """\
syntax = "proto3";
package acme.v1;
import "rowcall/options/v1/job.proto";
message Item { int32 count = 1; }
message Order {
  string name = 1;
  Item item = 2;
  repeated Item items = 3;
  map<string, Item> by_name = 4;
  int32 low = 7;
  int32 high = 8;
}
service Shop { rpc Buy(Order) returns (Item) { option (rowcall.options.v1.job) = {}; } }
"""


@pytest.fixture
def method(build_image: ImageBuilder) -> JobMethod:
    return load_catalogue([build_image({"acme/v1/order.proto": ORDER})]).methods["acme.v1.Shop/Buy"]


def order(method: JobMethod) -> Any:
    """An order; Any: its class exists in the test's image only."""
    return method.request_class(name="n")


def refusal(check: Callable[[], object]) -> RowcallError:
    with pytest.raises(RowcallError) as caught:
        check()
    return caught.value


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_decode(method: JobMethod) -> None:
    sent = order(method)
    assert decode(method, sent.SerializeToString()) == sent
    assert decode(method, b"") == method.request_class()


def test_decode_keeps_what_it_does_not_know(method: JobMethod) -> None:
    data = b"\xc2\x3e\x01x"  # field 1000, a string
    assert decode(method, data).SerializeToString() == data


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff", b"\x1a" * 10],
    ids=["no tag", "cut off", "not UTF-8", "nonsense"],
)
def test_undecodable(method: JobMethod, data: bytes) -> None:
    error = refusal(lambda: decode(method, data))
    assert (error.reason, error.code) == (
        ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert error.metadata == {"type": "acme.v1.Order"}
    assert "acme.v1.Shop/Buy takes a acme.v1.Order" in error.message
    assert error.message.endswith(".")


def test_nesting_without_end_is_refused(method: JobMethod) -> None:
    """A message in a message in a message …: refused by the parser, not by the stack."""
    data = b""
    for _ in range(1000):
        # A list whose one value is a list.
        for tag in (b"\x32", b"\x0a"):
            data = tag + varint(len(data)) + data
    error = refusal(lambda: decode(replace(method, request_class=ListValue), data))
    assert error.reason == ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST


def test_missing_required_field_is_undecodable(method: JobMethod) -> None:
    """A proto2 request without a required field can be parsed, but never written again."""
    file = FileDescriptorProto(name="y.proto", package="y", syntax="proto2")
    file.message_type.add(name="Old").field.add(
        name="a", number=1, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_REQUIRED
    )
    pool = DescriptorPool()
    pool.Add(file)
    old = replace(method, request_class=GetMessageClass(pool.FindMessageTypeByName("y.Old")))

    error = refusal(lambda: decode(old, b""))
    assert error.reason == ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST
    assert "a required field is missing" in error.message
    assert decode(old, b"\x0a\x01x").SerializeToString() == b"\x0a\x01x"


def test_fingerprint(method: JobMethod) -> None:
    one, other = order(method), order(method)
    numbers = range(50)
    for number in numbers:
        one.by_name[f"item {number}"].count = number
    for number in reversed(numbers):
        other.by_name[f"item {number}"].count = number
    key = b"k" * 32

    assert len(fingerprint(key, one)) == 17
    assert fingerprint(key, one)[:1] == b"\x01", "the format's number"
    assert fingerprint(key, one) == fingerprint(key, other), "a map has no order"
    assert fingerprint(b"l" * 32, one) != fingerprint(key, one)
    other.by_name["item 7"].count = 8
    assert fingerprint(key, one) != fingerprint(key, other)


def test_fingerprint_of_reordered_bytes(method: JobMethod) -> None:
    low_high, high_low = b"\x38\x01\x40\x02", b"\x40\x02\x38\x01"
    key = b"k" * 32
    assert fingerprint(key, decode(method, low_high)) == fingerprint(key, decode(method, high_low))
