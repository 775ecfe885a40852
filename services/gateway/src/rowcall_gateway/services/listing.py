"""A page of a tenant's operations: filter, and how much fits. Called by `operations`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from rowcall.errors import RowcallError
from rowcall.queue.model import DONE, LIVE, JobFilter, JobRow
from rowcall.queue.protocol import JobStore
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.services import tokens

DEFAULT_SIZE: Final = 50
MOST: Final = 500
"""Operations on a page; asking for more gets this many."""

PAGE_BYTES: Final = 2 * 1024 * 1024
"""Responses on a page, but for the last one: gRPC's clients take 4 MiB by default."""

_SLICE: Final = 20
"""Rows read at a time: a response may be large, and what does not fit is read for nothing."""

_TERM: Final = re.compile(r'\s*(?:(done)\s*=\s*(true|false)|(method)\s*=\s*"([^"\0]*)")\s*')
_AND: Final = re.compile(r"AND\b|(?=\w)")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which operations are listed."""

    done: bool | None = None
    """Only finished ones, only others, or all."""
    method: str | None = None
    """Only of this method, "package.Service/Method"."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `done=true`, `method="package.Service/Method"`, or both, with AND or a blank between (AIP-160).

        Raises:
            RowcallError: INVALID_FILTER.
        """
        found: dict[str, str] = {}
        rest = text.strip()
        while rest:
            match = _TERM.match(rest)
            name = None if match is None else (match[1] or match[3])
            if match is None or name is None or name in found:
                raise _invalid_filter()
            found[name] = match[2] or match[4]
            rest = rest[match.end() :]
            if rest:
                joint = _AND.match(rest)
                if joint is None:
                    raise _invalid_filter()
                rest = rest[joint.end() :]
                if not rest.strip():
                    raise _invalid_filter()
        done = found.get("done")
        method = found.get("method")
        return cls(
            done=None if done is None else done == "true", method=None if method is None else method.removeprefix("/")
        )


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list."""

    rows: Sequence[JobRow]
    """With their responses, newest first."""
    next_token: str
    """For the next page; empty after the last one."""


async def read_page(store: JobStore, tenant: str, wanted: Filter, *, size: int, token: str) -> Page:
    """Reads a page.

    Args:
        store: The tenant's shard.
        tenant: Whose operations.
        wanted: Which of them.
        size: How many at most; 0: as many as we like.
        token: Of the page before; empty for the first.

    Raises:
        RowcallError: INVALID_PAGE_TOKEN, or what the store raises.
    """
    key = await store.fingerprint_key()
    about = f"operations\n{tenant}\n{wanted.done}\n{wanted.method}".encode()
    before = tokens.read(key, about, token) if token else None
    limit = min(size or DEFAULT_SIZE, MOST)
    rows: list[JobRow] = []
    room = PAGE_BYTES
    while True:
        asked = min(_SLICE, limit - len(rows) + 1)
        found = await store.list(tenant, _job_filter(wanted), before=before, limit=asked, response=True)
        for row in found:
            if len(rows) == limit or room <= 0:
                return Page(rows, tokens.make(key, about, rows[-1].job_id))
            rows.append(row)
            room -= len(row.response or b"") + len(row.error or b"")
        if len(found) < asked:
            return Page(rows, "")
        before = rows[-1].job_id


def _job_filter(wanted: Filter) -> JobFilter:
    return JobFilter(
        states=None if wanted.done is None else DONE if wanted.done else LIVE,
        method=wanted.method,
    )


def _invalid_filter() -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_INVALID_FILTER,
        'The filter cannot be read. Known are done=true, done=false and method="package.Service/Method", each once, with '
        "AND between them.",
    )
