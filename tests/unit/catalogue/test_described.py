"""What reflection tells of images that have files and types of one name: of each service what fits together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from rowcall.catalogue.described import DescribedFiles
from rowcall.catalogue.images import load_catalogue
from tests.fix_images import ImageBuilder
from tests.unit.catalogue.test_images import ACME, MONEY, TEAM


@pytest.fixture
def described(build_image: ImageBuilder) -> DescribedFiles:
    """Of two teams with two versions of one file."""
    red = build_image({"common/money.proto": MONEY % "", "red/v1/till.proto": TEAM.format("red")})
    blue = build_image(
        {"common/money.proto": MONEY % "string currency = 2;", "blue/v1/till.proto": TEAM.format("blue")}
    )
    return DescribedFiles(load_catalogue([red, blue]))


def pool_of(files: Sequence[bytes] | None) -> DescriptorPool:
    """A client's pool of what it was told."""
    assert files is not None
    database = DescriptorDatabase()
    for file in files:
        database.Add(FileDescriptorProto.FromString(file))
    return DescriptorPool(database)


def names_of(files: Sequence[bytes] | None) -> set[str]:
    """The names of files that are not of everybody."""
    assert files is not None
    names = {FileDescriptorProto.FromString(file).name for file in files}
    return {name for name in names if name.endswith(("money.proto", "till.proto"))}


def money_of(files: Sequence[bytes] | None, service: str) -> set[str]:
    """The fields of the one type that both teams have, as a client finds it in a service's request."""
    request = pool_of(files).FindServiceByName(service).methods_by_name["Pay"].input_type
    message = request.fields_by_name["amount"].message_type
    assert message is not None
    return {field.name for field in message.fields}


def money(files: Sequence[bytes] | None) -> set[str]:
    """The fields of that type, as it is found by its name."""
    return {field.name for field in pool_of(files).FindMessageTypeByName("common.Money").fields}


def test_each_service_is_described_by_its_own_image(described: DescribedFiles) -> None:
    assert money_of(described.by_symbol("red.v1.Till"), "red.v1.Till") == {"units"}
    assert money_of(described.by_symbol("blue.v1.Till"), "blue.v1.Till") == {"units", "currency"}
    assert money_of(described.by_symbol("blue.v1.Till.Pay"), "blue.v1.Till") == {"units", "currency"}


def test_a_client_that_keeps_all_files_by_name_has_no_two_of_one(described: DescribedFiles) -> None:
    red, blue = (described.by_symbol(f"{team}.v1.Till") for team in ("red", "blue"))
    assert names_of(red) == {"red/v1/till.proto", "common/money.proto"}
    (other,) = names_of(blue) - {"blue/v1/till.proto"}
    assert other.startswith("image-")
    assert other.endswith("/common/money.proto")
    for name in names_of(red) | names_of(blue):
        told = described.by_name(name)
        assert told is not None
        assert FileDescriptorProto.FromString(told[0]).name == name
    assert described.by_name("no/such.proto") is None


def test_a_type_is_looked_for_in_the_image_of_what_was_asked_before(described: DescribedFiles) -> None:
    blue = described.service_of("blue.v1.Till")
    assert "currency" in money(described.by_symbol("common.Money", blue))
    assert "currency" not in money(described.by_symbol("common.Money"))
    assert described.by_symbol("no.Such", blue) is None


def test_what_operations_answer_with_comes_with_their_service(build_image: ImageBuilder) -> None:
    """It is named by an option, and its file need not be imported."""
    answers = 'syntax = "proto3"; package acme.v1; message Elsewhere { string text = 1; }'
    source = ACME.replace('response_type: "google.protobuf.Struct"', 'response_type: "Elsewhere"')
    image = build_image({"acme/v1/acme.proto": source, "acme/v1/answers.proto": answers})

    pool = pool_of(DescribedFiles(load_catalogue([image])).by_symbol("acme.v1.Shop"))

    assert "text" in pool.FindMessageTypeByName("acme.v1.Elsewhere").fields_by_name


def test_extensions_are_those_of_every_image(described: DescribedFiles) -> None:
    numbers = described.extension_numbers("google.protobuf.MethodOptions")
    assert numbers is not None
    assert 51718 in numbers
    files = described.by_extension("google.protobuf.MethodOptions", 51718)
    assert files is not None
    assert FileDescriptorProto.FromString(files[0]).name == "rowcall/options/v1/job.proto"
    assert described.by_extension("google.protobuf.MethodOptions", 1) is None
    assert described.by_extension("no.Such", 1) is None
    assert described.extension_numbers("no.Such") is None


def test_our_own_services_are_described(described: DescribedFiles) -> None:
    for name in (
        "rowcall.v1.AccessService",
        "rowcall.v1.ActionService",
        "rowcall.v1.AdmissionService",
        "rowcall.v1.AuditService",
        "rowcall.v1.CatalogueService",
        "rowcall.v1.ErrorService",
        "rowcall.v1.JobService",
        "rowcall.v1.QueueService",
        "rowcall.v1.TenantService",
        "rowcall.v1.WorkerService",
        "google.longrunning.Operations",
    ):
        assert pool_of(described.by_symbol(name)).FindServiceByName(name).methods
