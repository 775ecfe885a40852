"""Connection strings: what of them is told at the start, what is shown of them, and where a password in a file goes along."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from rowcall.settings import ClusterSettings, Dsn, SettingsError, parse_dsn, read_settings, unverified_hosts
from rowcall.settings.dsn import same_database, with_password_file

MARKER = "geheim-4111"
FILE = Path("/run/secrets/password")
VERIFIED = "sslmode=verify-full"


def refusal(text: str) -> str:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_dsn(text)
    return str(refused.value)


@pytest.mark.parametrize("text", [f"postgresql://me:{MARKER}@db/x", f"host=db password={MARKER} service=a dbname=x"])
def test_a_password_is_passed_on_and_never_shown(text: str) -> None:
    dsn = parse_dsn(text)

    assert MARKER not in f"{dsn} {dsn!r} {dsn!s:>10}"
    for kept in (
        dsn,
        Dsn(dsn),
        dsn.with_parameters({"application_name": "x"}),
        copy.deepcopy(dsn),
        pickle.loads(pickle.dumps(dsn)),
    ):
        assert MARKER not in f"{kept} {kept!r}"
        assert conninfo_to_dict(kept)["password"] == MARKER


def test_a_password_file_goes_along_with_its_string() -> None:
    dsn = with_password_file(parse_dsn("postgresql://me@db/x"), FILE)

    assert dsn.password_file == FILE
    changed = dsn.with_parameters({"application_name": "a b"})
    assert (changed.password_file, conninfo_to_dict(changed)["application_name"]) == (FILE, "a b")
    assert Dsn(changed).password_file == FILE
    assert parse_dsn("postgresql://me@db/x").password_file is None


@pytest.mark.parametrize("said", [f"password={MARKER}", "passfile=/home/me/.pgpass"])
def test_what_a_string_says_itself_of_the_password_stands(said: str) -> None:
    assert with_password_file(f"host=db dbname=x {said}", FILE).password_file is None


@pytest.mark.parametrize("key", ["passfile", "sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_a_file_that_cannot_be_read_is_told_of_at_the_start(key: str, tmp_path: Path) -> None:
    assert f"names what cannot be read: {key}='{tmp_path / 'none'}' (No such file" in refusal(
        f"postgresql://me:{MARKER}@db/x?{key}={tmp_path / 'none'}"
    )


def test_the_systems_roots_are_no_file() -> None:
    parse_dsn("postgresql://me@db/x?sslrootcert=system")


def test_a_password_file_that_libpq_would_ignore_is_refused(tmp_path: Path) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{MARKER}")
    passfile.chmod(0o640)
    said = refusal(f"postgresql://me@db/x?passfile={passfile}")
    assert "libpq ignores" in said
    assert "chmod 600" in said
    assert "ROWCALL_PASSWORD_FILE" in said
    assert MARKER not in said

    passfile.chmod(0o600)
    parse_dsn(f"postgresql://me@db/x?passfile={passfile}")


@pytest.mark.parametrize(
    ("text", "environment", "hosts"),
    [
        ("postgresql://me@db/x", {}, ["db"]),
        ("postgresql://me@db/x?sslmode=require", {}, ["db"]),
        ("postgresql://me@db/x?sslmode=verify-ca", {}, ["db"]),
        ("postgresql://me@one,two/x", {}, ["one", "two"]),
        (f"postgresql://me@one,two/x?{VERIFIED}", {}, []),
        ("postgresql://me@db/x", {"PGSSLMODE": "verify-full"}, []),
        ("postgresql://me@db/x?sslmode=prefer", {"PGSSLMODE": "verify-full"}, ["db"]),
        ("postgresql://me@db/x?sslrootcert=system", {}, []),
        ("dbname=x", {"PGHOST": "db"}, ["db"]),
        ("service=a", {}, ["service a"]),
        ("host=db hostaddr=10.0.0.1 dbname=x", {}, ["10.0.0.1"]),
        # Nothing of these leaves the machine.
        ("dbname=x", {}, []),
        ("host=/run/postgresql dbname=x", {}, []),
        ("postgresql://me@127.0.0.1/x", {}, []),
        ("postgresql://me@[::1]/x", {}, []),
        ("postgresql://me@localhost/x", {}, []),
    ],
)
def test_hosts_that_nobody_verifies_are_found(text: str, environment: dict[str, str], hosts: Sequence[str]) -> None:
    assert list(unverified_hosts(text, environment)) == hosts


def test_a_string_that_verifies_nobody_is_refused_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGHOST", "PGHOSTADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROWCALL_CATALOGUE", "postgresql://me@db.example/c")
    monkeypatch.setenv(
        "ROWCALL_SHARDS", f'{{"a": "postgresql://me@db.example/a?{VERIFIED}", "b": "postgresql://me@db.example/b"}}'
    )
    assert not read_settings(ClusterSettings, []).require_database_tls

    with pytest.raises(SettingsError) as refused:
        read_settings(ClusterSettings, ["--require-database-tls"])
    said = str(refused.value)
    assert "ROWCALL_REQUIRE_DATABASE_TLS (--require-database-tls) is set" in said
    assert "of the catalogue, shard 'b' does not verify" in said
    assert "sslmode=verify-full" in said


def test_services_of_different_names_are_different_databases() -> None:
    assert same_database("service=a", "service=a")
    assert not same_database("service=a", "service=b")
    assert str(parse_dsn("service=a")) == "postgresql:///?service=a"
