"""The index in Postgres: words by its full-text vectors, meanings by the embedder's. The `Index` of the servicer.

It has a database of its own choosing, apart from the queue's. The pool opens and the tables are made at the first use,
so that a worker can be started before its database.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.resources import files
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from documents_example import schema
from documents_example.chunker import Chunk
from documents_example.embedder import Vector
from documents_example.fusion import fuse
from documents_example.index import IndexUnavailable, Passage, Query, Stored, Version
from documents_example.terms import words

_NAMES = ("find", "put_document", "delete_chunks", "put_chunk", "lexical", "nearest", "passages")
_SQL = {name: files("documents_example").joinpath("sql", f"{name}.sql").read_bytes() for name in _NAMES}

_CANDIDATES = 60
"""How many of each ranking are looked at."""

_Key = tuple[UUID, int]
_Connection = psycopg.AsyncConnection[TupleRow]


class PostgresIndex:
    """Documents of all tenants in one database; the tenant is in every statement's condition."""

    def __init__(self, dsn: str, *, connections: int = 4, patience: timedelta = timedelta(seconds=10)) -> None:
        """Connects to nothing yet.

        Args:
            dsn: the database, as a libpq connection string or URL.
            connections: how many connections are open at most.
            patience: how long a call waits for one before IndexUnavailable is raised.
        """
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            name="documents",
            timeout=patience.total_seconds(),
            # A connection that a restart of Postgres broke is replaced instead of handed out.
            check=AsyncConnectionPool[_Connection].check_connection,
            open=False,
        )
        self._opening = asyncio.Lock()
        self._ready = False

    async def find(self, tenant: str, path: str) -> Stored | None:
        """The document at a path."""
        async with self._connection() as connection:
            return await self._find(connection, tenant, path)

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
        """Replaces the document in one transaction: whoever asks meanwhile sees the old one, then the new one."""
        async with self._connection() as connection, connection.transaction():
            written = await self._one(
                connection,
                "put_document",
                {
                    "tenant": tenant,
                    "path": path,
                    "digest": version.digest,
                    "chunker": version.chunker,
                    "embedder": version.embedder,
                    "weight": weight,
                    "chunks": len(chunks),
                },
            )
            if written is None:
                present = await self._find(connection, tenant, path)
                assert present is not None, "an upsert that changed nothing met a row"  # noqa: S101
                return present, False
            (document_id,) = written
            await connection.execute(_SQL["delete_chunks"], {"tenant": tenant, "document_id": document_id})
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    _SQL["put_chunk"],
                    [
                        {
                            "tenant": tenant,
                            "document_id": document_id,
                            "ordinal": ordinal,
                            "heading": chunk.heading,
                            "body": chunk.text,
                            "first_line": chunk.first_line,
                            "last_line": chunk.last_line,
                            "path_words": _searched(path),
                            "heading_words": _searched(chunk.heading),
                            "body_words": _searched(chunk.text),
                            "embedding": vector,
                        }
                        for ordinal, (chunk, vector) in enumerate(zip(chunks, vectors, strict=True))
                    ],
                )
            return Stored(str(document_id), version, len(chunks)), True

    async def search(self, tenant: str, query: Query, limit: int) -> list[Passage]:
        """What the word search and the vectors find, fused."""
        async with self._connection() as connection:
            lexical = await self._keys(
                connection,
                "lexical",
                {"tenant": tenant, "question_words": _searched(query.question), "limit": _CANDIDATES},
            )
            nearest = (
                await self._keys(
                    connection,
                    "nearest",
                    {"tenant": tenant, "embedding": query.vector, "embedder": query.embedder, "limit": _CANDIDATES},
                )
                if any(query.vector)  # a question without words points nowhere: everything would be as near
                else []
            )
            fused = fuse([(lexical, 1.0), (nearest, query.vector_weight)])[:limit]
            keys = [key for key, _ in fused]
            cursor = await connection.execute(
                _SQL["passages"],
                {
                    "tenant": tenant,
                    "document_ids": [document_id for document_id, _ in keys],
                    "ordinals": [ordinal for _, ordinal in keys],
                },
            )
            found = {
                (document_id, ordinal): (path, Chunk(body, heading, first_line, last_line))
                async for document_id, ordinal, path, heading, body, first_line, last_line in cursor
            }
        # A chunk that was replaced since it was ranked is left out.
        return [Passage(*found[key], score) for key, score in fused if key in found]

    async def close(self) -> None:
        """Closes the pool."""
        await self._pool.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        try:
            await self._open()
            async with self._pool.connection() as connection:
                yield connection
        except psycopg.OperationalError as error:
            raise IndexUnavailable("the database of the documents index cannot be reached, or broke off") from error

    async def _open(self) -> None:
        if self._ready:
            return
        async with self._opening:
            if not self._ready:
                await self._pool.open()
                async with self._pool.connection() as connection:
                    await schema.ensure(connection)
                self._ready = True

    async def _find(self, connection: _Connection, tenant: str, path: str) -> Stored | None:
        row = await self._one(connection, "find", {"tenant": tenant, "path": path})
        if row is None:
            return None
        document_id, digest, chunker, embedder, chunks = row
        return Stored(str(document_id), Version(digest, chunker, embedder), chunks)

    async def _one(self, connection: _Connection, statement: str, parameters: Mapping[str, object]) -> TupleRow | None:
        cursor = await connection.execute(_SQL[statement], parameters)
        return await cursor.fetchone()

    async def _keys(self, connection: _Connection, statement: str, parameters: Mapping[str, object]) -> list[_Key]:
        cursor = await connection.execute(_SQL[statement], parameters)
        return [(document_id, ordinal) async for document_id, ordinal in cursor]


def _searched(text: str) -> str:
    # Postgres drops the stop words and makes the stems; identifiers are taken apart here.
    return " ".join(words(text))
