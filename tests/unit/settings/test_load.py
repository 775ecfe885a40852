"""Settings as a program reads them at its start: from environment and flags, and everything that is wrong at once."""

from __future__ import annotations

import enum
import os
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from rowcall.settings import ClusterSettings, Duration, SettingsError, load_settings, read_settings

CATALOGUE = "postgresql://rowcall:pa%25ss@db:5432/catalogue"
SHARD_A = "postgresql://rowcall:secret@db:5432/a"
SHARD_B = "host=db1,db2 port=5432,5433 user=rowcall password=se=cr,et dbname=b"
WHERE = ["--catalogue", CATALOGUE, "--shard", f"a={SHARD_A}"]


class Mode(enum.StrEnum):
    QUICK = "very-quick"
    SLOW = "slow"


class ProgramSettings(ClusterSettings):
    """What a program of ours is told."""

    program: ClassVar[str] = "rowcall-test"
    usage_example: ClassVar[str] = "rowcall-test --catalogue postgresql:///c --shard a=postgresql:///a"

    images: tuple[Path, ...] = Field(default=(), json_schema_extra={"flag": "image", "metavar": "FILE"})
    mode: Mode = Mode.SLOW
    patience: Duration = timedelta(days=7)
    limit: int = Field(default=5, ge=1, examples=["5"])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("ROWCALL_"):
            monkeypatch.delenv(name)


def wrong(*argv: str) -> dict[str, str]:
    """What is wrong with a start, by place."""
    with pytest.raises(SettingsError) as refusal:
        read_settings(ProgramSettings, argv)
    return {problem.where: problem.what for problem in refusal.value.problems}


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCALL_CATALOGUE", CATALOGUE)
    monkeypatch.setenv("ROWCALL_SHARDS", f'{{"a": "{SHARD_A}", "b": "{SHARD_B}"}}')
    monkeypatch.setenv("ROWCALL_PLACEMENT", '{"b": 0.5}')
    monkeypatch.setenv("ROWCALL_IMAGES", "one.binpb, two.binpb")
    monkeypatch.setenv("ROWCALL_HINTS", "off")
    monkeypatch.setenv("ROWCALL_POOL_TIMEOUT", "250ms")
    monkeypatch.setenv("ROWCALL_LIMIT", "")  # as compose leaves a variable that is not set
    settings = read_settings(ProgramSettings, [])
    assert settings.catalogue == CATALOGUE
    assert settings.shards == {"a": SHARD_A, "b": SHARD_B}
    assert settings.placement == {"b": 0.5}
    assert settings.images == (Path("one.binpb"), Path("two.binpb"))
    assert settings.hints is False
    assert settings.pool_timeout == timedelta(milliseconds=250)
    assert settings.limit == 5


def test_from_flags() -> None:
    settings = read_settings(
        ProgramSettings,
        [
            *WHERE,
            f"--shard=b={SHARD_B}",
            *("--place", "a=2", "--place", "b=0"),
            *("--image", "a,b.binpb", "--image=c.binpb"),
            *("--no-hints", "--transaction-pooler"),
            *("--pool-read", "7", "--mode", "very-quick", "--patience", "1h"),
        ],
    )
    assert settings.shards == {"a": SHARD_A, "b": SHARD_B}
    assert settings.placement == {"a": 2, "b": 0}
    assert settings.images == (Path("a,b.binpb"), Path("c.binpb"))
    assert (settings.hints, settings.transaction_pooler) == (False, True)
    assert (settings.pool_read, settings.mode, settings.patience) == (7, Mode.QUICK, timedelta(hours=1))


@pytest.mark.parametrize(
    ("flags", "prepare_after", "uses_hints"),
    [
        ((), 5, True),
        (("--prepare-threshold", "0"), 0, True),
        (("--prepare-threshold", "-1"), None, True),
        (("--no-hints",), 5, False),
        # PgBouncer carries prepared statements from 1.21 on, and only where it is told to: whoever says so has checked.
        (("--transaction-pooler",), None, False),
        (("--transaction-pooler", "--prepare-threshold", "-1"), None, False),
        (("--transaction-pooler", "--prepare-threshold", "5"), 5, False),
    ],
)
def test_a_pooler_gets_what_it_can_carry(flags: tuple[str, ...], prepare_after: int | None, uses_hints: bool) -> None:
    settings = read_settings(ProgramSettings, [*WHERE, *flags])
    assert (settings.prepare_after, settings.uses_hints) == (prepare_after, uses_hints)


def test_flags_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCALL_CATALOGUE", "postgresql:///other")
    monkeypatch.setenv("ROWCALL_SHARDS", '{"z": "postgresql:///z"}')
    monkeypatch.setenv("ROWCALL_LIMIT", "9")
    settings = read_settings(ProgramSettings, WHERE)
    assert (settings.catalogue, settings.shards, settings.limit) == (CATALOGUE, {"a": SHARD_A}, 9)


def test_a_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCALL_LIMIT", "9")
    assert ProgramSettings(catalogue=CATALOGUE, shards={"a": SHARD_A}).limit == 5


def test_everything_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCALL_SHARDS", '{"A": "postgresql:///a", "b": "jdbc:postgresql://db/b"}')
    monkeypatch.setenv("ROWCALL_POOL_READ", "many")
    monkeypatch.setenv("ROWCALL_POOL_TIMEOUT", "soon")
    monkeypatch.setenv("ROWCALL_HINT", "false")
    found = wrong(
        "--limit", "0", "--log-level", "loud", "--connect-timeout=1s", "--hints=maybe", "--mode", "--frobnicate", "1"
    )
    assert set(found) == {
        "ROWCALL_CATALOGUE (--catalogue)",
        "ROWCALL_SHARDS (--shard) 'A'",
        "ROWCALL_SHARDS (--shard) 'b'",
        "ROWCALL_POOL_READ (--pool-read)",
        "ROWCALL_POOL_TIMEOUT (--pool-timeout)",
        "ROWCALL_LIMIT (--limit)",
        "ROWCALL_LOG_LEVEL (--log-level)",
        "ROWCALL_CONNECT_TIMEOUT (--connect-timeout)",
        "ROWCALL_HINTS (--hints)",
        "ROWCALL_MODE (--mode)",
        "--frobnicate",
        "ROWCALL_HINT",
    }
    assert found["ROWCALL_CATALOGUE (--catalogue)"] == "is not set."
    assert "another library" in found["ROWCALL_SHARDS (--shard) 'b'"]
    assert found["ROWCALL_MODE (--mode)"] == "is given without a value."
    assert found["ROWCALL_HINT"] == "is not a setting of ours. Did you mean ROWCALL_HINTS?"


def test_the_program_ends_with_2_and_says_it_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(ProgramSettings, ["--limit", "x"])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.splitlines() == [
        "rowcall-test: 3 settings are wrong",
        "",
        "  ROWCALL_CATALOGUE (--catalogue) is not set.",
        "      e.g. ROWCALL_CATALOGUE=postgresql://rowcall@db.example:5432/rowcall_catalogue",
        "  ROWCALL_SHARDS (--shard) is not set.",
        (
            """      e.g. ROWCALL_SHARDS='{"a": "postgresql://rowcall@db.example:5432/rowcall_a"}' """
            "or --shard a=postgresql://rowcall@db.example:5432/rowcall_a"
        ),
        "  ROWCALL_LIMIT (--limit) is wrong: input should be a valid integer, unable to parse string as an integer.",
        "      e.g. ROWCALL_LIMIT=5",
        "",
        "All settings: rowcall-test --help",
    ]


def test_help_names_every_flag_and_variable_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(ProgramSettings, ["--help"])
    assert not end.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert "What a program of ours is told." in text
    assert "For example: rowcall-test --catalogue postgresql:///c --shard a=postgresql:///a" in text
    for field in ProgramSettings.model_fields:
        assert f"ROWCALL_{field.upper()}" in text
    assert "--shard NAME=DSN" in text
    assert "--image FILE" in text
    assert "--patience DURATION [ROWCALL_PATIENCE; default: 7d]" in text
    assert "--mode {very-quick,slow} [ROWCALL_MODE; default: slow]" in text
    assert "--no-hints" in text


def test_the_examples_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    # These need shards, files and connection strings that fit them.
    others = ("placement", "password_file", "audit_key_file", "require_database_tls")
    for field, info in ProgramSettings.model_fields.items():
        for example in info.examples or ():
            if field not in others:
                monkeypatch.setenv(f"ROWCALL_{field.upper()}", str(example))
    read_settings(ProgramSettings, [])
    for field in others:
        if not field.endswith("_file"):
            monkeypatch.setenv(
                f"ROWCALL_{field.upper()}", str((ProgramSettings.model_fields[field].examples or [""])[0])
            )
    monkeypatch.setenv("ROWCALL_CATALOGUE", "postgresql:///c")
    read_settings(ProgramSettings, ["--shard", "a=postgresql:///a", "--shard", "b=postgresql:///b"])


@pytest.mark.parametrize(
    ("argv", "where", "what"),
    [
        (["--catalog=postgresql:///c"], "--catalog", "Did you mean --catalogue?"),
        (["--shards", "a=postgresql:///a"], "--shards", "Did you mean --shard?"),
        (["--xyzzy"], "--xyzzy", "is not a flag."),
        ([*WHERE, "stray"], "the command line", "belongs to no flag"),
        ([*WHERE, "--shard", SHARD_B.split("=", maxsplit=1)[0]], "ROWCALL_SHARDS (--shard)", "write name=value"),
        ([*WHERE, "--shard", f"a={SHARD_B}"], "ROWCALL_SHARDS (--shard)", "names 'a' twice"),
        ([*WHERE, "--shard", f"b={SHARD_A}"], "ROWCALL_SHARDS (--shard)", "the same database"),
        ([*WHERE, "--shard", f"b={CATALOGUE}"], "ROWCALL_SHARDS (--shard)", "the catalogue's database"),
        ([*WHERE, "--place", "b=1"], "ROWCALL_PLACEMENT (--place)", "names 'b', which ROWCALL_SHARDS does not"),
        ([*WHERE, "--place", "a=0"], "ROWCALL_PLACEMENT (--place)", "closes every shard"),
        ([*WHERE, "--place", "a=-1"], "ROWCALL_PLACEMENT (--place)", "a number from 0 up"),
        ([*WHERE, "--place", "a=nan"], "ROWCALL_PLACEMENT (--place)", "a number from 0 up"),
        ([*WHERE, "--pool-read", "0"], "ROWCALL_POOL_READ (--pool-read)", "greater than or equal to 1"),
        ([*WHERE, "--no-hints=1"], "the command line", "cannot be read: argument --no-hints"),
    ],
)
def test_a_wrong_flag_says_what_is_wrong(argv: list[str], where: str, what: str) -> None:
    assert what in wrong(*argv)[where]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("a=postgresql:///a", "is not JSON"),
        ("[1]", "write name=value"),
        ('"a"', "is not a JSON object"),
        ("{}", "names no shard"),
        ('{"a": "postgresql:///a", "a": "postgresql:///b"}', "names 'a' twice"),
    ],
)
def test_a_wrong_variable_says_what_is_wrong(value: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCALL_SHARDS", value)
    assert what in wrong()["ROWCALL_SHARDS (--shard)"]


def test_no_secret_is_shown_whatever_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROWCALL_CATALOGUE", "postgresql://u:hunter2%zz@db/c")
    monkeypatch.setenv("ROWCALL_SHARDS", '{"a": "postgresql://u:hunter2@db/a", "b": "hunter2", "c": "hunter2=1"')
    monkeypatch.setenv("ROWCALL_CATALOG", "postgresql://u:hunter2@db/a")
    for argv in (
        ["--catalog", "postgresql://u:hunter2@db/a"],
        ["--catalog=postgresql://u:hunter2@db/a", "postgresql://u:hunter2@db/a"],
        ["--catalogue", "mysql://u:hunter2@db/a", "--shard", "a=postgres://u:hunter2@[db/a", "--shard", "hunter2"],
    ):
        with pytest.raises(SystemExit):
            load_settings(ProgramSettings, argv)
        assert "hunter2" not in capsys.readouterr().err
    with pytest.raises(ValidationError) as refusal:
        ProgramSettings(catalogue="postgresql://u:hunter2%zz@db/c", shards={"a": "hunter2"})
    assert "hunter2" not in str(refusal.value)


def test_settings_print_without_passwords() -> None:
    settings = read_settings(ProgramSettings, [*WHERE, "--shard", f"b={SHARD_B}"])
    for text in (repr(settings), str(settings), f"{settings.catalogue} {settings.shards}", settings.model_dump_json()):
        assert "secret" not in text
        assert "pa%" not in text
        assert "se=cr" not in text
        assert "postgresql://rowcall@db:5432/catalogue" in text


def test_settings_do_not_change() -> None:
    settings = ProgramSettings(catalogue=CATALOGUE, shards={"a": SHARD_A})
    with pytest.raises(ValidationError):
        settings.limit = 7
