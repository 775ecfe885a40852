"""Fixtures: an embedded Postgres for the run, a database for each test, and the servicer behind a plain gRPC server."""

import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from documents.v1.documents_pb2 import (
    AskDocumentsRequest,
    AskDocumentsResponse,
    IngestDocumentRequest,
    IngestDocumentResponse,
)
from documents.v1.documents_pb2_grpc import DocumentServiceStub, add_DocumentServiceServicer_to_server
from documents_example.servicer import create
from documents_example.settings import Settings
from rowcall import embedded
from rowcall_worker import AsyncOutcomeInterceptor, response

if TYPE_CHECKING:
    from documents.v1.documents_pb2_grpc import DocumentServiceAsyncStub

_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Client:
    """Calls the servicer as one tenant."""

    stub: "DocumentServiceAsyncStub"
    tenant: str

    async def ingest(self, path: str, content: bytes) -> IngestDocumentResponse:
        operation = await self.stub.IngestDocument(
            IngestDocumentRequest(path=path, content=content), metadata=self._metadata, timeout=30
        )
        return response(operation, IngestDocumentResponse)

    async def ask(self, question: str, *, max_sources: int = 0) -> AskDocumentsResponse:
        return await self.stub.AskDocuments(
            AskDocumentsRequest(question=question, max_sources=max_sources), metadata=self._metadata, timeout=30
        )

    def of(self, tenant: str) -> "Client":
        """The same server, called by another tenant."""
        return Client(self.stub, tenant)

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("rowcall-tenant", self.tenant),)


@pytest.fixture(scope="session")
def documents_postgres() -> Iterator[embedded.Postgres]:
    with (
        tempfile.TemporaryDirectory(prefix="documents-tests-") as directory,
        embedded.start(Path(directory) / "postgres", durable=False) as postgres,
    ):
        yield postgres


@pytest.fixture
def documents_dsn(documents_postgres: embedded.Postgres) -> str:
    """A new, empty database."""
    name = f"documents_{next(_NUMBERS)}"
    documents_postgres.create_database(name)
    return documents_postgres.dsn(name)


@pytest.fixture
async def client(documents_dsn: str) -> AsyncIterator[Client]:
    """A client of the servicer as it is registered by default, behind a plain grpc.aio server."""
    servicer = create(Settings(documents_dsn, "hashed"))
    server = grpc.aio.server(interceptors=[AsyncOutcomeInterceptor()], options=(("grpc.so_reuseport", 0),))
    add_DocumentServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(DocumentServiceStub(channel), "default")
    await server.stop(None)
    await servicer.close()
