"""Passwords in files: looked at by each connection, and the earlier one tried while server and file do not agree."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from rowcall.security import passwords
from rowcall.security.passwords import UnreadablePassword, connect, connect_blocking, read
from rowcall.settings import Dsn
from rowcall.settings.dsn import with_password_file

MARKER = "geheim-4111"
ROOT = Path(__file__).parents[3]
EXEMPT = ("libs/common/src/rowcall/embedded/", "libs/common/src/rowcall/security/passwords.py")
"""A superuser's server of one's own, whose password no file holds; and what everybody else calls."""


class Server:
    """Takes one password, and notes what it was asked with."""

    def __init__(self, takes: str) -> None:
        self.takes = takes
        self.asked: list[str | None] = []

    def blocking(self, dsn: str, *, password: str | None = None, **_: Any) -> str:
        self.asked.append(password)
        if password != self.takes:
            raise psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "me"')
        return "connected"

    async def connect(self, dsn: str, **parameters: Any) -> str:
        return self.blocking(dsn, **parameters)


def put(file: Path, password: str) -> None:
    """Exchanges what a file holds."""
    file.write_text(password)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server("one")
    monkeypatch.setattr(psycopg, "connect", server.blocking)
    monkeypatch.setattr(passwords, "_taken", {})
    return server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("one\n")
    return file


@pytest.fixture(params=["loop", "thread"])
def log_in(request: pytest.FixtureRequest, server: Server) -> Callable[[Dsn], Any]:
    """A connection, made as the pools make theirs, or as a worker's lease does."""

    async def run(dsn: Dsn) -> object:
        return await connect(server.connect, dsn) if request.param == "loop" else connect_blocking(dsn)

    return run


async def test_each_connection_has_what_the_file_has_then(
    log_in: Callable[[Dsn], Any], server: Server, file: Path
) -> None:
    dsn = with_password_file("postgresql://me@db/x", file)
    await log_in(dsn)
    server.takes = "two"
    put(file, "two")
    await log_in(dsn)

    assert server.asked == ["one", "two"]


async def test_a_string_without_a_file_is_left_alone(log_in: Callable[[Dsn], Any], server: Server) -> None:
    with pytest.raises(psycopg.OperationalError):
        await log_in(Dsn("postgresql://me@db/x"))

    assert server.asked == [None]


async def test_the_earlier_password_is_tried_until_the_server_has_the_new_one(
    log_in: Callable[[Dsn], Any], server: Server, file: Path
) -> None:
    dsn = with_password_file("postgresql://me@db/x", file)
    await log_in(dsn)
    put(file, "two")

    with capture_logs() as lines:
        await log_in(dsn)
    assert server.asked == ["one", "two", "one"]
    (line,) = lines
    assert (line["log_level"], line["file"], line["database"]) == ("warning", str(file), "postgresql://me@db/x")

    server.takes = "two"
    await log_in(dsn)
    # What was once taken is tried no more when the server has another, whatever the file says next.
    put(file, "three")
    server.takes = "four"
    with pytest.raises(psycopg.OperationalError):
        await log_in(dsn)
    assert server.asked[3:] == ["two", "three", "two"]


async def test_another_failure_is_not_tried_again(
    log_in: Callable[[Dsn], Any], server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = with_password_file("postgresql://me@db/x", file)
    await log_in(dsn)
    put(file, "two")

    def away(dsn: str, *, password: str | None = None, **_: Any) -> str:
        server.asked.append(password)
        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(server, "blocking", away)
    monkeypatch.setattr(psycopg, "connect", away)
    with pytest.raises(psycopg.OperationalError, match="refused"):
        await log_in(dsn)
    assert server.asked == ["one", "two"]


async def test_what_one_login_had_is_not_tried_with_another(
    log_in: Callable[[Dsn], Any], server: Server, file: Path
) -> None:
    await log_in(with_password_file("postgresql://me@db/x", file))
    put(file, "two")

    with pytest.raises(psycopg.OperationalError):
        await log_in(with_password_file("postgresql://me@elsewhere/x", file))
    assert server.asked == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (f"{MARKER}\nmore\n".encode(), "holds several lines"),
        (MARKER.encode() + b"\xff", "is not text"),
        (MARKER.encode() * 1000, "holds more than 4096 bytes"),
    ],
)
def test_what_is_no_password_is_told_without_what_it_is(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UnreadablePassword, match=said) as refused:
        read(file)
    assert str(file) in str(refused.value)
    assert MARKER not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_a_file_that_is_gone_is_told_of(file: Path) -> None:
    file.unlink()
    with pytest.raises(UnreadablePassword, match="cannot be read: No such file"):
        read(file)


@pytest.mark.parametrize("content", ["secret", "secret\n", "secret\r\n"])
def test_the_end_of_the_line_is_no_part_of_it(file: Path, content: str) -> None:
    file.write_bytes(content.encode())
    assert read(file) == "secret"


def test_blanks_are_part_of_it(file: Path) -> None:
    file.write_text(" two words \n")
    assert read(file) == " two words "


def connecting(source: str) -> Iterator[int]:
    """The lines that open a connection by psycopg itself, or make a pool that does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).partition("[")[0]
            if called.endswith(("psycopg.connect", "Connection.connect", "ConnectionPool")):
                yield node.lineno


def test_every_connection_is_made_by_way_of_passwords() -> None:
    """One that is not would go on with an earlier password until its process ends, or without any. What opens it is handed over:
    `passwords.connect(psycopg.AsyncConnection.connect, …)`."""
    modules = [path for part in ("libs", "services") for path in sorted(ROOT.glob(f"{part}/*/src/**/*.py"))]
    sources = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in modules}
    found = {name: list(connecting(source)) for name, source in sources.items() if "psycopg" in source}
    assert found[EXEMPT[-1]], "they are found where they are"
    assert {name: lines for name, lines in found.items() if lines and not name.startswith(EXEMPT)} == {}
