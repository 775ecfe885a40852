"""The list of guards is what the source is: noticed at once, where `make guards` takes minutes."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tools.guards import LIST, ROOT, Guard, listed, main

GUARDS = listed(LIST)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_is_where_it_is_said_to_be(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text()
    for take, put in zip(guard.take, guard.put, strict=True):
        assert text.count(take) == 1, f"in {guard.file}: {take}"
        assert take != put


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guards_tests_are_there(guard: Guard) -> None:
    assert guard.tests
    for test in guard.tests:
        path, _, name = test.partition("::")
        assert name in functions_of(path), test


@functools.cache
def functions_of(path: str) -> frozenset[str]:
    """The functions of a file, which most guards share with others."""
    module = ast.parse((ROOT / path).read_text())
    return frozenset(each.name for each in module.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def test_a_guard_is_listed_once(tmp_path: Path) -> None:
    entry = '[[guard]]\nname = "one"\nfile = "f"\ntake = "a"\ntests = ["t.py::test"]\n'
    twice = tmp_path / "guards.toml"
    twice.write_text(entry * 2)
    with pytest.raises(SystemExit, match="one"):
        listed(twice)
    unknown = tmp_path / "unknown.toml"
    unknown.write_text(entry + 'tset = "x"\n')
    with pytest.raises(TypeError):
        listed(unknown)


def test_a_run_that_was_ended_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [guard.name for guard in GUARDS]
    monkeypatch.setattr("sys.argv", ["guards", "--list", "--after", names[7]])
    assert main() == 0
    assert capsys.readouterr().out.splitlines() == names[8:]
    monkeypatch.setattr("sys.argv", ["guards", "--list", "--after", "nobody's"])
    with pytest.raises(SystemExit):
        main()
    assert 'there is no guard "nobody\'s"; --list names them' in capsys.readouterr().err
