"""The index by itself: its tables, with and without the extension vector, versions, and a database that is not there."""

import os
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from documents_example import schema
from documents_example.chunker import ParagraphChunker
from documents_example.hashed import HashedEmbedder
from documents_example.index import IndexUnavailable, Query, Version
from documents_example.postgres_index import PostgresIndex
from rowcall.embedded.binaries import ENVIRONMENT_VARIABLE

pytestmark = pytest.mark.integration

VERSION = Version(b"digest", "chunker", "hashed")
TEXTS = {
    "ducts.txt": "Dampers in ventilation ducts close when smoke is detected.",
    "roofs.txt": "Flat roofs need a slope of two per cent, so that rain runs off.",
    "lifts.txt": "Scissor lifts are locked before anybody works below them.",
}


@pytest.fixture
async def index(documents_dsn: str) -> AsyncIterator[PostgresIndex]:
    opened = PostgresIndex(documents_dsn)
    yield opened
    await opened.close()


async def put(
    index: PostgresIndex, path: str, text: str, *, version: Version = VERSION, weight: float = 1.0, tenant: str = "t"
) -> bool:
    chunks = ParagraphChunker().chunks(path, text)
    vectors = HashedEmbedder().passages([chunk.text for chunk in chunks])
    _, changed = await index.replace(tenant, path, version, weight=weight, chunks=chunks, vectors=vectors)
    return changed


async def found(
    index: PostgresIndex, question: str, *, embedder: str = "hashed", vector_weight: float = 0.3
) -> list[str]:
    query = Query(question, HashedEmbedder().question(question), embedder, vector_weight)
    return [passage.path for passage in await index.search("t", query, 10)]


async def test_vectors_are_of_the_extension_where_it_can_be_had(documents_dsn: str, index: PostgresIndex) -> None:
    if ENVIRONMENT_VARIABLE in os.environ and not await has_extension(documents_dsn):
        pytest.skip(f"the Postgres that {ENVIRONMENT_VARIABLE} names comes without pgvector")
    for path, text in TEXTS.items():
        await put(index, path, text)

    assert await base_type(documents_dsn) == "vector"
    assert (await found(index, "smoke in the ducts"))[0] == "ducts.txt"


async def test_without_the_extension_the_answers_are_the_same(documents_dsn: str, index: PostgresIndex) -> None:
    arrays_dsn = await limited_role(documents_dsn)
    arrays = PostgresIndex(arrays_dsn)
    try:
        for path, text in TEXTS.items():
            await put(index, path, text)
            await put(arrays, path, text)

        assert await base_type(arrays_dsn) == "real[]"
        for question in ("smoke in the ducts", "slopes of a roof", "who works below the lift"):
            for weights in (0.3, 1000.0):  # with 1000, the vectors alone decide
                with_arrays = await found(arrays, question, vector_weight=weights)
                assert with_arrays == await found(index, question, vector_weight=weights)
                assert len(with_arrays) == 3
    finally:
        await arrays.close()


async def limited_role(dsn: str) -> str:
    """Another database, whose administrator has made the schema, and a role that may use it but add no extension."""
    name = f"{conninfo_to_dict(dsn)['dbname']}_arrays"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        await admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        await admin.execute(sql.SQL("create role {} login password 'secret'").format(sql.Identifier(name)))
    async with await psycopg.AsyncConnection.connect(make_conninfo(dsn, dbname=name), autocommit=True) as admin:
        await admin.execute(sql.SQL("create schema documents authorization {}").format(sql.Identifier(name)))
    return make_conninfo(dsn, dbname=name, user=name, password="secret")


async def has_extension(dsn: str) -> bool:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute("select from pg_available_extensions where name = 'vector'")
        return await cursor.fetchone() is not None


async def base_type(dsn: str) -> str:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute(
            "select format_type(typbasetype, null) from pg_type where oid = 'documents.embedding'::regtype"
        )
        row = await cursor.fetchone()
    assert row is not None
    return str(row[0])


async def test_making_the_tables_again_changes_nothing(documents_dsn: str, index: PostgresIndex) -> None:
    await put(index, "ducts.txt", TEXTS["ducts.txt"])

    async with await psycopg.AsyncConnection.connect(documents_dsn) as connection:
        await schema.ensure(connection)

    assert await found(index, "smoke") == ["ducts.txt"]


@pytest.mark.parametrize(
    "version",
    [
        Version(b"other", "chunker", "hashed"),
        Version(b"digest", "other", "hashed"),
        Version(b"digest", "chunker", "other"),
    ],
)
async def test_another_version_is_indexed_anew(index: PostgresIndex, version: Version) -> None:
    assert await put(index, "ducts.txt", TEXTS["ducts.txt"])
    assert not await put(index, "ducts.txt", TEXTS["ducts.txt"])

    assert await put(index, "ducts.txt", TEXTS["ducts.txt"], version=version)

    stored = await index.find("t", "ducts.txt")
    assert stored is not None
    assert stored.version == version


async def test_vectors_of_another_embedder_are_not_compared(index: PostgresIndex) -> None:
    await put(index, "ducts.txt", TEXTS["ducts.txt"])

    assert await found(index, "smoke", embedder="another") == ["ducts.txt"]  # by its words
    assert await found(index, "smok", embedder="another") == []
    assert await found(index, "smok") == ["ducts.txt"]  # by parts of its words


async def test_rare_words_decide(index: PostgresIndex) -> None:
    for number in range(20):
        await put(index, f"pump-{number}.txt", "The pump pump pump pump is inspected; the pump runs.")
    await put(index, "gasket.txt", "The gasket is of graphite, as are those of all the valves around it.")

    assert (await found(index, "pump inspected gasket", vector_weight=0.0))[0] == "gasket.txt"


@pytest.mark.parametrize(
    ("question", "vector_weight"),
    [("slope of flat roofs", 0.0), ("slopp of flatt rooffs", 0.3)],
    ids=["by words", "by vectors"],
)
async def test_a_lighter_document_comes_after_its_like(
    index: PostgresIndex, question: str, vector_weight: float
) -> None:
    for number in range(20):
        await put(index, f"copy-{number}.txt", TEXTS["roofs.txt"], weight=0.5)
    await put(index, "original-0.txt", TEXTS["roofs.txt"])

    assert (await found(index, question, vector_weight=vector_weight))[0] == "original-0.txt"


async def test_another_tenants_documents_take_no_places(index: PostgresIndex) -> None:
    for number in range(70):
        await put(index, f"other-{number}.txt", TEXTS["ducts.txt"], tenant="other")
    await put(index, "ducts.txt", f"{TEXTS['ducts.txt']} {TEXTS['roofs.txt']}")

    assert await found(index, "smoke in ventilation ducts") == ["ducts.txt"]  # by words
    assert await found(index, "smokk ventilatoin ductss") == ["ducts.txt"]  # by vectors


async def test_a_database_that_cannot_be_reached_is_said_so() -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        dsn = f"postgresql://nobody:secret@127.0.0.1:{bound.getsockname()[1]}/documents"
        index = PostgresIndex(dsn, patience=timedelta(seconds=0.2))
        with pytest.raises(IndexUnavailable, match="cannot be reached") as unavailable:
            await index.find("t", "ducts.txt")
        await index.close()

    assert "secret" not in str(unavailable.value)
