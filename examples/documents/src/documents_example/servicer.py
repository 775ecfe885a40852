"""DocumentService, done: an ordinary servicer of the generated base class.

A worker serves it with `--servicer documents_example.servicer:register`; a grpc.aio server with AsyncOutcomeInterceptor
serves the same object. What its calls of the embedder cost is recorded with the job (`rowcall spend`), by prices.toml.
The methods may run more than once for one call (a worker may die between a commit and its answer): both can, since
ingesting what is there already changes nothing, and asking only reads.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message

from documents.v1.documents_pb2 import (
    AskDocumentsRequest,
    AskDocumentsResponse,
    IngestDocumentRequest,
    IngestDocumentResponse,
    Source,
)
from documents.v1.documents_pb2_grpc import DocumentServiceServicer, add_DocumentServiceServicer_to_server
from documents_example import embedders
from documents_example.chunker import Chunk, Chunker, ParagraphChunker
from documents_example.embedder import Embedder, Vector
from documents_example.extractive import ExtractiveModel
from documents_example.generated import weight_of
from documents_example.index import Index, IndexUnavailable, Query, Version
from documents_example.model import Model
from documents_example.postgres_index import PostgresIndex
from documents_example.reader import Reader, TextReader, UnreadableDocument
from documents_example.settings import Settings
from documents_example.sources import locate
from documents_example.tenancy import tenant_of
from rowcall_worker import finished, telemetry

_DEFAULT_SOURCES = 5
_PASSAGES = 60
"""How many passages are fetched to find that many documents among them."""
_PROVIDER = "local"
"""Who serves the embedder, for what it costs: this very process."""
_QUOTE = 360
"""The length of a source's snippet in characters, at most."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    weight: float
    chunks: list[Chunk]
    vectors: list[Vector]


class DocumentServicer(DocumentServiceServicer):
    """Ingests documents into an index and answers questions from it."""

    def __init__(self, index: Index, embedder: Embedder, *, reader: Reader, chunker: Chunker, model: Model) -> None:
        self._index = index
        self._embedder = embedder
        self._reader = reader
        self._chunker = chunker
        self._model = model

    async def IngestDocument(  # noqa: N802  the proto names it
        self,
        request: IngestDocumentRequest,
        context: grpc.aio.ServicerContext[Message, Message],
    ) -> Operation:
        """Reads, cuts, embeds and indexes a document, unless the index has it in this version."""
        tenant = tenant_of(context)
        version = Version(hashlib.sha256(request.content).digest(), self._chunker.name, self._embedder.name)
        try:
            stored, changed = await self._index.find(tenant, request.path), False
            if stored is None or stored.version != version:
                # Work for the processor: in a thread, so that the jobs beside it go on.
                new = await asyncio.to_thread(self._prepare, request.path, request.content)
                stored, changed = await self._index.replace(
                    tenant, request.path, version, weight=new.weight, chunks=new.chunks, vectors=new.vectors
                )
        except UnreadableDocument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except IndexUnavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return finished(
            IngestDocumentResponse(
                document_id=stored.document_id,
                digest=stored.version.digest.hex(),
                chunks=stored.chunks,
                changed=changed,
            )
        )

    async def AskDocuments(  # noqa: N802
        self,
        request: AskDocumentsRequest,
        context: grpc.aio.ServicerContext[Message, Message],
    ) -> AskDocumentsResponse:
        """Searches the tenant's documents and answers from the best passage of each."""
        [vector] = await asyncio.to_thread(self._embed, [request.question], self._embed_question)
        query = Query(request.question, vector, self._embedder.name, self._embedder.weight)
        try:
            passages = await self._index.search(tenant_of(context), query, _PASSAGES)
        except IndexUnavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        limit = request.max_sources or _DEFAULT_SOURCES
        found = await asyncio.to_thread(locate, request.question, passages, limit=limit, longest=_QUOTE)
        return AskDocumentsResponse(
            answer=await self._model.answer(request.question, found),
            sources=[
                Source(
                    path=source.path,
                    snippet=source.quote,
                    score=source.score,
                    first_line=source.first_line,
                    last_line=source.last_line,
                )
                for source in found
            ],
        )

    async def close(self) -> None:
        """Gives up the index's connections."""
        await self._index.close()

    def _prepare(self, path: str, content: bytes) -> _Prepared:
        text = self._reader.read(path, content)
        chunks = self._chunker.chunks(path, text)
        vectors = self._embed([f"{path}\n{chunk.heading}\n{chunk.text}" for chunk in chunks], self._embedder.passages)
        return _Prepared(weight_of(text), chunks, vectors)

    def _embed(self, texts: Sequence[str], embed: Callable[[Sequence[str]], list[Vector]]) -> list[Vector]:
        """Has a model embed texts, and tells what that cost: also in a thread, it is known which job it is for."""
        with telemetry.model_call(_PROVIDER, self._embedder.name) as call:
            vectors = embed(texts)
            call.tokens(input=sum(len(text.split()) for text in texts))
        return vectors

    def _embed_question(self, texts: Sequence[str]) -> list[Vector]:
        return [self._embedder.question(text) for text in texts]


def create(settings: Settings) -> DocumentServicer:
    """The servicer as the settings say.

    Raises:
        EmbedderError: the embedder that was asked for cannot be had.
    """
    return DocumentServicer(
        PostgresIndex(settings.dsn),
        embedders.choose(settings.embedder),
        reader=TextReader(),
        chunker=ParagraphChunker(),
        model=ExtractiveModel(),
    )


def register(server: grpc.aio.Server) -> None:
    """Registers the servicer with a worker, or with a server.

    Raises:
        SettingsError: the environment lacks a setting, or has a wrong one.
        EmbedderError: the embedder that was asked for cannot be had.
    """
    add_DocumentServiceServicer_to_server(create(Settings.from_environment()), server)
