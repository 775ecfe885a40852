"""`rowcall migrate` on real databases, as an operator runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rowcall.migrations import discover
from tests.fix_commands import Ran, Running
from tests.fix_pooler import PASSWORD

Rowcall = Callable[..., Ran]


@pytest.fixture
def settings(database: Callable[[], str]) -> dict[str, str]:
    """An empty catalogue and two empty shards, as environment variables."""
    return {"ROWCALL_CATALOGUE": database(), "ROWCALL_SHARDS": json.dumps({"a": database(), "b": database()})}


def names(kind: str, phase: str = "") -> list[str]:
    found = discover("catalogue") if kind == "catalogue" else discover("shard")
    return [migration.name for migration in found if migration.name.startswith(phase)]


def test_it_migrates_the_catalogue_and_every_shard(rowcall: Rowcall, settings: dict[str, str]) -> None:
    ran = rowcall("migrate", "--json", **settings)

    assert ran.code == 0, ran.err
    assert ran.json == {
        "databases": [
            {"kind": "catalogue", "applied": names("catalogue")},
            {"kind": "shard", "shard": "a", "applied": names("shard")},
            {"kind": "shard", "shard": "b", "applied": names("shard")},
        ]
    }
    for shard, dsn in json.loads(settings["ROWCALL_SHARDS"]).items():
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select shard from rowcall.shard_info").fetchall() == [(shard,)]
            assert connection.execute("select count(*) from rowcall.jobs").fetchall() == [(0,)]


def test_a_second_run_applies_nothing(rowcall: Rowcall, settings: dict[str, str]) -> None:
    rowcall("migrate", **settings)

    ran = rowcall("migrate", "--json", **settings)

    assert ran.code == 0
    assert [database["applied"] for database in ran.json["databases"]] == [[], [], []]
    assert "shard b: up to date" in ran.err


def test_the_status_says_what_is_pending(rowcall: Rowcall, settings: dict[str, str]) -> None:
    before = rowcall("migrate", "--status", "--json", **settings)
    assert before.code == 1
    assert {one["state"] for database in before.json["databases"] for one in database["migrations"]} == {"pending"}

    rowcall("migrate", **settings)

    after = rowcall("migrate", "--status", "--json", **settings)
    assert after.code == 0, after.err
    assert [one["name"] for one in after.json["databases"][1]["migrations"]] == names("shard")
    assert {one["state"] for database in after.json["databases"] for one in database["migrations"]} == {"applied"}
    shown = rowcall("migrate", "--status", **settings)
    assert f"shard a    {names('shard')[0]}" in shown.out


def test_the_phases_are_applied_apart(rowcall: Rowcall, settings: dict[str, str]) -> None:
    assert rowcall("migrate", "--phase", "pre", **settings).code == 0

    assert rowcall("migrate", "--status", "--phase", "pre", **settings).code == 0
    post = rowcall("migrate", "--phase", "post", "--json", **settings)
    assert post.code == 0
    assert [database["applied"] for database in post.json["databases"]] == [
        names("catalogue", "post"),
        names("shard", "post"),
        names("shard", "post"),
    ]


def test_flags_go_before_the_environment(
    rowcall: Rowcall, settings: dict[str, str], database: Callable[[], str]
) -> None:
    ran = rowcall("migrate", "--shard", f"only={database()}", "--json", **settings)

    assert ran.code == 0, ran.err
    assert [one.get("shard") for one in ran.json["databases"]] == [None, "only"]


def test_missing_and_wrong_settings_are_all_named(rowcall: Rowcall) -> None:
    ran = rowcall("migrate", "--shard", "A=postgresql://x:secret@y/z")

    assert ran.code == 2
    assert "ROWCALL_CATALOGUE (--catalogue) is not set" in ran.err
    assert "'A'" in ran.err
    assert "secret" not in ran.err + ran.out


def test_through_a_transaction_pooler_it_is_refused_and_status_is_shown(
    rowcall: Rowcall, settings: dict[str, str]
) -> None:
    pooled = {**settings, "ROWCALL_TRANSACTION_POOLER": "true"}

    refused = rowcall("migrate", **pooled)

    assert refused.code == 2
    assert "set ROWCALL_TRANSACTION_POOLER=false for this command" in refused.err
    shown = rowcall("migrate", "--status", "--json", **pooled)
    assert {one["state"] for database in shown.json["databases"] for one in database["migrations"]} == {"pending"}


def test_an_unreachable_database_is_named_without_its_password(rowcall: Rowcall, settings: dict[str, str]) -> None:
    shards = json.loads(settings["ROWCALL_SHARDS"])
    password = urlsplit(shards["b"]).password or ""
    assert password
    shards["b"] = shards["b"].replace(f":{urlsplit(shards['b']).port}/", ":1/")

    ran = rowcall("migrate", **{**settings, "ROWCALL_SHARDS": json.dumps(shards)})

    assert ran.code == 3
    assert "shard b: The database cannot be reached" in ran.err
    assert "Done before it: catalogue, shard a" in ran.err
    assert password not in ran.err
    assert "Traceback" not in ran.err


def test_a_run_waits_for_another_and_says_so(running: Callable[..., Running], settings: dict[str, str]) -> None:
    with psycopg.connect(settings["ROWCALL_CATALOGUE"], autocommit=True) as other:
        other.execute("select pg_advisory_lock(hashtextextended('rowcall.migrations', 0))")
        waiting = running("migrate", **settings)
        waiting.says("catalogue: waiting for another migration of this database")
        assert waiting.process.poll() is None

    assert waiting.wait() == 0


def test_the_exit_code_is_the_process_s(rowcall_process: Rowcall, settings: dict[str, str]) -> None:
    assert rowcall_process("migrate", "--status", **settings).code == 1
    assert rowcall_process("migrate", **settings).code == 0
    assert rowcall_process("migrate", "--status", **settings).code == 0
    assert rowcall_process("migrate").code == 2


def as_nobody(settings: dict[str, str]) -> dict[str, str]:
    """The same databases, as a login that was granted nothing."""

    def dsn(direct: str) -> str:
        return make_conninfo(direct, user="test_nobody", password=PASSWORD)

    shards = {name: dsn(each) for name, each in json.loads(settings["ROWCALL_SHARDS"]).items()}
    return {"ROWCALL_CATALOGUE": dsn(settings["ROWCALL_CATALOGUE"]), "ROWCALL_SHARDS": json.dumps(shards)}


def test_the_roles_are_printed_without_a_connection_and_without_a_password(rowcall: Rowcall) -> None:
    ran = rowcall(
        "migrate",
        "--roles=print",
        "--catalogue",
        "postgresql://app:s3cret@127.0.0.1:1/c",
        "--shard",
        "a=host=db user=app",
    )
    assert (ran.code, ran.err) == (0, "")
    assert "--   127.0.0.1, port 1: catalogue" in ran.out
    assert 'grant rowcall_owner to "app";' in ran.out
    assert "'rowcall_owner',\n    'rowcall_gateway'" in ran.out
    assert "s3cret" not in ran.out


def test_what_roles_lack_is_said_and_nothing_changed(
    rowcall: Rowcall, settings: dict[str, str], queue_roles: None
) -> None:
    fine = rowcall("migrate", "--roles=check", **settings)
    assert fine.code == 0, fine.err
    assert "shard b: nothing is lacking" in fine.err

    lacking = rowcall("migrate", "--roles=check", "--json", **as_nobody(settings))
    assert lacking.code == 1
    assert [(one["kind"], one["login"], one["missing"]) for one in lacking.json["databases"]] == [
        ("catalogue", "test_nobody", []),
        ("shard", "test_nobody", []),
        ("shard", "test_nobody", []),
    ]
    for one in lacking.json["databases"]:
        assert ["does not act as rowcall_owner" in one["lacking"][0], "may not make schemas" in one["lacking"][1]] == [
            True
        ] * 2
    refused = rowcall("migrate", **as_nobody(settings))
    assert refused.code == 1
    for sentence in lacking.json["databases"][0]["lacking"]:
        assert sentence in refused.err
    assert rowcall("migrate", "--status", **settings).code == 1, "nothing was applied"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--roles=print", "--status"], "--roles print goes without --status and --phase."),
        (["--roles=check", "--phase=pre"], "--roles check goes without --status and --phase."),
        (["--roles=print", "--json"], "goes without --json"),
        (["--roles=print"], "ROWCALL_CATALOGUE (--catalogue) is not set"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(rowcall: Rowcall, flags: list[str], said: str) -> None:
    ran = rowcall("migrate", *flags)
    assert ran.code == 2
    assert said in ran.err
