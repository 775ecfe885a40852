"""A proxy before a Postgres that can cut the connections of one purpose, and passes all others: by what they call themselves.

A service's connections say at their beginning whose they are and what for (`application_name`), so that one setting leads all of them here and a
test takes one purpose away. Encrypted connections do not say it, and pass.
"""

from __future__ import annotations

from tests.support.proxy import Link, Proxy, address_of


class PurposeProxy(Proxy):
    """Forwards to the server of a connection string."""

    def __init__(self, dsn: str, purpose: str) -> None:
        """
        Args:
            dsn: Leads to the server.
            purpose: The last word of what those connections call themselves that can be cut.
        """
        super().__init__(*address_of(dsn))
        self.away = False
        """Whether connections of that purpose end: new ones at once, those that there are when they next send something."""
        self.named = b" " + purpose.encode() + b"\0"

    def link(self) -> Link:
        """What a new connection passes through."""
        return _Named(self)


class _Named(Link):
    """One connection."""

    def __init__(self, proxy: PurposeProxy) -> None:
        self._proxy = proxy
        self._is_it: bool | None = None
        """Whether it is one of those; None: it has not said."""

    def upstream(self, data: bytes) -> bytes:
        """Passes what the client sends, or ends the connection."""
        # What is to be known of a session is in one message, which may come behind one that asks for encryption.
        if self._is_it is None and b"application_name\0" in data:
            self._is_it = self._proxy.named in data
        if self._is_it and self._proxy.away:
            self._proxy.counts.cut += 1
            raise ConnectionAbortedError
        return data
