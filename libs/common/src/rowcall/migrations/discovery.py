"""Finds the migrations that this release brings, in the order they are applied. Called by the runner and the check."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, Literal, get_args

Kind = Literal["catalogue", "shard"]
"""What a database is."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Every kind."""
Phase = Literal["pre", "post"]
"""Before the new release of the services runs, or after the old one is gone."""

NO_TRANSACTION: Final = "-- rowcall: no-transaction"
"""The first line of a file that Postgres does not run in a transaction (create index concurrently): one statement."""

VERSIONS: Final = "versions.txt"
"""Beside `pre` and `post`: for each version of the schema, from 1, the number of its last file, a line each. A release
that brings files adds a line."""

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
    """What it is recorded under: "pre/0001_schema"."""
    text: str
    """The SQL."""
    version: int = 1
    """The version of the schema that it belongs to, from 1."""

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def in_transaction(self) -> bool:
        """Whether it runs in one transaction with the record of it."""
        return not self.text.startswith(NO_TRANSACTION)


def discover(kind: Kind, root: Traversable | None = None) -> list[Migration]:
    """The migrations of a kind of database: all of `pre`, then all of `post`, each by number.

    Args:
        kind: What the database is.
        root: Where to look, for another release's; None: in this package.

    Raises:
        ValueError: A file's name is not NNNN_name.sql, its number is there twice, or it belongs to no version.
    """
    base = (files("rowcall.migrations") if root is None else root).joinpath(kind)
    found: list[Migration] = []
    for phase in get_args(Phase):
        folder = base.joinpath(phase)
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
    last = _last_numbers(kind, base) if found else []
    beyond = [each.name for each in found if each.number > last[-1]]
    if beyond:
        raise ValueError(f"{', '.join(beyond)}: of no version. {kind}/{VERSIONS} ends with {last[-1]}.")
    return [replace(each, version=bisect_left(last, each.number) + 1) for each in found]


def newest(migrations: Sequence[Migration]) -> int:
    """The schema's version that the release with these migrations is written for, from 1; 0 if there are none."""
    return max((each.version for each in migrations), default=0)


def _last_numbers(kind: Kind, base: Traversable) -> list[int]:
    """The number of each version's last file."""
    lines = base.joinpath(VERSIONS).read_text(encoding="utf-8").split()
    if not lines or not all(line.isdecimal() for line in lines):
        raise ValueError(f"{kind}/{VERSIONS} is not a number a line")
    last = [int(line) for line in lines]
    if last != sorted(set(last)):
        raise ValueError(f"{kind}/{VERSIONS} does not count upwards")
    return last
