"""What shards are told of messages' types: of each field, how it may be written without another message being meant."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from rowcall.catalogue.images import load_catalogue
from tests.fix_images import ImageBuilder

EVERYTHING = """\
syntax = "proto3";
package acme.v1;
import "rowcall/options/v1/job.proto";
enum Open { OPEN_UNSPECIFIED = 0; }
message All {
  int32 number = 1;
  optional int32 perhaps = 2;
  string text = 3;
  repeated string texts = 4;
  repeated double doubles = 5;
  All inner = 6;
  repeated All inners = 7;
  map<uint32, All> by_number = 8;
  map<bool, fixed32> by_truth = 9;
  oneof one {
    bytes data = 12;
    All message = 11;
  }
  Open open = 13;
  repeated Open opens = 14;
}
service Shop { rpc Buy(All) returns (All) { option (rowcall.options.v1.job) = {}; } }
"""
OLD = """\
syntax = "proto2";
package acme.old.v1;
enum Closed { ZERO = 0; ONE = 1; }
message Old {
  optional int32 number = 1;
  optional Closed closed = 2;
  repeated Closed closeds = 3;
  repeated group Group = 4 { optional int32 a = 1; }
  map<sint64, Closed> by_number = 5;
  required string text = 6;
  extensions 100 to 200;
}
extend Old { optional string more = 100; }
message Set { option message_set_wire_format = true; extensions 4 to max; }
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of both files. Any: read as JSON is."""
    image = ImageBuilder(tmp_path_factory.mktemp("images"))({"acme/v1/all.proto": EVERYTHING, "acme/old.proto": OLD})
    return load_catalogue([image]).shapes()[0]


def test_fields_of_proto3(shapes: Any) -> None:
    every = "acme.v1.All"
    assert shapes[every] == {
        "1": {"kind": "implicit", "wire": 0},
        "2": {"kind": "plain", "wire": 0, "oneof": 2},
        "3": {"kind": "implicit", "wire": 2},
        "4": {"kind": "plain", "wire": 2},
        "5": {"kind": "packed", "wire": 1},
        "6": {"kind": "message", "wire": 2, "type": every},
        "7": {"kind": "messages", "wire": 2, "type": every},
        "8": {"kind": "map", "wire": 2, "type": "acme.v1.All.ByNumberEntry"},
        "9": {"kind": "map", "wire": 2, "type": "acme.v1.All.ByTruthEntry"},
        "12": {"kind": "plain", "wire": 2, "oneof": 11},
        "11": {"kind": "message", "wire": 2, "type": every, "oneof": 11},
        "13": {"kind": "implicit", "wire": 0},
        "14": {"kind": "packed", "wire": 0},
    }


def test_entries_of_maps_are_messages(shapes: Any) -> None:
    assert shapes["acme.v1.All.ByNumberEntry"] == {
        "1": {"kind": "key", "wire": 0, "bits": 32},
        "2": {"kind": "value", "wire": 2, "type": "acme.v1.All"},
    }
    assert shapes["acme.v1.All.ByTruthEntry"] == {
        "1": {"kind": "key", "wire": 0, "bits": 1},
        "2": {"kind": "implicit", "wire": 5},
    }


def test_fields_of_proto2(shapes: Any) -> None:
    """Closed enumerations keep their order, groups and extensions are not known, message sets are not read at all."""
    assert shapes["acme.old.v1.Old"] == {
        "1": {"kind": "plain", "wire": 0},
        "2": {"kind": "plain", "wire": 0},
        "3": {"kind": "plain", "wire": 0},
        "5": {"kind": "map", "wire": 2, "type": "acme.old.v1.Old.ByNumberEntry"},
        "6": {"kind": "plain", "wire": 2},
    }
    assert shapes["acme.old.v1.Old.ByNumberEntry"] == {
        "1": {"kind": "key", "wire": 0, "bits": 64},
        "2": {"kind": "plain", "wire": 0},
    }
    assert "acme.old.v1.Set" not in shapes


def test_what_every_gateway_has_is_there_without_an_image() -> None:
    (shapes,) = load_catalogue().shapes()
    assert {Struct.DESCRIPTOR.full_name, "google.rpc.ErrorInfo", "rowcall.probe.v1.EchoRequest"} <= shapes.keys()
    assert all(shape.keys() == {str(int(number)) for number in shape} for shape in shapes.values())
