"""How a command ends: an exit status means the same in every command, and is told where people look."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rowcall_cli import probe
from rowcall_cli.errors import CommandError, ExitCode
from tests.fix_commands import Ran


@pytest.mark.parametrize("code", ExitCode)
def test_a_command_that_cannot_go_on_ends_with_its_words_and_its_code(
    rowcall: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, code: ExitCode
) -> None:
    def fail(*_: object) -> None:
        raise CommandError("What was [wrong].\nWhat to do.", code)

    monkeypatch.setattr(probe, "connect", fail)
    assert rowcall("probe") == Ran(code, "", "rowcall: What was [wrong].\nWhat to do.\n")


def test_help_tells_every_exit_code(rowcall: Callable[..., Ran]) -> None:
    told = " ".join(rowcall("--help").out.split())
    for code in ExitCode:
        assert f" {code.value} " in told


def test_an_interrupt_that_nothing_else_tells_of_has_its_code(
    rowcall: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "connect", interrupt)
    ran = rowcall("probe")
    assert ran.code == ExitCode.INTERRUPTED
    assert "Traceback" not in ran.err
