"""Which migrations there are, and what a service makes of what a database has."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rowcall.migrations import Kind, MigrationError, discover
from rowcall.migrations.compatibility import incompatibility
from rowcall.migrations.discovery import KINDS, NO_TRANSACTION, VERSIONS, Migration, newest
from rowcall.migrations.record import Applied
from rowcall.migrations.server import check_version
from tests.support.places import ROOT

PACKAGE = ROOT / "libs/common/src/rowcall/migrations"


def written(folder: Path, *names: str, versions: str = "9\n") -> Path:
    """A folder with these files."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / VERSIONS).write_text(versions)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"select '{name}'")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_this_release_are_numbered_without_gaps_and_belong_to_a_version(kind: Kind) -> None:
    found = discover(kind)
    assert sorted(each.number for each in found) == list(range(1, len(found) + 1))
    assert (PACKAGE / kind / VERSIONS).read_text().split()[-1] == str(len(found)), (
        "a release that brings files adds a line"
    )
    assert [each.version for each in found if each.phase == "pre"] == sorted(
        each.version for each in found if each.phase == "pre"
    )


def test_pre_comes_before_post_and_each_by_number(tmp_path: Path) -> None:
    root = written(tmp_path, "shard/post/0002_drop.sql", "shard/pre/0003_more.sql", "shard/pre/0001_first.sql")
    assert [each.name for each in discover("shard", root)] == ["pre/0001_first", "pre/0003_more", "post/0002_drop"]
    assert discover("catalogue", root) == []


def test_a_file_belongs_to_the_first_version_that_reaches_to_it(tmp_path: Path) -> None:
    root = written(
        tmp_path, "shard/pre/0001_a.sql", "shard/pre/0002_b.sql", "shard/post/0003_c.sql", "shard/pre/0004_d.sql",
        versions="1\n3\n4\n",
    )  # fmt: skip
    found = discover("shard", root)
    assert {each.name: each.version for each in found} == {
        "pre/0001_a": 1, "pre/0002_b": 2, "post/0003_c": 2, "pre/0004_d": 3,
    }  # fmt: skip
    assert (newest(found), newest([])) == (3, 0)


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ("1\n", "pre/0002_b: of no version"),
        ("", "not a number a line"),
        ("1\ntwo\n", "not a number a line"),
        ("2\n1\n", "does not count upwards"),
    ],
)
def test_versions_that_cannot_be_are_an_error(tmp_path: Path, versions: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        discover("shard", written(tmp_path, "shard/pre/0001_a.sql", "shard/pre/0002_b.sql", versions=versions))


@pytest.mark.parametrize("name", ["shard/pre/1_short.sql", "shard/pre/0001-dash.sql", "shard/post/notes.txt"])
def test_a_file_that_would_be_passed_over_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"not named NNNN_name\.sql"):
        discover("shard", written(tmp_path, name))


def test_a_number_is_used_once(tmp_path: Path) -> None:
    root = written(tmp_path, "shard/pre/0001_a.sql", "shard/post/0001_b.sql")
    with pytest.raises(ValueError, match="number 1"):
        discover("shard", root)


def test_the_first_line_may_keep_a_file_out_of_a_transaction() -> None:
    assert Migration("shard", "pre", 1, "pre/0001_a", "select 1").in_transaction
    assert not Migration("shard", "pre", 1, "pre/0001_a", f"{NO_TRANSACTION}\nselect 1").in_transaction


@pytest.mark.parametrize("version", [140012, 130000, 90624])
def test_an_old_postgres_is_refused(version: int) -> None:
    with pytest.raises(MigrationError, match="Rowcall needs 15 or newer"):
        check_version(version)


@pytest.mark.parametrize("version", [150000, 150013, 180006, 190000])
def test_the_supported_ones_are_not(version: int) -> None:
    check_version(version)


def applied(kind: Kind) -> dict[str, Applied]:
    """What a database has that this release has migrated."""
    now = datetime.now(UTC)
    return {each.name: Applied(each.name, each.version, each.checksum, now) for each in discover(kind)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_runs_with_its_own_schema_and_the_next_and_refuses_beyond(kind: Kind) -> None:
    own = newest(discover(kind))
    there = applied(kind)
    assert incompatibility(kind, there) is None
    later = replace(next(iter(there.values())), name="pre/9999_later")
    assert incompatibility(kind, {**there, "later": replace(later, version=own + 1)}) is None
    problem = incompatibility(kind, {**there, "later": replace(later, version=own + 2)})
    assert problem is not None
    assert "Upgrade this service" in problem


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_refuses_what_a_newer_release_has_taken_things_from(kind: Kind) -> None:
    there = applied(kind)
    first = next(iter(there.values()))
    own = newest(discover(kind))
    gone = replace(first, name="post/9999_gone", version=own + 1)
    problem = incompatibility(kind, {**there, gone.name: gone})
    assert problem is not None
    assert "post/9999_gone took away what version 1 of the schema has" in problem
    assert "Upgrade this service" in problem
    assert incompatibility(kind, {**there, gone.name: replace(gone, version=own)}) is None, "of its own it has no need"


def test_a_service_starts_on_the_version_before_its_own_and_needs_that_in_full() -> None:
    there = applied("shard")
    own = newest(discover("shard"))
    next_one = [*discover("shard"), Migration("shard", "pre", 9999, "pre/9999_next", "select 1", own + 1)]
    assert incompatibility("shard", there, next_one) is None
    problem = incompatibility("shard", dict(list(there.items())[:-1]), next_one)
    assert problem is not None
    assert "rowcall migrate" in problem
    after_next = [*next_one, Migration("shard", "pre", 10000, "pre/10000_after", "select 1", own + 2)]
    problem = incompatibility("shard", there, after_next)
    assert problem is not None
    assert "pre/9999_next were not applied" in problem


@pytest.mark.parametrize(("kind", "other"), [("catalogue", "shard"), ("shard", "catalogue")])
def test_a_service_is_told_of_a_database_that_is_something_else(kind: Kind, other: Kind) -> None:
    problem = incompatibility(kind, applied(other))
    assert problem is not None
    assert f"it is a {other}" in problem


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_refuses_a_database_that_lacks_what_it_needs(kind: Kind) -> None:
    for there in ({}, dict(list(applied(kind).items())[:-1])):
        problem = incompatibility(kind, there)
        assert problem is not None
        assert "rowcall migrate" in problem


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_depends_on_how_its_callers_session_reads_a_backslash(kind: Kind) -> None:
    """A function's body is read in the session that calls it first: '\\d' is 'd' where standard_conforming_strings is off."""
    assert [each.name for each in discover(kind) if "\\" in each.text] == []
