"""Finds the migrations that this release brings, in the order they are applied. Called by the runner and the check."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final, Literal, get_args

Kind = Literal["catalogue", "shard"]
"""What a database is."""
Phase = Literal["pre", "post"]
"""Before the new release of the services runs, or after the old one is gone."""

NO_TRANSACTION: Final = "-- rowcall: no-transaction"
"""The first line of a file that Postgres does not run in a transaction (create index concurrently): one statement."""

VERSIONS: Final[Mapping[Kind, tuple[int, ...]]] = MappingProxyType({"catalogue": (2,), "shard": (14,)})
"""The schema's versions: for each, from 1, the number of its last file. A release that brings files adds an element."""

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    kind: Kind
    """What it is applied to."""
    phase: Phase
    """When it is applied."""
    number: int
    """Counts through both phases of a kind; the order of application within a phase."""
    name: str
    """What it is recorded under: "pre/0001_roles"."""
    text: str
    """The SQL."""

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def version(self) -> int:
        """The version of the schema that it belongs to, from 1."""
        return bisect_left(VERSIONS[self.kind], self.number) + 1

    @property
    def in_transaction(self) -> bool:
        """Whether it runs in one transaction with the record of it."""
        return not self.text.startswith(NO_TRANSACTION)


def discover(kind: Kind, root: Traversable | None = None) -> list[Migration]:
    """The migrations of a kind of database: all of `pre`, then all of `post`, each by number.

    Args:
        kind: What the database is.
        root: Where to look; None: in this package.

    Raises:
        ValueError: A file's name is not NNNN_name.sql, or its number is there twice.
    """
    base = files("rowcall.migrations") if root is None else root
    found: list[Migration] = []
    for phase in get_args(Phase):
        folder = base.joinpath(kind, phase)
        if not folder.is_dir():
            continue
        for file in sorted(folder.iterdir(), key=lambda each: each.name):
            match = _FILE.fullmatch(file.name)
            if match is None:
                raise ValueError(f"{kind}/{phase}/{file.name} is not named NNNN_name.sql")
            name = f"{phase}/{file.name.removesuffix('.sql')}"
            found.append(Migration(kind, phase, int(match[1]), name, file.read_text(encoding="utf-8")))
    numbers = [each.number for each in found]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise ValueError(f"{kind} has several migrations with the number {', '.join(map(str, twice))}")
    return found
