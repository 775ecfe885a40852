"""Descriptor images: what loads, what it says then, and what is refused with which words."""

from __future__ import annotations

import gc
import gzip
import re
import resource
import subprocess
import sys
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.message import Message

from rowcall.catalogue.images import (
    Catalogue,
    ImageError,
    LoadedImage,
    load_built_in,
    load_catalogue,
    load_image,
)
from rowcall.catalogue.model import Policy
from rowcall.errors import RowcallError
from rowcall.options.v1 import access_pb2
from rowcall.probe.v1 import probe_pb2
from tests.fix_images import ImageBuilder

ACME = """\
syntax = "proto3";
package acme.v1;
import "buf/validate/validate.proto";
import "google/longrunning/operations.proto";
import "google/protobuf/struct.proto";
import "rowcall/options/v1/job.proto";
message Order {
  string request_id = 1;
  string item = 2 [(buf.validate.field).string.min_len = 1];
}
message Receipt {
  message Line { string text = 1; }
  string number = 1;
}
service Shop {
  rpc Buy(Order) returns (Receipt) {
    option (rowcall.options.v1.job) = {
      queue: "orders" priority: PRIORITY_HIGH max_attempts: 7
      backoff: {initial: {seconds: 2} maximum: {seconds: 90} multiplier: 1.5}
      timeout: {seconds: 30} retention: RETENTION_LONG on_abandon: ON_ABANDON_CANCEL_IF_NOT_STARTED
    };
  }
  rpc Deliver(Receipt) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {response_type: "Receipt.Line" metadata_type: "rowcall.v1.JobMetadata"};
    option (rowcall.options.v1.job) = {wait: {seconds: 1}};
  }
  rpc Count(Receipt) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {response_type: "google.protobuf.Struct"};
    option (rowcall.options.v1.job) = {};
  }
  rpc NoJob(Order) returns (Receipt);
}
"""

JOB = "option (rowcall.options.v1.job) = {};"
OF_ORDER = 'option (google.longrunning.operation_info) = {response_type: "Receipt" metadata_type: "Order"};'


def shop(method: str, *, messages: str = "", imports: str = "") -> dict[str, str]:
    """An image's source with one service of the given methods."""
    source = f"""\
syntax = "proto3";
package acme.v1;
import "buf/validate/validate.proto";
import "google/longrunning/operations.proto";
import "rowcall/options/v1/job.proto";
{imports}
message Order {{ string item = 1; }}
message Receipt {{ string number = 1; }}
{messages}
service Shop {{ {method} }}
"""
    return {"acme/v1/shop.proto": source}


def job(option: str) -> dict[str, str]:
    return shop(f"rpc Buy(Order) returns (Receipt) {{ option (rowcall.options.v1.job) = {{{option}}}; }}")


@pytest.mark.parametrize("compiler", ["buf", "protoc"])
def test_methods_of_an_image(build_image: ImageBuilder, compiler: Literal["buf", "protoc"]) -> None:
    catalogue = load_catalogue([build_image({"acme/v1/acme.proto": ACME}, compiler=compiler)], builtin=False)

    assert set(catalogue.methods) == {"acme.v1.Shop/Buy", "acme.v1.Shop/Deliver", "acme.v1.Shop/Count"}
    assert catalogue.service_names == ["acme.v1.Shop"]
    assert catalogue.warnings == ()
    buy = catalogue.methods["acme.v1.Shop/Buy"]
    assert buy.policy == Policy(
        queue="orders",
        priority=2,
        max_attempts=7,
        backoff_initial=timedelta(seconds=2),
        backoff_maximum=timedelta(seconds=90),
        backoff_multiplier=1.5,
        timeout=timedelta(seconds=30),
        retention=3,
        on_abandon=2,
    )
    assert (buy.request_type, buy.response_type) == ("acme.v1.Order", "acme.v1.Receipt")
    assert (buy.returns_operation, buy.has_request_id) == (False, True)
    deliver = catalogue.methods["acme.v1.Shop/Deliver"]
    assert (deliver.returns_operation, deliver.has_request_id) == (True, False)
    assert deliver.response_type == "acme.v1.Receipt.Line"
    assert deliver.policy == Policy(wait=timedelta(seconds=1))
    assert catalogue.methods["acme.v1.Shop/Count"].response_type == "google.protobuf.Struct"


def test_messages_speak_the_wire_of_generated_code() -> None:
    method = load_catalogue().methods["rowcall.probe.v1.ProbeService/Run"]
    sent = probe_pb2.RunRequest(payload=b"x", fail_attempts=2)
    sent.work.seconds = 3

    received = method.request_class.FromString(sent.SerializeToString())

    assert json_format.MessageToDict(received) == json_format.MessageToDict(sent)
    assert type(received) is not probe_pb2.RunRequest


def test_method_by_name_and_by_path() -> None:
    catalogue = load_catalogue()
    method = catalogue.method("/rowcall.probe.v1.ProbeService/Echo")
    assert method is not None
    assert method is catalogue.method("rowcall.probe.v1.ProbeService/Echo")
    assert method.path == "/rowcall.probe.v1.ProbeService/Echo"
    assert catalogue.method("rowcall.probe.v1.ProbeService/Nope") is None
    assert catalogue.method("rowcall.v1.JobService/Submit") is None


def test_nothing_is_served_without_images_and_builtins() -> None:
    assert load_catalogue(builtin=False).methods == {}


def test_image_without_imports_loads_if_we_have_them(build_image: ImageBuilder) -> None:
    catalogue = load_catalogue([build_image({"acme/v1/acme.proto": ACME}, imports=False)], builtin=False)
    assert "acme.v1.Shop/Buy" in catalogue.methods


def test_images_of_both_compilers_agree(build_image: ImageBuilder) -> None:
    sources = {"acme/v1/acme.proto": ACME}
    images: list[Path | bytes] = [
        build_image(sources),
        build_image(sources, compiler="protoc"),
        build_image(sources).read_bytes(),
    ]
    assert len(load_catalogue(images, builtin=False).methods) == 3


@pytest.mark.parametrize("builtin", [True, False])
def test_image_may_bring_our_own_services(build_image: ImageBuilder, builtin: bool) -> None:
    image = build_image({"all.proto": 'syntax = "proto3"; import "rowcall/probe/v1/probe.proto";'})
    assert set(load_catalogue([image], builtin=builtin).methods) == set(load_catalogue().methods)


def test_newer_shared_file_of_an_image_is_taken(build_image: ImageBuilder) -> None:
    """A user may compile against a newer google/rpc than this release knows, and use what is new in it."""
    files = descriptor_pb2.FileDescriptorSet.FromString(build_image(job(""), compiler="protoc").read_bytes())
    status, shop_file = (
        next(file for file in files.file if file.name == name)
        for name in ("google/rpc/status.proto", "acme/v1/shop.proto")
    )
    status.message_type.add(name="Verdict")
    shop_file.dependency.append("google/rpc/status.proto")
    shop_file.message_type[1].field.add(name="verdict", number=2, type=11, type_name=".google.rpc.Verdict", label=1)

    catalogue = load_catalogue([build_image({"acme/v2/other.proto": 'syntax = "proto3";'}), files.SerializeToString()])

    receipt = catalogue.methods["acme.v1.Shop/Buy"].response_class
    verdict = receipt.DESCRIPTOR.fields_by_name["verdict"].message_type
    assert verdict is not None
    assert verdict.full_name == "google.rpc.Verdict"


def test_a_method_that_two_images_have_is_served_once_if_it_is_the_same(build_image: ImageBuilder) -> None:
    """Whatever file it is in, and whatever else is in that."""
    one = build_image({"acme/v1/one.proto": ACME})
    two = build_image({"acme/v1/two.proto": ACME.replace("rpc NoJob", "rpc Other") + "message More {}"})

    catalogue = load_catalogue([one, two], builtin=False)

    assert len(catalogue.methods) == 3
    assert catalogue.services["acme.v1.Shop"].label == str(one)


@pytest.mark.parametrize(
    ("changed", "into", "differs"),
    [
        ("max_attempts: 7", "max_attempts: 8", "the policy"),
        ("min_len = 1", "min_len = 2", "the type acme.v1.Order"),
        (
            "string number = 1;",
            "string number = 1; Kind kind = 2; enum Kind { KIND_NONE = 0; }",
            "the type acme.v1.Receipt",
        ),
        ("(Order) returns (Receipt)", "(Receipt) returns (Receipt)", "the types of request and response"),
        (
            "rpc Buy(Order) returns (Receipt) {",
            'rpc Buy(Order) returns (Receipt) { option (rowcall.options.v1.access) = {roles: "clerk"};',
            "the access rule",
        ),
    ],
)
def test_images_that_define_a_method_differently(
    build_image: ImageBuilder, changed: str, into: str, differs: str
) -> None:
    source = ACME.replace("options/v1/job.proto", 'options/v1/job.proto";\nimport "rowcall/options/v1/access.proto')
    one = build_image({"acme/v1/acme.proto": source})
    two = build_image({"acme/v1/acme.proto": source.replace(changed, into)})
    with pytest.raises(ImageError) as caught:
        load_catalogue([one, two])
    (problem,) = [each for each in caught.value.problems if "acme.v1.Shop/Buy" in each]
    assert problem.startswith(f"{two}: method acme.v1.Shop/Buy is not the one of {one}: they differ in {differs}")
    assert "build both images from the same sources, or leave it out of one of them" in problem


MONEY = 'syntax = "proto3"; package common; message Money { int64 units = 1; %s }'
TEAM = """\
syntax = "proto3";
package {0}.v1;
import "buf/validate/validate.proto";
import "common/money.proto";
import "rowcall/options/v1/job.proto";
message PayRequest {{ common.Money amount = 1; }}
message PayResponse {{ common.Money left = 1; }}
service Till {{ rpc Pay(PayRequest) returns (PayResponse) {{ option (rowcall.options.v1.job) = {{}}; }} }}
"""


def test_each_image_keeps_its_own_version_of_a_shared_file(build_image: ImageBuilder) -> None:
    """Case 19: two teams, one common file, two versions of it."""
    old = build_image({"common/money.proto": MONEY % "", "red/v1/till.proto": TEAM.format("red")})
    new = build_image({"common/money.proto": MONEY % "string currency = 2;", "blue/v1/till.proto": TEAM.format("blue")})

    for images in ([old, new], [new, old]):
        catalogue = load_catalogue(images)

        red, blue = (catalogue.methods[f"{team}.v1.Till/Pay"].request_class for team in ("red", "blue"))
        with pytest.raises(ValueError, match="currency"):
            red(amount={"currency": "EUR"})
        assert json_format.MessageToDict(blue(amount={"currency": "EUR"})) == {"amount": {"currency": "EUR"}}
        shapes = [layer["common.Money"].keys() for layer in catalogue.shapes() if "common.Money" in layer]
        assert sorted(map(sorted, shapes)) == [["1"], ["1", "2"]]


def test_rules_are_of_the_methods_own_image(build_image: ImageBuilder) -> None:
    """The same type by name, and in one of the images with a rule."""
    rule = "[(buf.validate.field).int64.gt = 0]"
    lax = build_image({"common/money.proto": MONEY % "", "red/v1/till.proto": TEAM.format("red")})
    strict = build_image(
        {
            "common/money.proto": (MONEY % "")
            .replace("= 1;", f"= 1 {rule};")
            .replace("package common;", 'package common; import "buf/validate/validate.proto";'),
            "blue/v1/till.proto": TEAM.format("blue"),
        }
    )
    catalogue = load_catalogue([lax, strict])
    red, blue = (catalogue.methods[f"{team}.v1.Till/Pay"] for team in ("red", "blue"))

    red.validator.check(red.request_class(amount={"units": -1}))
    with pytest.raises(RowcallError, match=r"amount.units \(int64.gt\)"):
        blue.validator.check(blue.request_class(amount={"units": -1}))


def test_an_image_that_has_two_files_of_one_name(build_image: ImageBuilder) -> None:
    """As two images put behind each other are one."""
    one, two = (build_image(job(policy)).read_bytes() for policy in ("", "max_attempts: 2"))
    with pytest.raises(ImageError, match=r"^image 1: has two files acme/v1/shop.proto that are not the same; build it"):
        load_catalogue([one + two])


def test_an_image_that_defines_a_name_twice(build_image: ImageBuilder) -> None:
    one = build_image({"acme/v1/one.proto": ACME}).read_bytes()
    two = build_image({"acme/v1/two.proto": ACME}).read_bytes()
    with pytest.raises(ImageError) as caught:
        load_catalogue([one + two])
    assert (
        "acme/v1/two.proto (image 1): acme.v1.Shop is defined by acme/v1/one.proto (image 1) too"
        in caught.value.problems[2]
    )
    assert len(caught.value.problems) == 3


def test_what_is_wrong_with_each_image_is_told_at_once(build_image: ImageBuilder) -> None:
    with pytest.raises(ImageError) as caught:
        load_catalogue([b"", build_image(job("max_attempts: 1001")), b"{}"])
    assert len(caught.value.problems) == 3


def test_a_replaced_image_leaves_nothing_behind(build_image: ImageBuilder) -> None:
    """Its pool, its classes and its compiled rules: a hundred exchanges take no more than a few."""
    data = build_image({"acme/v1/acme.proto": ACME}).read_bytes()
    built_in = load_built_in()

    def exchange() -> tuple[weakref.ref[LoadedImage], weakref.ref[type[Message]]]:
        image = load_image(data, "acme")
        method = Catalogue.of([built_in, image]).methods["acme.v1.Shop/Buy"]
        method.validator.check(method.request_class(item="tea"))
        return weakref.ref(image), weakref.ref(method.request_class)

    for _ in range(5):
        exchange()
    gc.collect()
    before = resident_bytes()
    # What the other tests of this process have left there is not looked through a hundred times.
    gc.freeze()
    try:
        for _ in range(100):
            image, request = exchange()
            gc.collect()
            assert (image(), request()) == (None, None)
    finally:
        gc.unfreeze()
    assert resident_bytes() - before < 10_000_000


def resident_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_missing_import(build_image: ImageBuilder) -> None:
    sources = {
        "acme/v1/shop.proto": 'syntax = "proto3"; package acme.v1; import "acme/v1/order.proto"; message Cart { Order order = 1; }',
        "acme/v1/order.proto": 'syntax = "proto3"; package acme.v1; message Order {}',
    }
    image = build_image({**sources}, compiler="protoc")
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    kept = descriptor_pb2.FileDescriptorSet(file=[file for file in files.file if "order" not in file.name])
    with pytest.raises(ImageError) as caught:
        load_catalogue([kept.SerializeToString()])
    message = str(caught.value)
    assert message.startswith("acme/v1/shop.proto (image 1): imports acme/v1/order.proto, which no image has")
    assert "--include_imports" in message


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"{}", "is JSON"),
        (gzip.compress(b"anything", mtime=0), "is compressed"),
        (b'syntax = "proto3";', "probably proto source"),
        (b"\x00\x01\x02", "something else"),
        (
            descriptor_pb2.FileDescriptorSet(file=[descriptor_pb2.FileDescriptorProto()]).SerializeToString(),
            "something else",
        ),
    ],
)
def test_not_an_image(data: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=f"^image 1: .*{what}.*not a descriptor image; build it with"):
        load_catalogue([data])


def test_unreadable_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.binpb: cannot be read \(No such file or directory\)"):
        load_catalogue([tmp_path / "nowhere.binpb"])


def test_broken_file() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="a.proto", syntax="proto3")
    file.message_type.add(name="A").field.add(name="b", number=1, type=11, type_name=".no.Such", label=1)
    with pytest.raises(ImageError, match=r"^a\.proto \(image 1\): .*no\.Such"):
        load_catalogue([descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()])


def test_files_that_import_each_other() -> None:
    files = descriptor_pb2.FileDescriptorSet(
        file=[
            descriptor_pb2.FileDescriptorProto(name="a.proto", dependency=["b.proto"]),
            descriptor_pb2.FileDescriptorProto(name="b.proto", dependency=["a.proto"]),
        ]
    )
    with pytest.raises(ImageError, match=r"a\.proto imports b\.proto|b\.proto imports a\.proto"):
        load_catalogue([files.SerializeToString()])


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ('queue: "Orders"', r"queue: 'Orders' is no queue's name"),
        ('queue: "-orders"', "queue: '-orders' is no queue's name"),
        (f'queue: "{"q" * 64}"', "queue: 'q+' is .* 63 characters at most"),
        ("max_attempts: 1001", "max_attempts: 1001 is more than 1000; set 1 to 1000"),
        ("timeout: {}", "timeout: 0 s is out of bounds; set more than 0 s"),
        ("timeout: {seconds: -1}", "timeout: -1 s is out of bounds"),
        ("timeout: {seconds: 31536001}", "timeout: .* at most"),
        ("timeout: {seconds: 1 nanos: -1}", "timeout: 1 s and -1 ns is no valid duration"),
        ("wait: {seconds: 51}", "wait: 51 s is out of bounds; set more than 0 s and at most 50 s"),
        ("backoff: {initial: {}}", "backoff.initial: 0 s is out of bounds"),
        ("backoff: {maximum: {seconds: -5}}", "backoff.maximum: -5 s is out of bounds"),
        (
            "backoff: {initial: {seconds: 301}}",
            r"backoff: initial \(301 s\) is longer than maximum \(300 s\); set both",
        ),
        ("backoff: {multiplier: 0.5}", r"backoff.multiplier: 0.5 .*set 1 to 1000"),
        ("backoff: {multiplier: -1}", "backoff.multiplier: -1"),
        ("backoff: {multiplier: nan}", "backoff.multiplier: nan"),
        ("backoff: {multiplier: inf}", "backoff.multiplier: inf"),
    ],
)
def test_policy_out_of_bounds(build_image: ImageBuilder, option: str, problem: str) -> None:
    place = (
        r"^acme/v1/shop\.proto \(.*image\.binpb\): method acme\.v1\.Shop/Buy: option \(rowcall\.options\.v1\.job\)\."
    )
    with pytest.raises(ImageError, match=place + problem):
        load_catalogue([build_image(job(option))])


def test_enum_value_of_a_newer_release(build_image: ImageBuilder) -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(build_image(job("retention: RETENTION_LONG")).read_bytes())
    # The field retention (7) with the value 3 inside the option: a value that this release has no name for.
    data = files.SerializeToString().replace(b"\x02\x38\x03", b"\x02\x38\x09")
    with pytest.raises(
        ImageError, match=r"retention: 9 is no value .* RETENTION_SHORT, RETENTION_STANDARD, RETENTION_LONG"
    ):
        load_catalogue([data])


def test_policy_at_its_bounds(build_image: ImageBuilder) -> None:
    option = (
        f'queue: "{"0" + "q" * 62}" max_attempts: 1000 wait: {{seconds: 50}} timeout: {{nanos: 1000}} '
        "backoff: {initial: {seconds: 300} multiplier: 1}"
    )
    policy = load_catalogue([build_image(job(option))]).methods["acme.v1.Shop/Buy"].policy
    assert policy.queue == "0" + "q" * 62
    assert policy.max_attempts == 1000
    assert policy.wait == timedelta(seconds=50)
    assert policy.timeout == timedelta(microseconds=1)
    assert policy.backoff_multiplier == 1.0


def test_all_problems_at_once(build_image: ImageBuilder) -> None:
    source = shop(
        'rpc A(Order) returns (Receipt) { option (rowcall.options.v1.job) = {queue: "A" max_attempts: 2000}; }'
        "rpc B(stream Order) returns (Receipt) { option (rowcall.options.v1.job) = {}; }"
    )
    with pytest.raises(ImageError) as caught:
        load_catalogue([build_image(source)])
    assert len(caught.value.problems) == 3
    assert str(caught.value) == "\n".join(caught.value.problems)


@pytest.mark.parametrize("signature", ["(stream Order) returns (Receipt)", "(Order) returns (stream Receipt)"])
def test_streams_are_no_jobs(build_image: ImageBuilder, signature: str) -> None:
    source = shop(f"rpc Buy{signature} {{ option (rowcall.options.v1.job) = {{}}; }}")
    with pytest.raises(ImageError, match=r"method acme\.v1\.Shop/Buy: streams, which a job cannot"):
        load_catalogue([build_image(source)])


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ("", r"returns google\.longrunning\.Operation and does not say of what; set .*operation_info\)\.response_type"),
        (
            'option (google.longrunning.operation_info) = {metadata_type: "rowcall.v1.JobMetadata"};',
            "does not say of what",
        ),
        (
            'option (google.longrunning.operation_info) = {response_type: "Nope"};',
            r"response_type: the images have no message 'Nope', neither in package 'acme\.v1' nor by its full name",
        ),
        (
            'option (google.longrunning.operation_info) = {response_type: "google.longrunning.Operation"};',
            "an operation cannot answer with another",
        ),
    ],
)
def test_operation_of_an_unknown_type(build_image: ImageBuilder, info: str, problem: str) -> None:
    source = shop(
        f"rpc Buy(Order) returns (google.longrunning.Operation) {{ {info} option (rowcall.options.v1.job) = {{}}; }}"
    )
    with pytest.raises(ImageError, match=r"method acme\.v1\.Shop/Buy: .*" + problem):
        load_catalogue([build_image(source)])


def test_rules_that_do_not_compile(build_image: ImageBuilder) -> None:
    """Also those of a type far within the request, which a call would only meet when it has one."""
    source = shop(
        "rpc Buy(Cart) returns (Receipt) { option (rowcall.options.v1.job) = {}; }",
        messages="""
        message Cart { repeated Line lines = 1; }
        message Line { string text = 1 [(buf.validate.field).cel = {id: "line.text" expression: "this.size( > 1"}]; }
        """,
    )
    with pytest.raises(
        ImageError, match=r"method acme\.v1\.Shop/Buy: the rules of message acme\.v1\.Line: .*line\.text"
    ):
        load_catalogue([build_image(source)])


@pytest.mark.parametrize("package", ["rowcall.v1", "google.longrunning", "grpc.health.v1"])
def test_packages_of_the_gateway_itself(build_image: ImageBuilder, package: str) -> None:
    source = f"""
        syntax = "proto3";
        package {package};
        import "rowcall/options/v1/job.proto";
        message Ask {{}}
        service Intruder {{ rpc Do(Ask) returns (Ask) {{ option (rowcall.options.v1.job) = {{}}; }} }}
    """
    with pytest.raises(ImageError, match="the package is the gateway's own"):
        load_catalogue([build_image({"intruder.proto": source})])


@pytest.mark.parametrize(
    ("method", "warning"),
    [
        ("rpc Buy(Order) returns (Receipt);", r"service acme\.v1\.Shop: no method has option"),
        (
            f"rpc Buy(Order) returns (Receipt) {{ option idempotency_level = NO_SIDE_EFFECTS; {JOB} }}",
            r"method acme\.v1\.Shop/Buy: idempotency_level = NO_SIDE_EFFECTS",
        ),
        (
            "rpc Buy(Order) returns (Receipt) { option (rowcall.options.v1.job) = {wait: {seconds: 1}}; }",
            r"\.wait: only a method that returns google\.longrunning\.Operation has one",
        ),
        (
            f"rpc Buy(Order) returns (google.longrunning.Operation) {{ {JOB} {OF_ORDER} }}",
            r"metadata_type: operations carry rowcall\.v1\.JobMetadata, not Order",
        ),
    ],
)
def test_warnings(build_image: ImageBuilder, method: str, warning: str) -> None:
    (said,) = load_catalogue([build_image(shop(method))]).warnings
    assert said.startswith("acme/v1/shop.proto (")
    assert re.search(warning, said)


LIMITS = 'limits: {name: "printer" key: LIMIT_KEY_TENANT concurrency: 2 rate: {count: 10 period: {seconds: 1}}}'
NO_LIMITS = (
    "option (rowcall.options.v1.job).limits: this release enforces none; leave them out until the release that does"
)
ACCESS = 'import "rowcall/options/v1/access.proto";'
PRINTABLE = "use printable ASCII without blanks and commas, 255 characters at most"
CALLERS = 'option (rowcall.options.v1.access) = {roles: "caller"};'


def problems_of(image: Path | bytes) -> list[str]:
    """What an image is refused with, without the place of its file."""
    with pytest.raises(ImageError) as caught:
        load_catalogue([image])
    found = []
    for problem in caught.value.problems:
        place, _, what = problem.partition(": ")
        assert re.fullmatch(r"acme/v1/shop\.proto \(.+\)", place)
        found.append(what)
    return found


def test_limits_that_nothing_enforces_are_refused(build_image: ImageBuilder) -> None:
    assert problems_of(build_image(job(LIMITS))) == [f"method acme.v1.Shop/Buy: {NO_LIMITS}"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            'public: true roles: "caller"',
            "is public and has roles or scopes; whoever calls has either: leave one of them out",
        ),
        ('roles: "Operator"', "has the role 'Operator', which is none of Rowcall's: write 'operator'"),
        (
            'roles: "shop clerk"',
            "has the role 'shop clerk', which no credential can give: " + PRINTABLE,
        ),
        (
            'scopes: ""',
            "has the scope '', which no credential can give: " + PRINTABLE,
        ),
    ],
)
def test_access_rules_that_cannot_be_meant_are_refused(build_image: ImageBuilder, rule: str, said: str) -> None:
    """Also those of methods that are not served."""
    source = shop(
        f"option (rowcall.options.v1.service_access) = {{{rule}}};"
        f"rpc Buy(Order) returns (Receipt) {{ {JOB} option (rowcall.options.v1.access) = {{{rule}}}; }}"
        f"rpc Look(Order) returns (Receipt) {{ option (rowcall.options.v1.access) = {{{rule}}}; }}",
        imports=ACCESS,
    )

    assert problems_of(build_image(source)) == [
        f"service acme.v1.Shop: option (rowcall.options.v1.service_access) {said}",
        f"method acme.v1.Shop/Buy: option (rowcall.options.v1.access) {said}",
        f"method acme.v1.Shop/Look: option (rowcall.options.v1.access) {said}",
    ]


def test_a_field_of_a_rule_that_only_a_newer_release_knows_is_refused(build_image: ImageBuilder) -> None:
    """It may narrow who may call."""
    image = build_image(shop(f"rpc Buy(Order) returns (Receipt) {{ {JOB} {CALLERS} }}", imports=ACCESS))
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    [own] = [file for file in files.file if file.name == "acme/v1/shop.proto"]
    # Extension 51719, length-delimited: the varint field 100.
    own.service[0].method[0].options.MergeFromString(b"\xba\xa0\x19\x03\xa0\x06\x01")

    assert problems_of(files.SerializeToString()) == [
        f"method acme.v1.Shop/Buy: option (rowcall.options.v1.access), field 100: {NOT_KNOWN}"
    ]


def test_all_that_nothing_enforces_is_told_at_once(build_image: ImageBuilder) -> None:
    method = f"rpc Buy(Order) returns (Receipt) {{ option (rowcall.options.v1.job) = {{{LIMITS}}}; {CALLERS} }}"

    assert problems_of(build_image(shop(method, imports=ACCESS))) == [f"method acme.v1.Shop/Buy: {NO_LIMITS}"]


def test_an_image_may_bring_the_options_and_set_none(build_image: ImageBuilder) -> None:
    image = build_image(shop(f"rpc Buy(Order) returns (Receipt) {{ {JOB} }}", imports=ACCESS))
    assert "acme.v1.Shop/Buy" in load_catalogue([image]).methods


def test_rules_of_services_that_are_ours_are_not_an_images_to_refuse(build_image: ImageBuilder) -> None:
    """An image that was compiled with a newer release of ours brings that release's rules of its own services along."""
    files = descriptor_pb2.FileDescriptorSet.FromString(
        build_image({"acme/v1/shop.proto": 'syntax = "proto3"; import "rowcall/v1/queue_service.proto";'}).read_bytes()
    )
    [queues] = [file for file in files.file if file.name == "rowcall/v1/queue_service.proto"]
    queues.dependency.append("rowcall/options/v1/access.proto")
    queues.message_type.add(name="OfANewerRelease")
    queues.service[0].options.Extensions[access_pb2.service_access].roles.append("operator")

    assert load_catalogue([files.SerializeToString()]).warnings == ()


# What a newer release has: a field within the option and one within a message of it, an option of a service, of a method
# and of a field.
NEWER = """\
syntax = "proto3";
package rowcall.options.v1;
import "google/protobuf/descriptor.proto";
extend google.protobuf.ServiceOptions { Budget service_budget = 51721; }
extend google.protobuf.MethodOptions { Budget budget = 51721; }
extend google.protobuf.FieldOptions { bool secret = 51722; }
message Budget { double amount = 1; }
"""
USED = f"""\
syntax = "proto3";
package acme.v1;
import "rowcall/options/v1/budget.proto";
import "rowcall/options/v1/job.proto";
message Order {{ string item = 1; string card = 2 [(rowcall.options.v1.secret) = true]; }}
message Receipt {{ string number = 1; }}
service Shop {{
  option (rowcall.options.v1.service_budget) = {{amount: 10}};
  rpc Buy(Order) returns (Receipt) {{ option (rowcall.options.v1.budget) = {{amount: 1}}; {JOB} }}
  rpc Look(Order) returns (Receipt) {{ {JOB} }}
}}
"""
NOT_KNOWN = "this release does not know it; run a release that does, or leave it out"


def test_options_of_a_newer_release_are_refused_by_name(build_image: ImageBuilder) -> None:
    image = build_image({"rowcall/options/v1/budget.proto": NEWER, "acme/v1/shop.proto": USED})

    assert sorted(problems_of(image)) == [
        f"field acme.v1.Order.card: option (rowcall.options.v1.secret): {NOT_KNOWN}",
        f"method acme.v1.Shop/Buy: option (rowcall.options.v1.budget): {NOT_KNOWN}",
        f"service acme.v1.Shop: option (rowcall.options.v1.service_budget): {NOT_KNOWN}",
    ]


def test_options_of_others_are_none_of_ours(build_image: ImageBuilder) -> None:
    sources = {
        "acme/options/v1/budget.proto": NEWER.replace("package rowcall.", "package acme."),
        "acme/v1/shop.proto": USED.replace("rowcall/options/v1/budget", "acme/options/v1/budget")
        .replace("rowcall.options.v1.secret", "acme.options.v1.secret")
        .replace("rowcall.options.v1.service_budget", "acme.options.v1.service_budget")
        .replace("rowcall.options.v1.budget", "acme.options.v1.budget"),
    }
    assert "acme.v1.Shop/Buy" in load_catalogue([build_image(sources)]).methods


@pytest.mark.parametrize("described", [True, False])
def test_option_fields_of_a_newer_release_are_refused(build_image: ImageBuilder, described: bool) -> None:
    """By name where the image brings the newer file, else by number."""
    image = build_image(job("backoff: {multiplier: 3}"))
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    [options] = [file for file in files.file if file.name == "rowcall/options/v1/job.proto"]
    [own] = [file for file in files.file if file.name == "acme/v1/shop.proto"]
    if described:
        fields = {message.name: message.field for message in options.message_type}
        fields["JobOptions"].add(name="colour", number=100, type=5, label=1, json_name="colour")
        fields["Backoff"].add(name="jitter", number=100, type=5, label=1, json_name="jitter")
    set_in = own.service[0].method[0].options
    # Extension 51718, length-delimited: the varint field 100, and in field 4 (backoff) the varint field 100.
    set_in.MergeFromString(b"\xb2\xa0\x19\x08\xa0\x06\x01\x22\x03\xa0\x06\x01")

    names = ("{0}.colour", "{0}.backoff.jitter") if described else ("{0}, field 100", "{0}.backoff, field 100")
    assert problems_of(files.SerializeToString()) == [
        f"method acme.v1.Shop/Buy: {name.format('option (rowcall.options.v1.job)')}: {NOT_KNOWN}" for name in names
    ]


def test_nothing_of_a_job_package_is_imported(build_image: ImageBuilder) -> None:
    """The catalogue alone, in a process that has no generated code of the image, not even protovalidate's rules."""
    image = build_image({"acme/v1/acme.proto": ACME})
    program = f"""
import sys
from pathlib import Path
from rowcall.catalogue.images import load_catalogue
from rowcall.errors import RowcallError
catalogue = load_catalogue([Path({str(image)!r})])
method = catalogue.methods["acme.v1.Shop/Buy"]
catalogue.validator.check(method.request_class(item="book"))
try:
    catalogue.validator.check(method.request_class())
except RowcallError as error:
    print(error.details[0].field_violations[0].field)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "item\n"
