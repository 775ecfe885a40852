"""Where chunks are kept and found: the interface. Called by the servicer; `postgres_index` is the one there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from documents_example.chunker import Chunk
from documents_example.embedder import Vector


class IndexUnavailable(Exception):
    """The index cannot be reached now; trying again may help."""


@dataclass(frozen=True, slots=True)
class Version:
    """What decides whether a document is indexed already."""

    digest: bytes
    """The SHA-256 of the content."""
    chunker: str
    """The chunker's name."""
    embedder: str
    """The embedder's name."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document in the index."""

    document_id: str
    """Its UUID: of the tenant's path, whatever the content."""
    version: Version
    """What it was indexed from."""
    chunks: int
    """How many chunks it has."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for."""

    question: str
    """In plain words."""
    vector: Vector
    """What the embedder made of it."""
    embedder: str
    """The embedder's name: the vector is compared with its vectors only."""
    vector_weight: float
    """What the ranking by vectors counts; the one by words counts 1."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that was found."""

    path: str
    """The document it is of."""
    chunk: Chunk
    """The chunk."""
    score: float
    """How well it fits, up to 1; comparable within one search."""


class Index(Protocol):
    """Documents by tenant and path. One tenant's calls never see or change what is another's."""

    async def find(self, tenant: str, path: str) -> Stored | None:
        """The document, if there is one.

        Raises:
            IndexUnavailable: the index cannot be reached. So do all methods.
        """
        ...

    async def replace(
        self,
        tenant: str,
        path: str,
        version: Version,
        *,
        weight: float,
        chunks: Sequence[Chunk],
        vectors: Sequence[Vector],
    ) -> tuple[Stored, bool]:
        """Stores the document, whole or not at all; the second is false if it was there in this version already.

        Scores of its chunks are multiplied by its weight.
        """
        ...

    async def search(self, tenant: str, query: Query, limit: int) -> list[Passage]:
        """The passages that fit the question best, the best first."""
        ...

    async def close(self) -> None:
        """Gives up its connections."""
        ...
