"""Tokens of commands: where they come from, where they may go, and that nothing says what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.reach.flags import TOKEN_VARIABLE, Reach
from rowcall_cli.reach.tokens import LONGEST, check_plaintext, host_of, is_local, read_token

MARKER = "eyJ.geheim.4111"


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{MARKER}\n")
    return file


def test_a_file_is_read_each_time(file: Path) -> None:
    reach = Reach(token_file=file)
    assert read_token(reach) == MARKER
    file.write_text("Bearer another\n")
    assert read_token(reach) == "another"


def test_the_environment_may_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token(Reach()) is None
    monkeypatch.setenv(TOKEN_VARIABLE, MARKER)
    assert read_token(Reach()) == MARKER


def test_two_places_are_refused(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, MARKER)
    with pytest.raises(CommandError, match="leave one of them out") as refused:
        read_token(Reach(token_file=file))
    assert MARKER not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no token"),
        (b"Bearer \n", "holds no token"),
        (f"{MARKER} {MARKER}".encode(), "holds something else than one token"),
        (f"{MARKER}\n{MARKER}".encode(), "holds something else than one token"),
        (MARKER.encode() + b"\xff", "holds something else than one token"),
        (MARKER.encode() * 2000, f"holds more than {LONGEST} characters"),
    ],
)
def test_what_is_no_token_is_told_without_what_it_is(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(CommandError, match=said) as refused:
        read_token(Reach(token_file=file))
    assert refused.value.exit_code is ExitCode.USAGE
    assert str(file) in str(refused.value)
    assert MARKER not in str(refused.value)


def test_a_file_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        read_token(Reach(token_file=tmp_path / "none"))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50051", "[::1]:50051", "localhost:50051", "unix:/run/rowcall.sock", "dns:///localhost:1"]
)
def test_a_token_may_go_without_tls_on_this_machine(address: str, file: Path) -> None:
    assert is_local(address)
    check_plaintext(Reach(token_file=file), address)


@pytest.mark.parametrize("address", ["gateway.example:50051", "10.0.0.1:50051", "[fe80::1]:50051", "dns:///gateway:1"])
def test_to_another_machine_it_goes_over_tls_or_where_that_is_said(address: str, file: Path) -> None:
    with pytest.raises(CommandError, match="without TLS") as refused:
        check_plaintext(Reach(token_file=file), address)
    assert refused.value.exit_code is ExitCode.USAGE
    assert "--token-over-plaintext" in str(refused.value)

    check_plaintext(Reach(token_file=file, tls=True), address)
    check_plaintext(Reach(token_file=file, token_over_plaintext=True), address)
    check_plaintext(Reach(), address)


@pytest.mark.parametrize(
    ("address", "host"),
    [("a.example:1", "a.example"), ("[::1]:1", "::1"), ("dns:///a.example:1", "a.example"), ("a.example", "a.example")],
)
def test_the_host_of_an_address_is_found(address: str, host: str) -> None:
    assert host_of(address) == host
