"""`rowcall demo` as a person runs it, on small directories."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fix_commands import Ran, Running

Rowcall = Callable[..., Ran]

DOCUMENTS = {
    "harbour.md": "# The harbour master's rules\n\nShips longer than ninety metres wait for a pilot at the outer buoy.\n",
    "bakery.txt": "Rye bread is baked before four in the morning.\n\nThe oven is heated with beech wood.\n",
    "notes/garden.md": "# Keeping tomatoes healthy\n\nWater the roots of tomatoes, never their leaves.\n",
    "notes/clock.rst": "The tower clock\n===============\n\nThe pendulum is adjusted with a small copper coin.\n",
    "parser.py": '"""Parses railway timetables."""\n\n\ndef parse_departures(line: str) -> list[str]:\n    return line.split()\n',
    "empty.txt": "",
}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Five documents, and files that are none."""
    root = tmp_path / "documents"
    for path, text in DOCUMENTS.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "picture.bin").write_bytes(b"\x89PNG\x00\xff\xfe")
    (root / "large.txt").write_text("too large " * 100_000)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "secret.txt").write_text("never looked at")
    return root


def command_of(process: psutil.Process) -> list[str]:
    """A process's words; none of one that has ended meanwhile."""
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return []


def left_running(data_dir: Path) -> list[str]:
    """The processes that have to do with a data directory."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), process.cwd()])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if str(data_dir) in text:
            found.append(text)
    return found


def kept(result: dict[str, Any]) -> set[str]:
    return {check["promise"] for check in result["checks"] if check["kept"]}


PROMISES = {
    "every document is ingested",
    "every question is answered from the right documents",
    "a call that outlives its deadline is joined by its key, having run once",
    "an operation is seen unfinished, awaited and answered",
    "a document ingested again without a change changes nothing",
    "what each call of a model cost is in the books",
}


def test_documents_go_in_and_questions_are_answered(rowcall_process: Rowcall, documents: Path, dev_dir: Path) -> None:
    ran = rowcall_process("demo", "--docs", str(documents), "--data-dir", str(dev_dir), "--json")

    assert ran.code == 0, ran.err
    result = ran.json
    assert result["ok"] is True
    assert kept(result) == PROMISES
    assert result["documents"]["ingested"] == result["documents"]["changed"] == 5
    assert result["documents"]["left_out"] == {"not UTF-8 text": 1, "empty": 1, "over 900 kB": 1}

    assert len(result["answers"]) == 5
    for answer in result["answers"]:
        best = answer["sources"][0]
        assert answer["expected"] == best["path"], answer
        text = (documents / best["path"]).read_text().splitlines()
        assert 1 <= best["first_line"] <= best["last_line"] <= len(text)
    assert {answer["expected"] for answer in result["answers"]} == set(DOCUMENTS) - {"empty.txt"}

    outlived = result["outlived"]
    assert outlived["reason"] == "STILL_RUNNING"
    assert outlived["operation"] == outlived["joined_operation"]
    assert outlived["attempts"] == 1
    followed = [sighting["state"] for sighting in result["followed"]["sightings"]]
    assert (followed[0] in {"READY", "RUNNING"}, followed[-1]) == (True, "SUCCEEDED")
    assert result["repeated"]["changed"] is False
    # Each call but the one that joined is a row: the canary, five documents, five questions, and three for the rest.
    assert (result["calls"]["total"], result["calls"]["rows"]) == (15, 14)
    [cost] = result["costs"]
    assert (cost["model"], cost["calls"], cost["currency"]) == ("hashed-1-512", 10, "EUR"), (
        "five documents, five questions"
    )
    assert float(cost["cost"]) > 0
    assert left_running(dev_dir) == []

    # The second run is warm: the same documents change nothing, and its answers are its own.
    (documents / "bakery.txt").write_text("Bread is baked at noon now.\n")
    again = rowcall_process("demo", "--docs", str(documents), "--data-dir", str(dev_dir), "--json").json
    assert again["ok"] is True
    assert (again["documents"]["ingested"], again["documents"]["changed"]) == (5, 1)
    assert again["costs"][0]["calls"] == 16, "what is there already is not embedded again"
    assert again["outlived"]["operation"] != outlived["operation"]


def test_it_tells_a_person_what_happened_and_how_to_look_further(
    rowcall_process: Rowcall, documents: Path, dev_dir: Path
) -> None:
    ran = rowcall_process("demo", "--docs", str(documents), "--data-dir", str(dev_dir), "--max-files", "3")

    assert ran.code == 0, ran.err
    text = " ".join(ran.out.split())
    assert "on 3 text files of" in text
    assert "3 beyond the first 3" in text
    assert "the call ended with STILL_RUNNING" in text
    assert "its handler ran once" in text
    assert "SUCCEEDED at" in text
    assert "changed=false" in text
    assert f"rowcall dev --listen 127.0.0.1:50051 --data-dir {dev_dir}" in text
    assert "NOT AS EXPECTED" not in text

    # What it says works as it stands: the job it names is there for `rowcall dev` on the same directory.
    assert "select name, method, state" in text


@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "without text"])
def test_a_directory_without_documents_is_refused_before_anything_is_started(
    rowcall_process: Rowcall, tmp_path: Path, kind: str
) -> None:
    docs = tmp_path / "docs"
    if kind == "a file":
        docs.write_text("text")
    elif kind != "missing":
        docs.mkdir()
    if kind == "without text":
        (docs / "picture.bin").write_bytes(b"\x00\xff")

    ran = rowcall_process("demo", "--docs", str(docs), "--data-dir", str(tmp_path / "data"))

    assert ran.code == 1
    expected = "is not a directory" if kind in {"missing", "a file"} else "has no text files to work on"
    assert expected in ran.err
    assert ("(1 not UTF-8 text)" in ran.err) == (kind == "without text")
    assert "Traceback" not in ran.err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left_running(
    running: Callable[..., Running], documents: Path, dev_dir: Path, number: signal.Signals
) -> None:
    demo = running("demo", "--docs", str(documents), "--data-dir", str(dev_dir), "--json")
    demo.says("canary")
    process = psutil.Process(demo.process.pid)
    children = process.children(recursive=True)
    assert {"rowcall-gateway", "rowcall-worker"} <= {Path(word).name for one in children for word in command_of(one)}

    code = demo.end(number)

    assert code == (128 + number if number is signal.SIGINT else -number)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [command_of(one) or one.pid for one in alive] == []


def test_a_service_that_dies_is_reported_with_its_last_words(
    running: Callable[..., Running], documents: Path, dev_dir: Path
) -> None:
    demo = running("demo", "--docs", str(documents), "--data-dir", str(dev_dir), "--json")
    demo.says("canary")
    for child in psutil.Process(demo.process.pid).children():
        if any(word.endswith("rowcall-gateway") for word in command_of(child)):
            child.kill()

    assert demo.wait() == 1
    assert "rowcall-gateway ended with exit code -9" in demo.err
    assert "Traceback" not in demo.err
    assert json.loads((dev_dir / "gateway.log").read_text().splitlines()[0])["service"] == "gateway"
