"""Arrays arrive as they were sent: compared with what Postgres makes of psycopg's own parameters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from rowcall.queue.postgres.wire.arrays import (
    Array,
    BigintArray,
    ByteaArray,
    IntegerArray,
    IntervalArray,
    JsonbArray,
    NumericArray,
    RowArray,
    SmallintArray,
    TextArray,
    TimestamptzArray,
    UuidArray,
)
from tests.fix_cluster import Cluster

CASES: list[tuple[type[Array[Any]], str, list[Any]]] = [
    (TextArray, "text", ["", "NULL", 'q"u,o{te}', "\\", "Zürich 🙂", "x" * 100_000]),
    (ByteaArray, "bytea", [b"", b"\x00\xff\xfe", b"x" * 100_000]),
    (UuidArray, "uuid", [uuid4(), uuid4()]),
    (SmallintArray, "smallint", [0, -1, 32767, -32768]),
    (IntegerArray, "integer", [0, -1, 2**31 - 1, -(2**31)]),
    (BigintArray, "bigint", [0, -1, 2**63 - 1, -(2**63)]),
    (
        TimestamptzArray,
        "timestamptz",
        [
            datetime(2026, 11, 22, 12, 30, 1, 999_999, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-7))),
            datetime(9999, 12, 31, tzinfo=UTC),
        ],
    ),
    (IntervalArray, "interval", [timedelta(0), timedelta(microseconds=-1), timedelta(hours=23, microseconds=5)]),
    (
        NumericArray,
        "numeric",
        [Decimal(0), Decimal("0.000000000001"), Decimal("-12345678901234567890.5"), Decimal("1E+9")],
    ),
    (JsonbArray, "jsonb", [{}, {"a": 'b"\\', "ü": "🙂"}]),
]


@pytest.mark.parametrize(("kind", "name", "values"), CASES, ids=lambda value: value if isinstance(value, str) else "")
async def test_every_type_arrives_as_it_was_sent(
    cluster: Cluster, kind: type[Array[Any]], name: str, values: list[Any]
) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.shards["a"]) as connection:
        for sent in ([], [None], [None, None], values, [None, *values, None]):
            cursor = connection.cursor(binary=True)
            await cursor.execute("select pg_typeof(%(sent)s)::text, %(sent)s", {"sent": kind(sent)})
            assert await cursor.fetchone() == (
                f"{name}[]" if name != "timestamptz" else "timestamp with time zone[]",
                sent,
            )


@pytest.mark.parametrize("count", range(8))
async def test_rows_arrive_as_they_were_sent(cluster: Cluster, count: int) -> None:
    """With columns that are alike in each row, or null, before, between and behind others."""
    types = [*CASES, *CASES, *CASES]
    columns = [
        *([values[row % len(values)] for row in range(count)] for _, _, values in CASES),
        *([None] * count for _ in CASES),
        *([None, *values, *[values[0]] * count][:count] for _, _, values in CASES),
    ]
    columns[0] = ["alike"] * count
    sent = RowArray([kind(column) for (kind, _, _), column in zip(types, columns, strict=True)])
    async with await psycopg.AsyncConnection.connect(cluster.shards["a"]) as connection:
        fields = ", ".join(f"c{number} {name}" for number, (_, name, _) in enumerate(types))
        await connection.execute(f"create type pg_temp.every as ({fields})".encode())
        cursor = connection.cursor(binary=True)
        await cursor.execute("select (r).* from unnest(%s::pg_temp.every[]) as r", [sent])
        assert await cursor.fetchall() == list(zip(*columns, strict=True))


async def test_a_day_is_24_hours_whatever_the_time_zone(cluster: Cluster) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.shards["a"]) as connection:
        await connection.execute("set timezone = 'Europe/Zurich'")
        cursor = await connection.execute(
            "select timestamptz '2026-03-28 12:00 Europe/Zurich' + (%s)[1]", [IntervalArray([timedelta(days=1)])]
        )
        assert await cursor.fetchone() == (datetime(2026, 3, 29, 11, tzinfo=UTC),)


async def test_another_encoding_of_the_client_is_respected(cluster: Cluster) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.shards["a"], client_encoding="latin1") as connection:
        cursor = await connection.execute("select (%s::text[])[1]", [TextArray(["Zürich"])])
        assert await cursor.fetchone() == ("Zürich",)


@pytest.mark.parametrize(
    "array",
    [
        TextArray(["a\0b"]),
        SmallintArray([2**15]),
        TextArray(["\ud800"]),
        RowArray([SmallintArray([2**15])]),
        RowArray([SmallintArray([1, 2]), SmallintArray([1])]),
        RowArray([SmallintArray([1]), SmallintArray([1, 2])]),
    ],
)
async def test_what_cannot_be_sent_is_refused_before_it_is(cluster: Cluster, array: Array[Any] | RowArray) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.shards["a"]) as connection:
        with pytest.raises((psycopg.DataError, UnicodeError)):
            await connection.execute("select %s", [array])
        assert connection.info.transaction_status in (
            psycopg.pq.TransactionStatus.IDLE,
            psycopg.pq.TransactionStatus.INTRANS,
        )
