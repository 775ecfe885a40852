"""Callers with tokens, for the layers "jwt" and "jwt-new": an issuer's files, and what its callers send."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.tokens import TokenIssuer


@dataclass(frozen=True, slots=True)
class Callers:
    """How a gateway knows them, and what they send."""

    environment: Mapping[str, str]
    """Of the gateway."""
    tokens: Path
    """A token a line, which calls take in turn."""


@contextmanager
def callers(tenant: str, count: int) -> Iterator[Callers]:
    """So many tokens of one tenant, each of another subject; RS256 with a key of 2,048 bits.

    Args:
        tenant: Whose all are.
        count: Above the number of tokens that a gateway remembers, each is new to it whenever it comes.
    """
    issuer = TokenIssuer()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        file = issuer.write(folder)
        ends = int(time.time()) + 24 * 3600
        lines = [issuer.token(tenant=tenant, sub=f"caller-{number}", exp=ends) for number in range(count)]
        tokens = folder / "tokens"
        tokens.write_text("\n".join(lines))
        yield Callers({"ROWCALL_IDENTITY": "jwt", "ROWCALL_ISSUERS": str(file)}, tokens)
