"""Array parameters with a stated element type, in Postgres's binary format. Called by the modules that run batches.

psycopg finds a list's type by looking at its values: a list of None becomes text[], one of small integers smallint[].
The type of a batch's columns would then change with its contents, and with it the prepared statement. Here the type is
the class. (It is also a little faster: six columns of 100 take 121 us to pack instead of 168. The wire format is that of
array_send in src/backend/utils/adt/arrayfuncs.c.)

Importing this module registers the dumpers for every connection made afterwards.
"""

from __future__ import annotations

import json
import struct
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import repeat
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format
from psycopg.types.numeric import DecimalBinaryDumper

T = TypeVar("T")

_NULL = b"\xff\xff\xff\xff"
_LENGTH = struct.Struct(">i")
_OID = struct.Struct(">I")
_EMPTY = struct.Struct(">iiI")
_HEADER = struct.Struct(">iiIii")
_INT2 = struct.Struct(">ih")
_INT4 = struct.Struct(">ii")
_INT8 = struct.Struct(">iq")
_TRUE = _LENGTH.pack(1) + b"\x01"
_FALSE = _LENGTH.pack(1) + b"\x00"
_FLOAT4 = struct.Struct(">if")
_INTERVAL = struct.Struct(">iqii")
_UUID_LENGTH = _LENGTH.pack(16)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Array(Generic[T]):
    """One column of a batch. Use the subclass of its element type."""

    values: Sequence[T | None]
    """The elements; None is null."""


class TextArray(Array[str]):
    """text[]"""

    __slots__ = ()


class ByteaArray(Array[bytes]):
    """bytea[]"""

    __slots__ = ()


class UuidArray(Array[UUID]):
    """uuid[]"""

    __slots__ = ()


class SmallintArray(Array[int]):
    """smallint[]"""

    __slots__ = ()


class IntegerArray(Array[int]):
    """integer[]"""

    __slots__ = ()


class BigintArray(Array[int]):
    """bigint[]"""

    __slots__ = ()


class BooleanArray(Array[bool]):
    """boolean[]"""

    __slots__ = ()


class RealArray(Array[float]):
    """real[]"""

    __slots__ = ()


class NumericArray(Array[Decimal]):
    """numeric[], exact."""

    __slots__ = ()


class TimestamptzArray(Array[datetime]):
    """timestamptz[], of aware times."""

    __slots__ = ()


class IntervalArray(Array[timedelta]):
    """interval[], of exact durations: a day is 24 hours, whatever the session's time zone."""

    __slots__ = ()


class JsonbArray(Array[Mapping[str, object]]):
    """jsonb[]"""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RowArray:
    """One array of rows of one of the schema's composite types, put together of a batch's columns (docs/adr/0015)."""

    columns: Sequence[Array[Any]]
    """In the order of the type; all of the same length."""


class _ArrayDumper(Dumper):
    format = Format.BINARY
    element_oid: ClassVar[int]
    typed: ClassVar[bytes]
    """The element's type as it stands before each value of a row."""

    def dump(self, obj: Array[Any]) -> bytes:
        count = len(obj.values)
        if not count:
            return _EMPTY.pack(0, 0, self.element_oid)
        elements = self.packed(obj)
        data = b"".join(elements) if len(elements) == count else elements[0] * count
        return _HEADER.pack(1, _NULL in elements, self.element_oid, count, 1) + data

    def packed(self, column: Array[Any]) -> list[bytes]:
        """The elements of a column that has some; only one where all are alike. Raises psycopg.DataError."""
        values = column.values
        # Most of a batch's columns are the same in each row, half of them null.
        alike = values[0] == values[-1] and values.count(values[0]) == len(values)
        try:
            return self.elements(values[:1] if alike else values)
        except struct.error as error:
            raise psycopg.DataError(f"{type(column).__name__}: {error}") from error

    @abstractmethod
    def elements(self, values: Sequence[Any]) -> list[bytes]:
        """The elements as they are sent, each its length and its bytes."""


def _sized(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


class _EncodingDumper(_ArrayDumper):
    """Of what is sent in the client's encoding. The others do not ask for that: a dumper is made for each statement."""

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        connection = context.connection if context else None
        self.encoding = connection.info.encoding if connection else "utf-8"


class _TextArrayDumper(_EncodingDumper):
    def elements(self, values: Sequence[str | None]) -> list[bytes]:
        encoding = self.encoding
        elements = []
        for value in values:
            if value is None:
                elements.append(_NULL)
            elif "\0" in value:
                raise psycopg.DataError("PostgreSQL text cannot contain NUL (0x00) bytes.")
            else:
                data = value.encode(encoding)
                elements.append(_LENGTH.pack(len(data)) + data)
        return elements


class _ByteaArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[bytes | None]) -> list[bytes]:
        return [_NULL if value is None else _sized(value) for value in values]


class _UuidArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[UUID | None]) -> list[bytes]:
        return [_NULL if value is None else _UUID_LENGTH + value.bytes for value in values]


class _SmallintArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[int | None]) -> list[bytes]:
        return [_NULL if value is None else _INT2.pack(2, value) for value in values]


class _IntegerArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[int | None]) -> list[bytes]:
        return [_NULL if value is None else _INT4.pack(4, value) for value in values]


class _BigintArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[int | None]) -> list[bytes]:
        return [_NULL if value is None else _INT8.pack(8, value) for value in values]


class _BooleanArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[bool | None]) -> list[bytes]:
        return [_NULL if value is None else _TRUE if value else _FALSE for value in values]


class _RealArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[float | None]) -> list[bytes]:
        return [_NULL if value is None else _FLOAT4.pack(4, value) for value in values]


class _NumericArrayDumper(_ArrayDumper):
    # psycopg's own: it has a format of its own, in digits of ten thousand (numeric_send).
    _one = DecimalBinaryDumper(Decimal)

    def elements(self, values: Sequence[Decimal | None]) -> list[bytes]:
        return [_NULL if value is None else _sized(bytes(self._one.dump(value) or b"")) for value in values]


class _TimestamptzArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[datetime | None]) -> list[bytes]:
        return [_NULL if value is None else _INT8.pack(8, (value - _EPOCH) // _MICROSECOND) for value in values]


class _IntervalArrayDumper(_ArrayDumper):
    def elements(self, values: Sequence[timedelta | None]) -> list[bytes]:
        return [_NULL if value is None else _INTERVAL.pack(16, value // _MICROSECOND, 0, 0) for value in values]


class _JsonbArrayDumper(_EncodingDumper):
    def elements(self, values: Sequence[Mapping[str, str] | None]) -> list[bytes]:
        return [_NULL if value is None else _sized(b"\x01" + self.document(value)) for value in values]

    def document(self, value: Mapping[str, str]) -> bytes:
        return json.dumps(dict(value), ensure_ascii=False).encode(self.encoding)


class _RowArrayDumper(Dumper):
    """The wire format is that of array_send and record_send (src/backend/utils/adt/rowtypes.c)."""

    format = Format.BINARY
    # The type has another number in each database. The server takes it from the function that is called, and looks at
    # the numbers of what is built in only (array_recv, record_recv).
    oid = 0

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self._dumpers = {array: dumper(array, context) for array, dumper, _ in _TYPES}

    def dump(self, obj: RowArray) -> bytes:
        columns = obj.columns
        count = len(columns[0].values)
        if not count:
            return _EMPTY.pack(0, 0, 0)
        # What is alike in each row is put together once.
        alike = _LENGTH.pack(len(columns))
        pieces: list[Iterable[bytes]] = []
        for column in columns:
            if len(column.values) != count:
                raise psycopg.DataError(f"RowArray: columns of {count} and of {len(column.values)} values")
            dumper = self._dumpers[type(column)]
            elements = dumper.packed(column)
            alike += dumper.typed
            if len(elements) == 1:
                alike += elements[0]
            else:
                pieces += repeat(alike), elements
                alike = b""
        if pieces:
            # As many as the columns have elements; what is alike is repeated without end.
            data = b"".join([_sized(b"".join(row)) for row in zip(*pieces, repeat(alike), strict=False)])
        else:
            data = _sized(alike) * count
        return _HEADER.pack(1, 0, 0, count, 1) + data


_TYPES: tuple[tuple[type[Array[Any]], type[_ArrayDumper], str], ...] = (
    (TextArray, _TextArrayDumper, "text"),
    (ByteaArray, _ByteaArrayDumper, "bytea"),
    (UuidArray, _UuidArrayDumper, "uuid"),
    (SmallintArray, _SmallintArrayDumper, "int2"),
    (IntegerArray, _IntegerArrayDumper, "int4"),
    (BigintArray, _BigintArrayDumper, "int8"),
    (BooleanArray, _BooleanArrayDumper, "bool"),
    (RealArray, _RealArrayDumper, "float4"),
    (NumericArray, _NumericArrayDumper, "numeric"),
    (TimestamptzArray, _TimestamptzArrayDumper, "timestamptz"),
    (IntervalArray, _IntervalArrayDumper, "interval"),
    (JsonbArray, _JsonbArrayDumper, "jsonb"),
)

for _array, _dumper, _name in _TYPES:
    _dumper.element_oid = types[_name].oid
    _dumper.oid = types[_name].array_oid
    _dumper.typed = _OID.pack(_dumper.element_oid)
    psycopg.adapters.register_dumper(_array, _dumper)
psycopg.adapters.register_dumper(RowArray, _RowArrayDumper)
