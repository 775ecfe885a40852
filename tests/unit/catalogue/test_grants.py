"""Who may call what: the table made of images, settings and our own protos, and what an image may not grant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from rowcall.catalogue.access import Source
from rowcall.catalogue.grants import AccessTable, access_table, built_in_rules
from rowcall.catalogue.images import load_catalogue
from rowcall.catalogue.served import ServedSettings
from rowcall.options.v1 import access_pb2
from rowcall.probe.v1 import probe_pb2
from rowcall.security.access import CLOSED, AccessRule
from rowcall.v1 import job_service_pb2
from tests.fix_images import ImageBuilder

SHOP = "acme.v1.Shop"
RETRY = "rowcall.v1.JobService/RetryJob"
JOB = "option (rowcall.options.v1.job) = {};"


def own(rule: str) -> str:
    return f"option (rowcall.options.v1.access) = {{{rule}}};"


def shop(methods: Mapping[str, str], service: str = "") -> dict[str, str]:
    """An image's source: a service with job methods, each with further options."""
    rpcs = "".join(f"rpc {name}(Order) returns (Receipt) {{ {JOB} {more} }}" for name, more in methods.items())
    return {
        "acme/v1/shop.proto": f"""\
syntax = "proto3";
package acme.v1;
import "rowcall/options/v1/access.proto";
import "rowcall/options/v1/job.proto";
message Order {{ string item = 1; }}
message Receipt {{ string number = 1; }}
service Shop {{ {service and f"option (rowcall.options.v1.service_access) = {{{service}}};"} {rpcs} }}
"""
    }


def table_of(*images: Path | bytes, **settings: Any) -> AccessTable:
    return access_table(load_catalogue(images), ServedSettings(**settings))


def rule_and_source(table: AccessTable, method: str) -> tuple[str, str]:
    found = table.methods[method]
    return str(found.rule), found.source.value


def test_a_methods_own_rule_stands_in_place_of_its_services(build_image: ImageBuilder) -> None:
    image = build_image(
        shop({"Buy": own('roles: "caller" scopes: "shop.buy"'), "Look": "", "Shut": own("")}, 'roles: "clerk"')
    )
    table = table_of(image)

    assert rule_and_source(table, f"{SHOP}/Buy") == ("roles:caller scopes:shop.buy", "own")
    assert rule_and_source(table, f"{SHOP}/Look") == ("roles:clerk", "service")
    assert rule_and_source(table, f"{SHOP}/Shut") == ("nobody", "own")
    assert (table.violations, table.lacking) == ((), ())
    assert table.of(f"{SHOP}/Nope") is None


def test_methods_without_a_rule_are_told_with_the_two_lines_to_add(build_image: ImageBuilder) -> None:
    image = build_image(shop({"Buy": "", "Look": own('roles: "caller"'), "Ask": ""}))
    table = table_of(image)

    assert rule_and_source(table, f"{SHOP}/Buy") == ("nobody", "none")
    assert table.of(f"{SHOP}/Buy") == CLOSED
    assert table.lacking == (
        f"acme/v1/shop.proto ({image}): method {SHOP}/Ask: has no access rule, so nobody may call it",
        f"acme/v1/shop.proto ({image}): method {SHOP}/Buy: has no access rule, so nobody may call it",
        "A method's rule is two lines, one in its file and one in the method (or, as service_access, in its service):",
        '    import "rowcall/options/v1/access.proto";',
        '    option (rowcall.options.v1.access) = {roles: "caller"};',
        "For images whose authors know nothing of it, set ROWCALL_ACCESS_DEFAULT=roles:caller (--access-default).",
    )
    assert list(table.ruleless) == [f"{SHOP}/Ask", f"{SHOP}/Buy"]


def test_the_default_is_for_methods_that_say_nothing(build_image: ImageBuilder) -> None:
    image = build_image(shop({"Buy": "", "Shut": own("")}))
    table = table_of(image, access_default="roles:caller")

    assert rule_and_source(table, f"{SHOP}/Buy") == ("roles:caller", "default")
    assert rule_and_source(table, f"{SHOP}/Shut") == ("nobody", "own")
    assert table.lacking == ()


def test_every_method_of_ours_has_a_rule_that_lets_somebody_call() -> None:
    rules = built_in_rules()
    assert [name for name, rule in rules.items() if rule.closed] == []
    table = table_of()
    assert {name for name, each in table.methods.items() if each.source is not Source.BUILT_IN} == set()
    # What needs no credential is health, and nothing else.
    assert [name for name, each in table.methods.items() if each.rule.public] == ["grpc.health.v1.Health/*"]
    assert table.of("grpc.health.v1.Health/Check") == AccessRule(public=True)


def changed(file: str, service: Any, method: str) -> bytes:
    """An image with a copy of a file of ours that declares more, and lets everybody call."""
    proto = descriptor_pb2.FileDescriptorProto()
    service.file.CopyToProto(proto)
    assert proto.name == file
    proto.message_type.add(name="OfANewerRelease")
    [found] = [each for each in proto.service if each.name == service.name]
    found.options.Extensions[access_pb2.service_access].public = True
    [changing] = [each for each in found.method if each.name == method]
    changing.options.Extensions[access_pb2.access].CopyFrom(access_pb2.AccessRule(public=True))
    image = descriptor_pb2.FileDescriptorSet(file=[proto])
    return image.SerializeToString()


def test_an_image_that_makes_our_methods_public_changes_nothing() -> None:
    service = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
    image = changed("rowcall/v1/job_service.proto", service, "RetryJob")
    loaded = load_catalogue([image])
    # It is the image's copy that is in its pool: it declares more.
    assert (
        "OfANewerRelease" in loaded.images[1].pool.FindFileByName("rowcall/v1/job_service.proto").message_types_by_name
    )

    assert table_of(image).methods == table_of().methods
    assert rule_and_source(table_of(image), RETRY) == ("roles:admin,operator", "built-in")


def test_an_image_that_makes_the_probe_public_changes_nothing() -> None:
    service = probe_pb2.DESCRIPTOR.services_by_name["ProbeService"]
    image = changed("rowcall/probe/v1/probe.proto", service, "Echo")

    assert rule_and_source(table_of(image), "rowcall.probe.v1.ProbeService/Echo") == ("roles:caller", "built-in")


def test_a_method_that_an_image_adds_to_a_service_of_ours_has_no_rule() -> None:
    """Neither its own, which is the image's word for a file of ours, nor the service's."""
    proto = descriptor_pb2.FileDescriptorProto()
    probe_pb2.DESCRIPTOR.CopyToProto(proto)
    added = proto.service[0].method.add()
    added.CopyFrom(proto.service[0].method[0])
    added.name = "Added"
    added.options.Extensions[access_pb2.access].public = True
    table = table_of(descriptor_pb2.FileDescriptorSet(file=[proto]).SerializeToString())

    assert rule_and_source(table, "rowcall.probe.v1.ProbeService/Added") == ("nobody", "none")


@pytest.mark.parametrize(
    ("rule", "settings", "said"),
    [
        (
            'roles: "viewer"',
            {},
            "names the role 'viewer'; images may name caller, operator, admin, \\*: .*ROWCALL_IMAGE_ROLES",
        ),
        ('roles: "payload-viewer"', {}, "names the role 'payload-viewer'"),
        (
            'roles: "operator"',
            {"image_roles": ("caller", "*")},
            "names the role 'operator'; images may name caller, \\*:",
        ),
        ('roles: "clerk"', {"image_roles": ("caller",)}, "names the role 'clerk'; images may name caller:"),
        ('scopes: "shop.buy"', {"image_scopes": ("stock.*",)}, "names the scope 'shop.buy'; .*ROWCALL_IMAGE_SCOPES"),
        ('scopes: "shop.buy"', {"image_scopes": ()}, "images may name none:"),
        ("public: true", {}, "is public, .*ROWCALL_PUBLIC_TENANT"),
    ],
)
@pytest.mark.parametrize("by_service", [False, True])
def test_what_an_image_may_not_grant_is_told_with_method_and_setting(
    build_image: ImageBuilder, rule: str, settings: dict[str, Any], said: str, by_service: bool
) -> None:
    image = build_image(shop({"Buy": ""}, rule) if by_service else shop({"Buy": own(rule)}))
    option = "service_access" if by_service else "access"
    [violation] = table_of(image, **settings).violations

    start = f"acme/v1/shop.proto ({image}): method {SHOP}/Buy: option (rowcall.options.v1.{option}) "
    assert violation.startswith(start)
    assert re.search(said, violation)


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ('roles: ["caller", "operator", "admin", "clerk"] scopes: "any"', {}),
        ('roles: "viewer"', {"image_roles": ("viewer",)}),
        ('scopes: ["shop.buy", "stock"]', {"image_scopes": ("shop.*", "stock")}),
        ("public: true", {"public_tenant": "public"}),
        ("", {"image_roles": (), "image_scopes": ()}),
    ],
)
def test_what_is_within_the_bounds_is_granted(build_image: ImageBuilder, rule: str, settings: dict[str, Any]) -> None:
    assert table_of(build_image(shop({"Buy": own(rule)})), **settings).violations == ()


def test_reflection_has_the_rule_of_its_setting_where_it_is_served() -> None:
    reflection = "grpc.reflection.v1alpha.ServerReflection/*"
    assert rule_and_source(table_of(), reflection)[0] == "roles:admin,caller,operator,payload-viewer,viewer"
    assert rule_and_source(table_of(reflection_access="public"), reflection)[0] == "public"
    assert reflection not in table_of(reflection=False).methods
    assert "rowcall.probe.v1.ProbeService/Echo" in table_of().methods
    without = access_table(load_catalogue(builtin=False), ServedSettings(probe=False))
    assert "rowcall.probe.v1.ProbeService/Echo" not in without.methods
