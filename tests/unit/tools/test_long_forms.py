"""`make test-long`: its forms are targets, and it tells of each that failed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tools import long_forms

pytestmark = pytest.mark.unit


@pytest.fixture
def fake_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `make` that notes its target and the variables that it was given, and fails for proofs; the notes."""
    notes = tmp_path / "notes"
    program = tmp_path / "make"
    program.write_text(f'#!/bin/sh\necho "$2 flags=$MAKEFLAGS$MAKEOVERRIDES" >> {notes}\n[ "$2" != proofs ]\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return notes


def test_each_form_is_a_target() -> None:
    makefile = (long_forms.ROOT / "Makefile").read_text()
    for name in long_forms.FORMS:
        assert f"\n{name}: setup" in makefile


def test_one_that_fails_does_not_stop_the_others(fake_make: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert long_forms.main([]) == 1
    assert [line.split()[0] for line in fake_make.read_text().splitlines()] == list(long_forms.FORMS)
    table = capsys.readouterr().out.partition("minutes:seconds")[2].splitlines()
    assert [line.split()[:2] for line in table if line] == [
        [name, "FAILED" if name == "proofs" else "passed"] for name in long_forms.FORMS
    ]


def test_those_asked_for_do_not_inherit_the_asking(fake_make: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", " -- ONLY=guards,chaos")
    monkeypatch.setenv("MAKEOVERRIDES", "ONLY=guards,chaos")
    assert long_forms.main(["--only", "guards,chaos"]) == 0
    assert fake_make.read_text() == "guards flags=\nchaos flags=\n"


def test_an_unknown_one_is_refused(fake_make: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        long_forms.main(["--only", "nope"])
    assert ended.value.code == 2
    assert "the forms are chaos, proofs, guards, test-postgres" in capsys.readouterr().err
    assert not fake_make.exists()
