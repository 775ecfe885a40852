"""The TenantScope that the settings ask for, and what runs beside it: keys read, revocations read, files watched.

Made by `rowcall_gateway.server`, started before the gateway serves and closed after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from rowcall.settings.files import LOOK_EVERY, WatchedFile
from rowcall_gateway.edge.credentials.certificates import Rules, read_rules
from rowcall_gateway.edge.credentials.fetching import FETCH_SECONDS, KeyFile, KeyUrl, Place
from rowcall_gateway.edge.credentials.issuers import Issuer, read_issuers, seconds
from rowcall_gateway.edge.credentials.revocations import Reading, Revocations
from rowcall_gateway.edge.credentials.scopes import CertificateScope, TokenAndCertificateScope, TokenScope
from rowcall_gateway.edge.credentials.sources import KeySource
from rowcall_gateway.edge.identity import IdentityMode, TenantScope

_START_SECONDS: Final = FETCH_SECONDS + 1
"""For the first look at keys and revocations; what is not there by then comes later."""

_log = structlog.get_logger(__name__)


class Credentials:
    """What the gateway knows its callers by."""

    def __init__(
        self,
        mode: IdentityMode,
        *,
        issuers: Path | None,
        certificates: Path | None,
        read_revocations: Reading,
    ) -> None:
        """
        Args:
            mode: How callers are known.
            issuers: The file, where tokens are taken.
            certificates: The file, where certificates are.
            read_revocations: Asks the catalogue.

        Raises:
            ValueError: A file is wrong.
            OSError: One cannot be read.
        """
        self._tokens: TokenScope | None = None
        self._certificates: CertificateScope | None = None
        self._issuers: Mapping[str, Issuer] = {}
        self._sources: dict[str, KeySource] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._watched: list[WatchedFile[Any]] = []
        if mode.takes_tokens and issuers is not None:
            self._tokens = TokenScope(read_revocations)
            self._watched.append(WatchedFile(issuers, read_issuers, self._trust))
            self._issuers = read_issuers(issuers)
        if mode.takes_certificates and certificates is not None:
            self._certificates = CertificateScope(read_rules(certificates))
            self._watched.append(WatchedFile(certificates, read_rules, self._follow))
        self.scope: TenantScope = self._made()

    @property
    def revocations(self) -> Revocations | None:
        """What was revoked; None where no tokens are taken."""
        return None if self._tokens is None else self._tokens.revocations

    @property
    def issuers(self) -> frozenset[str] | None:
        """Whose tokens are taken; None where none are."""
        return None if self._tokens is None else frozenset(self._issuers)

    async def start(self) -> None:
        """Reads what there is to be read, for some seconds at most: what cannot be had now does not stop the gateway."""
        if self._tokens is not None:
            self._trust(self._issuers)
            first = [self._tokens.revocations.look(), *(source.fetch() for source in self._sources.values())]
            _, late = await asyncio.wait(map(asyncio.ensure_future, first), timeout=_START_SECONDS)
            for each in late:
                each.cancel()
            self._run(self._tokens.revocations.run(), "reading revocations")
        for file in self._watched:
            self._run(file.watch(), "watching a file")

    async def close(self) -> None:
        """Ends what runs beside."""
        tasks = [*self._tasks, *self._readers.values()]
        self._tasks, self._readers = [], {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *(source.close() for source in self._sources.values()), return_exceptions=True)

    def _made(self) -> TenantScope:
        if self._tokens is None:
            if self._certificates is None:
                raise ValueError("an identity that goes by credentials needs the files that say whose")
            return self._certificates
        return (
            self._tokens if self._certificates is None else TokenAndCertificateScope(self._tokens, self._certificates)
        )

    def _trust(self, issuers: Mapping[str, Issuer]) -> None:
        if self._tokens is None:
            return
        sources: dict[str, KeySource] = {}
        for name, issuer in issuers.items():
            before = self._issuers.get(name)
            kept = self._sources.get(name)
            # Keys that are there need not be read again because another issuer was added.
            same = kept is not None and before is not None and _keys_of(before) == _keys_of(issuer)
            sources[name] = kept if kept is not None and same else _source(issuer, self._tokens)
        for name, source in self._sources.items():
            if sources.get(name) is not source and (reader := self._readers.pop(name, None)) is not None:
                reader.cancel()
        self._issuers, self._sources = issuers, sources
        self._tokens.trust(issuers, sources)
        for name, source in sources.items():
            if name not in self._readers:
                self._readers[name] = asyncio.get_running_loop().create_task(source.run(), name=f"keys of {name}")

    def _follow(self, rules: Rules) -> None:
        if self._certificates is not None:
            self._certificates.follow(rules)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work, name=name))


def _keys_of(issuer: Issuer) -> tuple[object, ...]:
    """What of an issuer's settings its keys depend on."""
    return issuer.keys, issuer.keys_ca, issuer.algorithms, issuer.refresh, issuer.keep_keys


def _source(issuer: Issuer, tokens: TokenScope) -> KeySource:
    place: Place = KeyUrl(issuer.keys, ca=issuer.keys_ca) if issuer.is_remote else KeyFile(Path(issuer.keys))
    refresh = seconds(issuer.refresh)
    return KeySource(
        issuer.issuer,
        place,
        issuer.algorithms,
        # A file costs nothing to look at.
        refresh=refresh if issuer.is_remote else min(refresh, LOOK_EVERY),
        keep=seconds(issuer.keep_keys),
        gone=tokens.key_gone,
    )
