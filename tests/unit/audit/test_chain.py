"""A chain of entries held against what it must be: each thing that somebody with the database's password could do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rowcall.audit.chain import BEGINNING, ERASE, FaultKind, Walk, digest, link_hash
from rowcall.audit.model import Act, Checkpoint, Content, Link
from rowcall.audit.signing import is_signed, read_key, sign

AT = datetime(2031, 5, 4, 13, 30, 0, 123456, tzinfo=UTC)
KEY = b"k" * 32


def content(number: int, **changes: object) -> Content:
    made = Content(
        at=AT + timedelta(seconds=number),
        actor="ada",
        credential=None,
        roles="operator",
        action="job.cancel",
        target=f"tenants/acme/operations/{number}",
        before='{"state": "READY"}',
        after='{"state": "CANCELLED"}',
        reason=None,
        trace_id="0" * 32,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def chained(contents: Sequence[Content], tenant: str = "acme") -> list[Link]:
    """A chain, as the sealer makes it."""
    links: list[Link] = []
    before = BEGINNING
    for place, each in enumerate(contents, start=1):
        own = digest(tenant, each)
        before = link_hash(before, place, own)
        links.append(Link(place, own, before, erased=False, content=each))
    return links


CHAIN = chained([content(number) for number in range(1, 8)])


def faults(links: Sequence[Link]) -> list[tuple[FaultKind, int]]:
    return [(fault.kind, fault.place) for fault in Walk("acme").over(links)]


def test_a_chain_that_nobody_touched_has_no_fault() -> None:
    walk = Walk("acme")
    assert list(walk.over(CHAIN)) == []
    assert (walk.place, walk.hash) == (7, CHAIN[-1].hash)


def test_it_is_followed_in_pieces_as_in_one() -> None:
    walk = Walk("acme")
    assert list(walk.over(CHAIN[:3])) == []
    behind = Walk("acme", place=walk.place, hash_=walk.hash)
    assert list(behind.over(CHAIN[3:])) == []
    assert behind.hash == CHAIN[-1].hash


@pytest.mark.parametrize(
    "changed",
    [
        {"at": AT},
        {"actor": "bob"},
        {"actor": None},
        {"credential": "jwt"},
        {"roles": "admin"},
        {"action": "job.retry"},
        {"target": "tenants/acme/operations/9"},
        {"before": None},
        {"after": "{}"},
        {"reason": ""},
        {"trace_id": "1" * 32},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_entry_that_was_changed_is_found_whatever_of_it_was(changed: dict[str, object]) -> None:
    links = [*CHAIN[:2], replace(CHAIN[2], content=content(3, **changed)), *CHAIN[3:]]
    assert faults(links) == [(FaultKind.CHANGED, 3)]


def test_no_two_contents_say_the_same() -> None:
    """What is in one field is not taken for what is in two."""
    one, two = content(1, actor="a", credential="b"), content(1, actor="a;1:b", credential=None)
    assert digest("acme", one) != digest("acme", two)
    assert digest("acme", content(1, reason=None)) != digest("acme", content(1, reason="-"))
    assert digest("acme", content(1)) != digest("bolt", content(1)), "one tenant's entry is no other's"


def test_an_entry_that_is_gone_is_found() -> None:
    links = [*CHAIN[:2], replace(CHAIN[2], content=None), *CHAIN[3:]]
    assert faults(links) == [(FaultKind.MISSING, 3)]


def erasing(after: str | None, action: str = ERASE) -> Content:
    return content(9, action=action, after=after)


def test_an_entry_that_was_erased_on_purpose_leaves_the_chain_whole() -> None:
    links = [*CHAIN[:2], replace(CHAIN[2], content=None, erased=True), *CHAIN[3:]]
    walk = Walk("acme", erasures=[erasing('{"places": [[7, 9], [1, 3]], "count": 6}')])
    assert list(walk.over(links)) == []
    assert walk.erased == 1


@pytest.mark.parametrize(
    "said",
    [
        erasing('{"places": [[1, 2], [4, 5]]}'),
        erasing('{"places": [[3, 3]]}', action="job.cancel"),
        erasing('{"places": [[3]]}'),
        erasing('{"places": [["3", "3"]]}'),
        erasing('{"places": 3}'),
        erasing("[3]"),
        erasing("no JSON"),
        erasing(None),
    ],
)
def test_one_that_is_marked_as_erased_and_no_entry_says_so_is_missing(said: Content) -> None:
    links = [*CHAIN[:2], replace(CHAIN[2], content=None, erased=True), *CHAIN[3:]]
    assert [(fault.kind, fault.place) for fault in Walk("acme", erasures=[said]).over(links)] == [
        (FaultKind.MISSING, 3)
    ]


def test_places_that_are_gone_are_found() -> None:
    assert faults([*CHAIN[:2], *CHAIN[4:]]) == [(FaultKind.MISSING, 3)]
    assert faults(CHAIN[3:]) == [(FaultKind.MISSING, 1)]


def test_an_entry_that_was_put_in_with_a_place_is_found() -> None:
    """Those behind it are moved on, and their hashes left as they are."""
    extra = content(99)
    own = digest("acme", extra)
    put = Link(3, own, link_hash(CHAIN[1].hash, 3, own), erased=False, content=extra)
    moved = [replace(link, place=link.place + 1) for link in CHAIN[2:]]
    assert (FaultKind.REHASHED, 4) in faults([*CHAIN[:2], put, *moved])


def test_a_digest_that_was_made_anew_for_a_changed_entry_is_found() -> None:
    other = content(3, actor="bob")
    links = [*CHAIN[:2], replace(CHAIN[2], content=other, digest=digest("acme", other)), *CHAIN[3:]]
    assert faults(links) == [(FaultKind.REHASHED, 3)]


def test_a_hash_that_was_made_anew_too_is_found_at_the_next_place() -> None:
    other = content(3, actor="bob")
    own = digest("acme", other)
    links = [*CHAIN[:2], Link(3, own, link_hash(CHAIN[1].hash, 3, own), erased=False, content=other), *CHAIN[3:]]
    assert faults(links) == [(FaultKind.REHASHED, 4)]


def test_a_checkpoint_is_signed_by_who_has_the_key_for_just_what_it_says() -> None:
    good = Checkpoint(7, CHAIN[-1].hash, AT, sign(KEY, "acme", 7, CHAIN[-1].hash, AT))
    assert is_signed(KEY, "acme", good)
    for key, tenant, at in (
        (b"x" * 32, "acme", good),
        (KEY, "bolt", good),
        (KEY, "acme", replace(good, place=6)),
        (KEY, "acme", replace(good, hash=CHAIN[-2].hash)),
        (KEY, "acme", replace(good, made_at=AT + timedelta(microseconds=1))),
    ):
        assert not is_signed(key, tenant, at)


def test_a_key_that_is_too_short_or_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_key(tmp_path / "none")
    short = tmp_path / "short"
    short.write_text("secret\n")
    with pytest.raises(ValueError, match="6 bytes; it must have 32"):
        read_key(short)
    short.write_bytes(b"a" * 64 + b"\n")
    assert read_key(short) == b"a" * 64


def test_an_act_says_only_what_is_known() -> None:
    assert Act().json() == "{}"
    assert Act(actor="ada", roles=("viewer", "admin")).json() == '{"actor": "ada", "roles": "admin,viewer"}'
