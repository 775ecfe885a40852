"""The keys of one issuer, kept fresh: read ahead of time, kept while they cannot be read, asked for once where one is missing.

Made by `opening`, asked by `tokens`. Whoever sends garbage must not have us ask its issuer for each piece of it: for keys that
are not known there is one fetch in COOLDOWN, a key that was not there is not asked for again soon, and as many as come wait
for the one fetch that is under way.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import structlog

from rowcall_gateway.edge.credentials.fetching import Place
from rowcall_gateway.edge.credentials.jwks import Key, Keys, read_keys
from rowcall_gateway.edge.credentials.refusals import Problem, keys_unavailable, token_invalid

COOLDOWN: Final = 30.0
"""Seconds between two fetches for keys that are not known."""

UNKNOWN_FOR: Final = 300.0
"""Seconds for which a key that was not there is not asked for again."""

MAX_UNKNOWN: Final = 1000
"""Names of keys that are remembered as not there."""

MAX_WAITING: Final = 1000
"""Calls that wait for one fetch."""

_FIRST_RETRY: Final = 1.0
"""Seconds after which a fetch that failed is tried again, while there are no keys at all; doubling, up to COOLDOWN."""

_log = structlog.get_logger(__name__)


class KeySource:
    """An issuer's keys."""

    def __init__(
        self,
        issuer: str,
        place: Place,
        algorithms: Sequence[str],
        *,
        refresh: float,
        keep: float,
        gone: Callable[[frozenset[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            issuer: Whose keys they are, for the log and for callers.
            place: Where they are.
            algorithms: What they may sign with.
            refresh: Seconds after which they are read again.
            keep: Seconds for which they are used when they cannot be read any more.
            gone: Is told the thumbprints of keys that are not its any more.
            clock: Seconds.
        """
        self._issuer = issuer
        self._place = place
        self._algorithms = algorithms
        self._refresh = refresh
        self._keep = keep
        self._gone = gone
        self._clock = clock
        self._keys = Keys(())
        self._document = b""
        self._read_at: float | None = None
        self._failed: str | None = None
        self._tried = False
        self._fetching: asyncio.Task[bool] | None = None
        self._asked_at: float | None = None
        self._unknown: dict[str, float] = {}
        self._waiting = 0

    async def run(self) -> None:
        """Keeps them fresh, until it is cancelled."""
        failures = 0
        while True:
            failures = 0 if await self.fetch() else failures + 1
            await asyncio.sleep(self._pause(failures))
            self._forget_old()

    def _pause(self, failures: int) -> float:
        if not failures:
            # Not all gateways at the same moment, and never later than was said.
            return self._refresh * random.uniform(0.8, 1.0)  # noqa: S311 - no secret
        longest = min(self._refresh, COOLDOWN)
        return longest if len(self._keys) else min(_FIRST_RETRY * 2.0 ** min(failures - 1, 10), longest)

    async def fetch(self) -> bool:
        """Reads them now, or waits for whoever does; whether that went well."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch(), name=f"keys of {self._issuer}")
        # Whoever began it may leave: others wait for it too.
        return await asyncio.shield(self._fetching)

    async def close(self) -> None:
        """Ends a fetch that is under way."""
        task = self._fetching
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def known(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that are known and fit."""
        self._forget_old()
        return self._keys.find(kid, algorithm)

    def has(self, thumbprint: str) -> bool:
        """Whether a key is still its."""
        self._forget_old()
        return thumbprint in self._keys.thumbprints

    async def ask(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that fit, after looking whether there are new ones, if that may be done now.

        Raises:
            RowcallError: KEYS_UNAVAILABLE where there are none at all; TOKEN_INVALID where none fits.
        """
        name = kid or ""
        if self._fetching is not None or not self._tried:
            await self._wait()
        elif self._read_at is not None and self._may_ask(name):
            self._asked_at = self._clock()
            if await self._wait() and not self._keys.find(kid, algorithm):
                self._remember(name)
        found = self.known(kid, algorithm)
        if found:
            return found
        if not len(self._keys):
            raise keys_unavailable(self._issuer)
        raise token_invalid(
            Problem.KEY,
            "is signed with a key that its issuer does not publish, or not for that algorithm",
            retry_after=self._again_in(name),
        )

    async def _wait(self) -> bool:
        if self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            return await self.fetch()
        finally:
            self._waiting -= 1

    def _may_ask(self, name: str) -> bool:
        now = self._clock()
        if self._asked_at is not None and now - self._asked_at < COOLDOWN:
            return False
        return now - self._unknown.get(name, -math.inf) >= UNKNOWN_FOR

    def _again_in(self, name: str) -> timedelta | None:
        """When it may be asked for; None where it was, and is not there."""
        if name in self._unknown or self._asked_at is None:
            return None
        return timedelta(seconds=max(COOLDOWN - (self._clock() - self._asked_at), 0.1))

    def _remember(self, name: str) -> None:
        """Remembers that a key was not there when they were read just now."""
        self._unknown.pop(name, None)
        self._unknown[name] = self._clock()
        while len(self._unknown) > MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]

    async def _fetch(self) -> bool:
        self._tried = True
        try:
            document = await self._place.read()
            if document != self._document:
                self._take(document)
                self._document = document
            self._read_at = self._clock()
        except (OSError, ValueError, RuntimeError) as error:
            self._tell(str(error))
            return False
        else:
            if self._failed is not None:
                self._failed = None
                _log.info("keys are read again", issuer=self._issuer)
            return True
        finally:
            self._fetching = None

    def _take(self, document: bytes) -> None:
        before = self._keys.thumbprints
        read = read_keys(document, self._algorithms)
        self._keys = read.keys
        now = self._keys.thumbprints
        if now != before:
            _log.info("keys", issuer=self._issuer, keys=len(read.keys), left_out=list(read.left_out))
        if before - now:
            self._gone(before - now)

    def _forget_old(self) -> None:
        if self._read_at is not None and len(self._keys) and self._clock() - self._read_at > self._keep:
            _log.error("keys are too old to be used, and cannot be read", issuer=self._issuer, error=self._failed)
            gone, self._keys, self._document = self._keys.thumbprints, Keys(()), b""
            self._gone(gone)

    def _tell(self, error: str) -> None:
        if error != self._failed:
            self._failed = error
            _log.warning(
                "keys cannot be read",
                issuer=self._issuer,
                error=error,
                kept=len(self._keys),
                kept_for_s=None if self._read_at is None else round(self._keep - (self._clock() - self._read_at)),
            )
