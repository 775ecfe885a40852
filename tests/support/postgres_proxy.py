"""A proxy before a Postgres that understands enough of its protocol to lose what a commit was answered.

The server executes the statement and commits; what it says to that is swallowed, and the connection is cut. To the
client this is a commit of unknown outcome, to the server it is done. Protocol: postgresql.org/docs/current/protocol.html,
version 3; encrypted connections pass unread.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.proxy import Link, Proxy, address_of

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
"""Where a version would stand in a connection's first message."""
_READY = b"Z"
"""ReadyForQuery: the server's answer to a statement is complete."""


@dataclass(slots=True)
class CommitCounts:
    """What a Postgres proxy has seen of the watched statements."""

    commits: int = 0
    """Transactions with such a statement that the server committed."""
    dropped: int = 0
    """Of those, how many the client was never told of."""
    refused: int = 0
    """Transactions with such a statement that the server did not commit."""
    cancels: int = 0
    """Cancel requests, whatever they were to cancel."""


class PostgresProxy(Proxy):
    """Forwards to the server of a connection string, and drops the answers of some commits."""

    def __init__(
        self, dsn: str, *, statements: str = r"\browcall\.submit_jobs\b", drop: float = 0, seed: int = 0
    ) -> None:
        """
        Args:
            dsn: Leads to the server.
            statements: A regular expression; transactions with a statement that matches are watched.
            drop: The share of watched transactions whose answer is swallowed, the connection cut behind it.
            seed: Of the choice which ones.
        """
        super().__init__(*address_of(dsn))
        self.commits = CommitCounts()
        self._statements = re.compile(statements.encode())
        self._drop = drop
        self._dice = random.Random(seed)

    def link(self) -> Link:
        """What a new connection passes through."""
        return _PostgresLink(self)

    def watches(self, statement: bytes) -> bool:
        """Whether a statement's transaction is one of those that are watched."""
        return self._statements.search(statement) is not None

    def chosen(self) -> bool:
        """Whether the answer of this watched transaction is to be dropped."""
        return self._dice.random() < self._drop


class _PostgresLink(Link):
    """One connection: follows its statements, and keeps the server's messages back while their answer is to be lost."""

    def __init__(self, proxy: PostgresProxy) -> None:
        self._proxy = proxy
        self._sent = bytearray()
        self._received = bytearray()
        self._kept = bytearray()
        self._watched_names: set[bytes] = set()
        self._started = False
        self._negotiates = False
        self._opaque = False
        self._watched = False
        self._to_drop = False
        self._failed = False

    def upstream(self, data: bytes) -> bytes:
        """Looks at what the client sends; all of it passes."""
        if not self._opaque:
            self._sent += data
            while not self._started and self._first_message():
                pass
            if self._started:
                for kind, message in _messages(self._sent):
                    self._client_says(kind, message[5:])
        return data

    def downstream(self, data: bytes) -> bytes | None:
        """Passes whole messages; None in place of the end of a transaction that the client is not to hear of."""
        if self._opaque:
            return data
        self._received += data
        passed = bytearray()
        if self._negotiates:
            # One byte: whether the server encrypts.
            self._negotiates = False
            if data[:1] != b"N":
                self._opaque = True
                return data
            passed += self._received[:1]
            del self._received[:1]
        for kind, message in _messages(self._received):
            if self._server_says(kind, message[5:]):
                return None
            self._kept += message
            # At the end of a statement inside its transaction the client gets to hear of it, and goes on.
            if kind == _READY or not self._to_drop:
                passed += self._kept
                self._kept.clear()
        return bytes(passed)

    def _first_message(self) -> bool:
        """Takes a message without a kind off the beginning; False: it is not there yet, or there is none any more."""
        if len(self._sent) < 8:
            return False
        length, code = struct.unpack_from("!II", self._sent)
        if len(self._sent) < length:
            return False
        del self._sent[:length]
        self._negotiates = code in (_SSL, _GSS)
        self._started = not self._negotiates
        self._proxy.commits.cancels += code == _CANCEL
        return True

    def _client_says(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":  # Parse
            name, statement = body.split(b"\0", 2)[:2]
            self._watched_names.discard(name)
            if self._proxy.watches(statement):
                self._watched_names.add(name)
        elif kind == b"B":  # Bind
            if body.split(b"\0", 2)[1] in self._watched_names:
                self._watch()
        elif kind == b"Q" and self._proxy.watches(body):
            self._watch()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._to_drop = self._proxy.chosen()

    def _server_says(self, kind: bytes, body: bytes) -> bool:
        """Follows the transaction; whether this message ends one whose answer is to be lost."""
        if not self._watched:
            return False
        if kind == b"E" or (kind == b"C" and body.startswith(b"ROLLBACK")):  # ErrorResponse; CommandComplete
            self._failed = True
        if kind != _READY or body != b"I":  # Idle: outside of a transaction
            return False
        counts, drops = self._proxy.commits, self._to_drop and not self._failed
        counts.refused += self._failed
        counts.commits += not self._failed
        counts.dropped += drops
        self._watched = self._to_drop = self._failed = False
        return drops


def _messages(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Takes the whole messages off a buffer: the kind of each, and all of it."""
    start = 0
    while len(buffer) - start >= 5:
        end = start + 1 + int.from_bytes(buffer[start + 1 : start + 5])
        if len(buffer) < end:
            break
        yield bytes(buffer[start : start + 1]), bytes(buffer[start:end])
        start = end
    del buffer[:start]
