"""`rowcall access`: the table for people and scripts, and what a gateway would not start with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rowcall_cli.errors import ExitCode
from tests.fix_commands import Ran
from tests.fix_images import ImageBuilder

SHOP = """\
syntax = "proto3";
package acme.v1;
import "rowcall/options/v1/access.proto";
import "rowcall/options/v1/job.proto";
message Order { string item = 1; }
service Shop {
  option (rowcall.options.v1.service_access) = {roles: "clerk"};
  rpc Buy(Order) returns (Order) { option (rowcall.options.v1.job) = {}; }
  rpc Pay(Order) returns (Order) {
    option (rowcall.options.v1.job) = {};
    option (rowcall.options.v1.access) = {roles: ["caller", "clerk"] scopes: "pay"};
  }
}
service Bare { rpc Ask(Order) returns (Order) { option (rowcall.options.v1.job) = {}; } }
"""
LACKING = "A gateway that knows its callers by credentials (ROWCALL_IDENTITY=jwt, mtls) does not start:"


@pytest.fixture
def image(build_image: ImageBuilder) -> Path:
    return build_image({"acme/v1/shop.proto": SHOP})


def lines(ran: Ran) -> list[list[str]]:
    """The table's cells."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in ran.out.splitlines()]


def test_each_method_is_listed_with_its_rule_and_where_that_is_said(rowcall: Callable[..., Ran], image: Path) -> None:
    ran = rowcall("access", "--image", str(image), "--access-default", "roles:caller")

    assert ran.code == ExitCode.OK
    table = lines(ran)
    assert table[0] == ["method", "who may call", "source"]
    for row in (
        ["acme.v1.Shop/Buy", "roles:clerk", "service"],
        ["acme.v1.Shop/Pay", "roles:caller, clerk scopes:pay", "own"],
        ["acme.v1.Bare/Ask", "roles:caller", "default"],
        ["rowcall.v1.JobService/RetryJob", "roles:admin, operator", "built-in"],
        ["google.longrunning.Operations/DeleteOperation", "roles:admin, caller", "built-in"],
        ["grpc.health.v1.Health/*", "public", "built-in"],
    ):
        assert row in table
    assert [row[0] for row in table[1:]] == sorted(row[0] for row in table[1:])


def test_a_method_without_a_rule_is_told_with_what_to_do(rowcall: Callable[..., Ran], image: Path) -> None:
    ran = rowcall("access", "--image", str(image))

    assert ran.code == ExitCode.FAILED
    assert ["acme.v1.Bare/Ask", "nobody", "none"] in lines(ran)
    assert ran.err.startswith(
        f"rowcall: {LACKING}\nacme/v1/shop.proto ({image}): method acme.v1.Bare/Ask: has no access rule"
    )
    assert 'option (rowcall.options.v1.access) = {roles: "caller"};' in ran.err


def test_it_reads_the_gateways_variables_and_flags_go_before_them(rowcall: Callable[..., Ran], image: Path) -> None:
    variables = {
        "ROWCALL_IMAGES": str(image),
        "ROWCALL_IMAGE_ROLES": "caller",
        "ROWCALL_ACCESS_DEFAULT": "roles:caller",
    }
    ran = rowcall("access", "--json", **variables)

    assert ran.code == ExitCode.FAILED
    assert ran.err.startswith("rowcall: No gateway starts with these images:\n")
    assert len(ran.json["violations"]) == 2
    assert "names the role 'clerk'; images may name caller" in ran.json["violations"][0]

    ran = rowcall("access", "--json", "--image-role", "clerk", "--image-role", "caller", **variables)
    assert (ran.code, ran.json["violations"], ran.json["without_rule"]) == (ExitCode.OK, [], [])
    pay = {"roles": ["caller", "clerk"], "scopes": ["pay"], "public": False, "source": "own"}
    assert {"method": "acme.v1.Shop/Pay", **pay} in ran.json["methods"]
    [health] = [each for each in ran.json["methods"] if each["method"].startswith("grpc.health")]
    assert health["public"]


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (("--image", "/nowhere.binpb"), {}, "ROWCALL_IMAGES (--image) names what cannot be read: '/nowhere.binpb'"),
        (("--access-default", "caller"), {}, "ROWCALL_ACCESS_DEFAULT (--access-default) is no access rule"),
        (("--access-default", "public"), {}, "ROWCALL_PUBLIC_TENANT does not say whose calls"),
        (("--public-tenant", "A_B"), {}, "ROWCALL_PUBLIC_TENANT (--public-tenant) is no tenant"),
        (("--image-role", "Caller"), {}, "ROWCALL_IMAGE_ROLES (--image-role) has the role 'Caller'"),
        ((), {"ROWCALL_REFLECTION_ACCESS": "all"}, "ROWCALL_REFLECTION_ACCESS (--reflection-access) is no access rule"),
    ],
)
def test_what_is_wrong_with_the_settings_is_told_as_the_gateway_does(
    rowcall: Callable[..., Ran], words: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    ran = rowcall("access", *words, **variables)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert said in ran.err


def test_an_image_that_is_none_is_told(rowcall: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "not-an-image").write_text("hello")
    ran = rowcall("access", "--image", str(tmp_path / "not-an-image"))
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "not a descriptor image" in ran.err
