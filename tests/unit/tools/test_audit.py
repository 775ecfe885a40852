"""tools/audit.py: what a known fault comes to."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tools import audit
from tools.audit import Accepted, Fault, accepted, faults, judged

TODAY = date(2026, 12, 1)
MENDED = Fault("parser", "1.0", frozenset({"PYSEC-1", "CVE-1"}), ("1.1",))
OPEN = Fault("loader", "2.0", frozenset({"CVE-2"}), ())


def test_a_fault_that_a_version_mends_fails() -> None:
    passes, [line] = judged([MENDED], [], TODAY)
    assert not passes
    assert line.startswith("FAULT parser 1.0: CVE-1, PYSEC-1; mended in 1.1")


def test_one_that_nothing_mends_is_told_and_fails_nothing() -> None:
    assert judged([OPEN], [], TODAY) == (True, ["told  loader 2.0: CVE-2; no version mends it yet"])


@pytest.mark.parametrize(("until", "passes"), [(date(2026, 12, 1), True), (date(2026, 11, 30), False)])
def test_one_that_is_listed_is_accepted_until_its_day(until: date, passes: bool) -> None:
    found, lines = judged([MENDED], [Accepted("CVE-1", "nobody calls it", until)], TODAY)
    assert found is passes
    assert ("nobody calls it" in lines[0]) is passes


def test_what_is_listed_and_not_found_is_to_be_taken_out() -> None:
    passes, lines = judged([], [Accepted("CVE-1", "nobody calls it", TODAY)], TODAY)
    assert not passes
    assert lines == ["tools/audit.toml lists CVE-1, which no requirement has: take it out"]


def test_a_report_of_pip_audits_is_read() -> None:
    report = {
        "dependencies": [
            {"name": "fine", "version": "1", "vulns": []},
            {"name": "skipped", "skip_reason": "not on PyPI"},
            {
                "name": "parser",
                "version": "1.0",
                "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"], "description": "…"}],
            },
        ]
    }
    assert list(faults(report)) == [MENDED]


def test_an_entry_without_a_reason_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text('[[accepted]]\nid = "CVE-1"\nreason = " "\nuntil = 2027-01-01\n')
    with pytest.raises(TypeError, match="CVE-1: say a reason"):
        accepted(tmp_path / "audit.toml")


def test_without_a_network_it_says_so_loudly_and_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unanswered(_: str) -> tuple[None, str]:
        return None, "Could not connect to PyPI"

    monkeypatch.setattr(audit, "locked", str)
    monkeypatch.setattr(audit, "asked", unanswered)
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("NOT AUDITED: ")


def test_with_one_it_fails_for_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(_: str) -> tuple[dict[str, Any], str]:
        fault = {"id": "CVE-1", "aliases": [], "fix_versions": ["1.1"]}
        return {"dependencies": [{"name": "parser", "version": "1.0", "vulns": [fault]}]}, ""

    monkeypatch.setattr(audit, "locked", str)
    monkeypatch.setattr(audit, "asked", answered)
    assert audit.main() == 1
