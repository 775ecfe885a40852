"""Connection strings that do not print their passwords, and durations."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rowcall.settings import Dsn, parse_dsn, redact
from rowcall.settings.values import format_duration, parse_duration


def test_a_connection_string_is_whole_for_psycopg_and_redacted_for_people(caplog: pytest.LogCaptureFixture) -> None:
    text = "postgresql://me:secret@db:5433/jobs?sslmode=require"
    dsn = parse_dsn(f"  {text}\n")
    assert isinstance(dsn, Dsn)
    assert dsn == text
    assert conninfo_to_dict(dsn)["password"] == "secret"
    assert conninfo_to_dict(make_conninfo(dsn, port=1))["password"] == "secret"
    logging.getLogger(__name__).warning("to %s", dsn)
    for shown in (str(dsn), repr(dsn), f"{dsn}", f"{dsn:>60}", f"{dsn!r}", caplog.text, repr({"a": dsn})):
        assert "secret" not in shown
        assert "me@db:5433/jobs" in shown


@given(
    password=st.text(
        min_size=8, alphabet=st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="\0")
    )
)
def test_no_password_survives_redaction(password: str) -> None:
    shown = redact(make_conninfo(host="db", user="me", dbname="jobs", password=password))
    assert shown == "postgresql://me@db/jobs"


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h1:1,h2:2/db", "postgresql://u@h1:1,h2:2/db"),
        ("host=h1,h2 port=7 dbname=db", "postgresql://h1:7,h2:7/db"),
        ("host=/run/postgresql dbname=db", "postgresql:///run/postgresql/db"),
        ("postgresql:///db", "postgresql:///db"),
        ("nonsense", "(an unreadable connection string)"),
    ],
)
def test_what_is_left_says_where_it_leads(dsn: str, shown: str) -> None:
    assert redact(dsn) == shown


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1"])
def test_a_port_that_is_none_is_named(port: str) -> None:
    with pytest.raises(ValueError, match=f"has the port '{port}'; a port is a number from 1 to 65535"):
        parse_dsn(f"host=h1,h2 port=5432,{port} password=hunter2")


@pytest.mark.parametrize("text", ["host=h1,h2 port=,65535", "host=h port=1", "postgresql:///db"])
def test_a_port_is_in_range_or_left_out(text: str) -> None:
    assert parse_dsn(text) == text


@pytest.mark.parametrize(
    "text", ["", "  ", "db.example", "mysql://u:hunter2@h/d", "postgresql://u:hun%ter2@h/d", "hunter2=1"]
)
def test_what_libpq_cannot_read_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="a connection string is postgresql://") as refusal:
        parse_dsn(text)
    assert "hun" not in str(refusal.value)
    # Nor does a traceback repeat it.
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__


@pytest.mark.parametrize("text", ["jdbc:postgresql://h/d", "postgresql+psycopg://h/d"])
def test_the_notation_of_another_library_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="the notation of another library"):
        parse_dsn(text)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("5", timedelta(seconds=5)),
        ("1.5s", timedelta(seconds=1.5)),
        ("250ms", timedelta(milliseconds=250)),
        (" 2 m ", timedelta(minutes=2)),
        ("1h", timedelta(hours=1)),
        ("7d", timedelta(days=7)),
        ("0", timedelta(0)),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "soon", "-5s", "5 years", "1h30m", "1e3", "s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 500ms, 30s, 5m, 2h or 7d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["99999999999d", "9" * 400])
def test_a_duration_that_is_too_long_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is a longer duration than can be counted"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_is_read_as_it_is_written(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration
