"""A gateway's settings: what is refused at the start, and with which words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from rowcall.settings import SettingsError, read_settings
from rowcall_gateway.settings import GatewaySettings

CLUSTER = {"ROWCALL_CATALOGUE": "postgresql:///c", "ROWCALL_SHARDS": '{"a": "postgresql:///a"}'}


def read(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], *arguments: str) -> GatewaySettings:
    for name, value in {**CLUSTER, **variables}.items():
        monkeypatch.setenv(name, value)
    return read_settings(GatewaySettings, arguments)


def test_what_is_not_said_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, {})

    assert settings.listen == "127.0.0.1:50051"
    assert settings.identity == "insecure-dev"
    assert (settings.max_request_bytes, settings.max_call_wait) == (1024 * 1024, timedelta(seconds=50))
    assert settings.uses_hints


def test_environment_and_flags_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = [str(tmp_path / name) for name in ("a.binpb", "b.binpb")]
    for image in images:
        Path(image).touch()
    settings = read(
        monkeypatch,
        {"ROWCALL_MAX_CALL_WAIT": "20s", "ROWCALL_IMAGES": ",".join(images), "ROWCALL_TRANSACTION_POOLER": "true"},
        *("--listen", "[::1]:0", "--gather", "5ms", "--identity", "insecure-network"),
    )

    assert (str(settings.address), settings.identity) == ("[::1]:0", "insecure-network")
    assert (settings.max_call_wait, settings.gather) == (timedelta(seconds=20), timedelta(milliseconds=5))
    assert [str(image) for image in settings.images] == images
    # A pooler in transaction mode cannot carry LISTEN.
    assert not settings.uses_hints


@pytest.mark.parametrize(
    ("variables", "arguments", "said"),
    [
        ({"ROWCALL_LISTEN": "0.0.0.0:0"}, (), "ROWCALL_IDENTITY=insecure-network"),
        ({"ROWCALL_LISTEN": "nowhere"}, (), "ROWCALL_LISTEN (--listen) is not an address"),
        ({}, ("--listn", "x"), "Did you mean --listen?"),
        ({"ROWCALL_IDENTITY": "none"}, (), "ROWCALL_IDENTITY (--identity)"),
        ({"ROWCALL_GATHRE": "1s"}, (), "Did you mean ROWCALL_GATHER?"),
        ({"ROWCALL_MAX_CALL_WAIT": "0s"}, (), "ROWCALL_MAX_CALL_WAIT (--max-call-wait) is not above 0"),
        ({"ROWCALL_MAX_WAITERS": "0"}, (), "ROWCALL_MAX_WAITERS (--max-waiters)"),
        ({"ROWCALL_PROCESSES": "0"}, (), "ROWCALL_PROCESSES (--processes)"),
        ({}, ("--processes", "65"), "ROWCALL_PROCESSES (--processes)"),
    ],
)
def test_what_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SettingsError) as error:
        read(monkeypatch, variables, *arguments)
    assert said in str(error.value)


def test_several_processes_need_a_system_that_spreads_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert read(monkeypatch, {"ROWCALL_PROCESSES": "4"}).processes == 4
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert read(monkeypatch, {"ROWCALL_PROCESSES": "1"}).processes == 1
    with pytest.raises(SettingsError, match="only Linux spreads connections"):
        read(monkeypatch, {"ROWCALL_PROCESSES": "2"})
