"""What was revoked, as a gateway knows it: kept while the catalogue is away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rowcall.sharding.faults import catalogue_unavailable
from rowcall_gateway.edge.credentials.revocations import LOOK_EVERY, Revocations


@dataclass
class Revoked:
    issuer: str
    subject: str
    before: float
    number: int


class Catalogue:
    def __init__(self) -> None:
        self.rows: list[Revoked] = []
        self.away = False
        self.asked: list[int] = []

    async def read(self, number: int) -> Sequence[Revoked]:
        self.asked.append(number)
        if self.away:
            raise catalogue_unavailable("")
        return [row for row in self.rows if row.number > number]


async def test_what_was_revoked_is_known_once_it_was_read_and_stays_known() -> None:
    catalogue, told = Catalogue(), list[tuple[str, str]]()
    known = Revocations(catalogue.read, lambda issuer, subject: told.append((issuer, subject)))
    assert not known.covers("idp", "ada", 0)
    catalogue.rows.append(Revoked("idp", "ada", 100.0, 1))
    await known.look()
    assert [known.covers("idp", "ada", at) for at in (99.9, 100.0)] == [True, False]
    assert not known.covers("idp", "bob", 0)
    assert not known.covers("other", "ada", 0)
    catalogue.away = True
    await known.look()
    assert known.covers("idp", "ada", 99.9)
    catalogue.away = False
    catalogue.rows.append(Revoked("idp", "ada", 200.0, 2))
    await known.look()
    assert known.covers("idp", "ada", 199.0)
    assert told == [("idp", "ada"), ("idp", "ada")]
    assert catalogue.asked == [0, 1, 1], "only what is new is read"


def test_two_looks_are_within_the_two_seconds_that_were_promised() -> None:
    assert 2 * LOOK_EVERY <= 2
