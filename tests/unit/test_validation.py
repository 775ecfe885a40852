"""Requests are held to the rules of their proto: of generated messages and of an image's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest

from buf.validate import validate_pb2
from rowcall import validation
from rowcall.catalogue.images import Catalogue, load_catalogue
from rowcall.catalogue.model import JobMethod
from rowcall.errors import MORE_VIOLATIONS, RowcallError
from rowcall.probe.v1 import probe_pb2
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.validation import RulesError, Validator
from tests.fix_images import ImageBuilder

RULES = """\
syntax = "proto2";
package acme.v1;
import "buf/validate/validate.proto";
extend buf.validate.StringRules {
  optional bool shouting = 80123 [(buf.validate.predefined).cel = {
    id: "string.shouting" message: "must be upper case" expression: "!rule || this == this.upperAscii()"
  }];
}
"""
ORDER = """\
syntax = "proto3";
package acme.v1;
import "acme/v1/rules.proto";
import "buf/validate/validate.proto";
import "google/protobuf/timestamp.proto";
import "rowcall/options/v1/job.proto";
message Item {
  string id = 1 [(buf.validate.field).string.uuid = true];
  int32 count = 2 [(buf.validate.field).int32.gt = 0];
}
message Order {
  option (buf.validate.message).cel = {id: "order.range" message: "low is above high" expression: "this.low <= this.high"};
  string name = 1 [(buf.validate.field).string.min_len = 1];
  string loud = 2 [(buf.validate.field).string.(shouting) = true];
  repeated Item items = 3;
  map<string, Item> by_name = 4 [(buf.validate.field).map.keys.string.min_len = 2];
  map<int32, Item> by_number = 5;
  map<bool, Item> by_flag = 6;
  int32 low = 7;
  int32 high = 8;
  google.protobuf.Timestamp when = 9 [(buf.validate.field).required = true];
  oneof way { option (buf.validate.oneof).required = true; bool post = 10; bool pickup = 11; }
  string ratio = 12 [(buf.validate.field).cel = {id: "order.ratio" message: "no" expression: "this == '' || int(this) > 1"}];
}
service Shop { rpc Buy(Order) returns (Item) { option (rowcall.options.v1.job) = {}; } }
"""
BAD = {
    "order.range": "",
    "required": "way",
    "string.min_len": "name",
    "string.shouting": "loud",
    "string.uuid": "items[1].id",
    "int32.gt": 'by_name["a\\"b"].count',
}


@pytest.fixture
def catalogue(build_image: ImageBuilder) -> Catalogue:
    return load_catalogue([build_image({"acme/v1/order.proto": ORDER, "acme/v1/rules.proto": RULES})])


@pytest.fixture
def method(catalogue: Catalogue) -> JobMethod:
    return catalogue.methods["acme.v1.Shop/Buy"]


def order(method: JobMethod) -> Any:
    """A valid order; Any: its class exists in the test's image only."""
    message: Any = method.request_class(name="n", loud="LOUD", post=True)
    message.when.seconds = 1
    return message


def refusal(check: Callable[[], object]) -> RowcallError:
    with pytest.raises(RowcallError) as caught:
        check()
    return caught.value


def violations_of(error: RowcallError) -> BadRequest:
    (request,) = error.details
    assert isinstance(request, BadRequest)
    return request


def test_valid_request_passes(catalogue: Catalogue, method: JobMethod) -> None:
    catalogue.validator.check(order(method))


def test_all_violations_at_once(catalogue: Catalogue, method: JobMethod) -> None:
    message: Any = method.request_class(loud="low", low=2, high=1)
    message.items.add(id="123e4567-e89b-12d3-a456-426614174000", count=1)
    message.items.add(id="no", count=1)
    message.by_name['a"b'].id = "123e4567-e89b-12d3-a456-426614174000"
    message.by_name["c"].CopyFrom(message.items[0])
    message.by_number[7].CopyFrom(message.items[1])
    message.by_flag[True].CopyFrom(message.items[1])

    error = refusal(lambda: catalogue.validator.check(message))

    assert (error.reason, error.code) == (ErrorReason.ERROR_REASON_INVALID_REQUEST, grpc.StatusCode.INVALID_ARGUMENT)
    found = [(violation.field, violation.reason) for violation in violations_of(error).field_violations]
    assert sorted(found) == sorted(
        [
            ("", "order.range"),
            ("way", "required"),
            ("name", "string.min_len"),
            ("loud", "string.shouting"),
            ("items[1].id", "string.uuid"),
            ('by_name["a\\"b"].count', "int32.gt"),
            ('by_name["c"]', "string.min_len"),
            ("by_number[7].id", "string.uuid"),
            ("by_flag[true].id", "string.uuid"),
            ("when", "required"),
        ]
    )
    told = {violation.field: violation.description for violation in violations_of(error).field_violations}
    assert told["name"] == "must be at least 1 characters"
    assert told['by_name["c"]'] == "the map's key: must be at least 2 characters"
    assert "acme.v1.Order" in error.message
    assert "and 9 more" in error.message
    assert error.message.startswith("The acme.v1.Order breaks")
    assert error.message.endswith(".")


def test_message_does_not_quote_the_request(catalogue: Catalogue, method: JobMethod) -> None:
    message = order(method)
    message.by_name["secret key"].id = "secret value"
    error = refusal(lambda: catalogue.validator.check(message))
    assert "secret" not in str(error)
    assert "by_name[…].id (string.uuid)" in error.message
    assert violations_of(error).field_violations[0].field == 'by_name["secret key"].id'


def test_prefix_says_which_of_many_requests() -> None:
    error = refusal(lambda: Validator().check(probe_pb2.RunRequest(fail_attempts=-1), prefix="requests[3].request"))
    assert violations_of(error).field_violations[0].field == "requests[3].request.fail_attempts"


def test_generated_messages_are_held_to_their_rules() -> None:
    validator = Validator()
    validator.check(probe_pb2.RunRequest(fail_attempts=1))
    request = probe_pb2.RunRequest(fail_attempts=-1, response_bytes=-1, fail_code=code_pb2.Code.ValueType(99))
    error = refusal(lambda: validator.check(request))
    assert [violation.field for violation in violations_of(error).field_violations] == [
        "fail_code",
        "fail_attempts",
        "response_bytes",
    ]


def test_more_violations_than_an_error_carries(catalogue: Catalogue, method: JobMethod) -> None:
    message = order(method)
    for _ in range(500):
        message.items.add(id="no", count=1)
    error = refusal(lambda: catalogue.validator.check(message))
    found = violations_of(error).field_violations
    assert len(found) == validation.MAX_VIOLATIONS + 1
    assert found[-2].field == f"items[{validation.MAX_VIOLATIONS - 1}].id"
    assert found[-1].description == MORE_VIOLATIONS
    assert "and 499 more" in error.message


def test_long_texts_are_cut(catalogue: Catalogue, method: JobMethod) -> None:
    message = order(method)
    message.by_name["k" * 10_000].id = "no"
    error = refusal(lambda: catalogue.validator.check(message))
    assert all(len(violation.field) <= 512 for violation in violations_of(error).field_violations)
    assert len(error.message) < 1000


def test_rule_that_fails_is_not_the_callers_fault(catalogue: Catalogue, method: JobMethod) -> None:
    message = order(method)
    message.ratio = "secret"
    error = refusal(lambda: catalogue.validator.check(message))
    assert error.reason == ErrorReason.ERROR_REASON_INTERNAL
    assert error.message.startswith("The rule order.ratio of acme.v1.Order could not be evaluated")
    assert error.message.endswith(".")
    assert "secret" not in error.message
    assert error.__cause__ is not None


def pool_of(build: Callable[[DescriptorProto], None]) -> type[Message]:
    """The class of x.Outer, in a pool of its own, that has an x.Inner which is built by the test."""
    file = FileDescriptorProto(name="x.proto", package="x", syntax="proto3")
    build(file.message_type.add(name="Inner"))
    outer = file.message_type.add(name="Outer")
    field(outer, "inner", FieldDescriptorProto.TYPE_MESSAGE, type_name=".x.Inner")
    field(outer, "outer", FieldDescriptorProto.TYPE_MESSAGE, type_name=".x.Outer")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("x.Outer"))


def field(
    message: DescriptorProto, name: str, type_: FieldDescriptorProto.Type.ValueType, *, type_name: str | None = None
) -> FieldDescriptorProto:
    return message.field.add(
        name=name,
        number=len(message.field) + 1,
        type=type_,
        type_name=type_name,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )


def rule_on_field(inner: DescriptorProto) -> None:
    field(inner, "a", FieldDescriptorProto.TYPE_STRING).options.Extensions[validate_pb2.field].required = True


def rule_on_message(inner: DescriptorProto) -> None:
    field(inner, "a", FieldDescriptorProto.TYPE_STRING)
    inner.options.Extensions[validate_pb2.message].cel.add(id="r", message="no", expression="this.a != ''")


def rule_on_oneof(inner: DescriptorProto) -> None:
    field(inner, "a", FieldDescriptorProto.TYPE_STRING).oneof_index = 0
    inner.oneof_decl.add(name="o").options.Extensions[validate_pb2.oneof].required = True


@pytest.mark.parametrize("build", [rule_on_field, rule_on_message, rule_on_oneof])
def test_types_are_not_taken_for_free_of_rules(build: Callable[[DescriptorProto], None]) -> None:
    """A type is skipped if no rule is anywhere within it: a rule of each kind, two levels down."""
    message: Any = pool_of(build)()
    Validator().check(message)
    message.outer.outer.inner.SetInParent()
    assert refusal(lambda: Validator().check(message)).reason == ErrorReason.ERROR_REASON_INVALID_REQUEST


def test_two_pools_have_rules_of_their_own() -> None:
    """Two catalogues may have different rules under one name: a reloaded image."""

    def at_least(length: int) -> type[Message]:
        def build(inner: DescriptorProto) -> None:
            added = field(inner, "a", FieldDescriptorProto.TYPE_STRING)
            added.options.Extensions[validate_pb2.field].string.min_len = length

        return pool_of(build)

    validator = Validator()
    for message_class, expected in ((at_least(3), 3), (at_least(5), 5), (at_least(7), 7)):
        message: Any = message_class()
        message.inner.a = "xx"
        error = refusal(partial(validator.check, message))
        assert violations_of(error).field_violations[0].description == f"must be at least {expected} characters"
        message.inner.a = "x" * expected
        validator.check(message)


def test_rules_are_compiled_ahead() -> None:
    def broken(inner: DescriptorProto) -> None:
        inner.options.Extensions[validate_pb2.message].cel.add(id="r.broken", expression="this.(")

    with pytest.raises(RulesError, match=r"the rules of message x\.Outer: .*expression r\.broken: .*$"):
        Validator().prepare(pool_of(broken))
    Validator().prepare(pool_of(rule_on_message))


def test_threads_share_a_validator(catalogue: Catalogue, method: JobMethod) -> None:
    validator = Validator()
    outcomes: list[str] = []
    together = threading.Barrier(8)

    def run(number: int) -> None:
        together.wait()
        for _ in range(200):
            message = order(method)
            message.low = number % 2
            try:
                validator.check(message)
                outcomes.append("valid" if number % 2 == 0 else "missed")
            except RowcallError:
                outcomes.append("refused" if number % 2 else "wrong")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("valid"), outcomes.count("refused")) == (800, 800)
