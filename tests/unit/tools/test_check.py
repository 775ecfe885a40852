"""tools/check.py: every check runs and is named, and one failure is enough to fail."""

import sys

import pytest

from tools import check


def unrunnable() -> bool:
    return check.passes("a-command-that-nobody-has")


def test_all_run_and_the_failed_ones_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    checks = [
        check.Check("first", "fails", lambda: check.passes(sys.executable, "-c", "raise SystemExit(3)")),
        check.Check("second", "cannot run", unrunnable),
        check.Check("third", "passes", lambda: check.passes(sys.executable, "-c", "print('hello from third')")),
    ]

    assert check.run(checks) == ["first", "second"]

    printed = capfd.readouterr().out
    assert "== first: fails" in printed
    assert "second could not be run" in printed
    assert "hello from third" in printed


def test_one_failure_does_not_stop_the_rest() -> None:
    asked: list[str] = []

    def ask(name: str, *, answer: bool) -> bool:
        asked.append(name)
        return answer

    assert not check.all_pass(ask(name, answer=name != "a") for name in "abc")
    assert asked == ["a", "b", "c"]


def test_no_files_to_check_is_a_failure_where_there_must_be_some(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.present("services/*/no-such-file") == []
    assert "no file matches" in capsys.readouterr().out


def test_unknown_check_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["check.py", "--only", "no-such-check"])

    with pytest.raises(SystemExit):
        check.main()

    assert "no-such-check" in capsys.readouterr().err
