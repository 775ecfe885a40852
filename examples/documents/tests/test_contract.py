"""The proto's rules, and the image that gateways are given."""

from collections.abc import Sequence
from importlib.resources import files

import protovalidate
import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message

from documents.v1 import documents_pb2
from documents.v1.documents_pb2 import AskDocumentsRequest, IngestDocumentRequest
from rowcall.options.v1 import job_pb2

pytestmark = pytest.mark.unit


def violated(message: Message) -> Sequence[tuple[str, str]]:
    """The fields that break a rule, and the rules."""
    return [
        (violation.proto.field.elements[0].field_name, violation.proto.rule_id)
        for violation in protovalidate.collect_violations(message)
        if violation.proto.field is not None
    ]


@pytest.mark.parametrize(
    "message",
    [
        IngestDocumentRequest(path="a"),
        IngestDocumentRequest(path="docs/Gr\u00f6\u00dfe 1.md", content=bytes(900_000)),
        IngestDocumentRequest(path="p" * 1024),
        AskDocumentsRequest(question="Why\nnot?"),
        AskDocumentsRequest(question="q" * 1000, max_sources=20),
    ],
)
def test_what_keeps_the_rules_passes(message: Message) -> None:
    assert violated(message) == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (IngestDocumentRequest(content=b"x"), [("path", "string.min_len")]),
        (IngestDocumentRequest(path="p" * 1025), [("path", "string.max_len")]),
        (IngestDocumentRequest(path="a\nb"), [("path", "string.pattern")]),
        (IngestDocumentRequest(path="a\0b"), [("path", "string.pattern")]),
        (IngestDocumentRequest(path="a", content=bytes(900_001)), [("content", "bytes.max_len")]),
        (
            IngestDocumentRequest(content=bytes(900_001)),
            [("path", "string.min_len"), ("content", "bytes.max_len")],
        ),
        (AskDocumentsRequest(question="a?"), [("question", "string.min_len")]),
        (AskDocumentsRequest(question="q" * 1001), [("question", "string.max_len")]),
        (AskDocumentsRequest(question="why\0not"), [("question", "string.pattern")]),
        (AskDocumentsRequest(question="why?", max_sources=21), [("max_sources", "int32.gte_lte")]),
        (AskDocumentsRequest(question="why?", max_sources=-1), [("max_sources", "int32.gte_lte")]),
    ],
)
def test_every_broken_rule_is_named(message: Message, expected: Sequence[tuple[str, str]]) -> None:
    assert violated(message) == expected


def test_the_image_stands_by_itself() -> None:
    image = descriptor_pb2.FileDescriptorSet.FromString(
        files("documents_example").joinpath("documents.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in image.file:  # in order: each after what it imports
        pool.Add(file)

    service = pool.FindServiceByName("documents.v1.DocumentService")
    assert [method.name for method in service.methods] == ["IngestDocument", "AskDocuments"]


def test_the_methods_are_jobs_with_their_queues() -> None:
    service = documents_pb2.DESCRIPTOR.services_by_name["DocumentService"]
    options = {method.name: method.GetOptions() for method in service.methods}

    assert {name: option.Extensions[job_pb2.job].queue for name, option in options.items()} == {
        "IngestDocument": "documents",
        "AskDocuments": "ask",
    }
    info = options["IngestDocument"].Extensions[operations_pb2.operation_info]
    assert (info.response_type, info.metadata_type) == ("IngestDocumentResponse", "rowcall.v1.JobMetadata")
