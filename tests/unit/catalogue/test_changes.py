"""What changes when one image takes another's place: of the wire, of policy, and what is only added."""

from __future__ import annotations

import pytest

from rowcall.catalogue.changes import Change, Kind, changes
from rowcall.catalogue.images import load_image
from tests.fix_images import ImageBuilder

SHOP = """\
syntax = "proto3";
package acme.v1;
import "google/longrunning/operations.proto";
import "rowcall/options/v1/access.proto";
import "rowcall/options/v1/job.proto";
message Order {
  string item = 1;
  int32 count = 2;
  repeated string notes = 3;
  Kind kind = 4;
  Address to = 5;
  oneof pay { string card = 6; string bill = 7; }
  fixed32 mark = 8;
}
message Address { string city = 1; Order back = 2; }
enum Kind { KIND_NONE = 0; KIND_GIFT = 1; }
message Receipt { string number = 1; }
message Other {}
service Shop {
  rpc Buy(Order) returns (Receipt) {
    option (rowcall.options.v1.job) = {max_attempts: 3};
    option (rowcall.options.v1.access) = {roles: "caller"};
  }
  rpc Give(Order) returns (Receipt) { option (rowcall.options.v1.job) = {}; }
}
"""


def told(build_image: ImageBuilder, *replacements: str) -> list[Change]:
    """What changes when texts of the source are replaced, one behind the other."""
    source = SHOP
    for before, after in zip(replacements[::2], replacements[1::2], strict=True):
        assert before in source
        source = source.replace(before, after)
    old, new = (build_image({"acme/v1/shop.proto": text}).read_bytes() for text in (SHOP, source))
    return changes(load_image(old, "old"), load_image(new, "new"))


@pytest.mark.parametrize(
    ("before", "after", "subject", "rule"),
    [
        ("string city = 1;", "", "acme.v1.Address.city", "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED"),
        ("int32 count = 2;", "string count = 2;", "acme.v1.Order.count", "FIELD_WIRE_COMPATIBLE_TYPE"),
        ("int32 count = 2;", "sint32 count = 2;", "acme.v1.Order.count", "FIELD_WIRE_COMPATIBLE_TYPE"),
        ("Address to = 5;", "Other to = 5;", "acme.v1.Order.to", "FIELD_WIRE_COMPATIBLE_TYPE"),
        ("repeated string notes", "string notes", "acme.v1.Order.notes", "FIELD_WIRE_COMPATIBLE_CARDINALITY"),
        ("string item = 1;", "string thing = 1;", "acme.v1.Order.item", "FIELD_SAME_NAME"),
        ("string bill = 7; }", "} string bill = 7;", "acme.v1.Order.bill", "FIELD_SAME_ONEOF"),
        (" KIND_GIFT = 1;", "", "acme.v1.Kind.KIND_GIFT", "ENUM_VALUE_NO_DELETE"),
        ("Give(Order)", "Give(Other)", "acme.v1.Shop/Give", "RPC_SAME_REQUEST_TYPE"),
        ("Give(Order) returns (Receipt)", "Give(Order) returns (Other)", "acme.v1.Shop/Give", "RPC_SAME_RESPONSE_TYPE"),
        (
            "Give(Order) returns (Receipt) {",
            "Give(Order) returns (google.longrunning.Operation) { option (google.longrunning.operation_info) = "  # noqa: ISC004
            '{response_type: "Receipt" metadata_type: "rowcall.v1.JobMetadata"};',
            "acme.v1.Shop/Give",
            "RPC_SAME_RESPONSE_TYPE",
        ),
        ("rpc Give(Order)", "rpc Present(Order)", "acme.v1.Shop/Give", "RPC_NO_DELETE"),
    ],
)
def test_what_breaks_the_wire(build_image: ImageBuilder, before: str, after: str, subject: str, rule: str) -> None:
    found = told(build_image, before, after)
    assert [(each.subject, each.rule) for each in found if each.breaking] == [(subject, rule)]


@pytest.mark.parametrize(
    ("before", "after", "subject", "rule"),
    [
        ("max_attempts: 3", "max_attempts: 4", "acme.v1.Shop/Buy", "max_attempts"),
        ('roles: "caller"', 'roles: "admin"', "acme.v1.Shop/Buy", "access"),
        (
            "option (rowcall.options.v1.job) = {};",
            'option (rowcall.options.v1.job) = {queue: "gifts"};',
            "acme.v1.Shop/Give",
            "queue",
        ),
    ],
)
def test_what_is_of_policy_breaks_nobody(
    build_image: ImageBuilder, before: str, after: str, subject: str, rule: str
) -> None:
    (found,) = told(build_image, before, after)
    assert (found.kind, found.subject, found.rule, found.breaking) == (Kind.POLICY, subject, rule, False)


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        ("string city = 1;", "string city = 1; string zip = 3;", ["acme.v1.Address.zip"]),
        ("KIND_GIFT = 1;", "KIND_GIFT = 1; KIND_LOAN = 2;", ["acme.v1.Kind.KIND_LOAN"]),
        (
            "service Shop {",
            "service Shop { rpc Lend(Order) returns (Receipt) { option (rowcall.options.v1.job) = {}; }",
            ["acme.v1.Shop/Lend"],
        ),
        # What is not served is nobody's affair; nor what cannot be told apart on the wire.
        ("message Other {}", "message Another { string text = 1; }", []),
        ("int32 count = 2;", "int64 count = 2;", []),
        ("fixed32 mark = 8;", "sfixed32 mark = 8;", []),
        ("string item = 1;", "bytes item = 1;", []),
        ("string city = 1;", "reserved 1;", []),
        ("string city = 1;", "optional string city = 1;", []),
    ],
)
def test_what_breaks_nobody(build_image: ImageBuilder, before: str, after: str, added: list[str]) -> None:
    found = told(build_image, before, after)
    assert [(each.kind, each.subject) for each in found] == [(Kind.ADDED, subject) for subject in added]


def test_the_wire_comes_first_then_policy_then_what_is_new(build_image: ImageBuilder) -> None:
    found = told(
        build_image, "max_attempts: 3", "max_attempts: 4", "string city = 1;", "string town = 1; string zip = 3;"
    )
    assert [each.kind for each in found] == [Kind.WIRE, Kind.POLICY, Kind.ADDED]


def test_all_of_a_first_image_is_new(build_image: ImageBuilder) -> None:
    image = load_image(build_image({"acme/v1/shop.proto": SHOP}), "shop")
    assert [(each.kind, each.subject) for each in changes(None, image)] == [
        (Kind.ADDED, "acme.v1.Shop/Buy"),
        (Kind.ADDED, "acme.v1.Shop/Give"),
    ]
    assert changes(image, image) == []
