"""The operator's questions of docs/operating.md: each has a command that there is, and an RPC that there is."""

from __future__ import annotations

import re
import shlex
from typing import Final

import pytest
from google.protobuf import descriptor_pool
from typer.core import TyperGroup
from typer.main import get_command

from rowcall_cli.main import app
from tests.support.places import ROOT

_SECTION: Final = re.compile(r"^## The operator's questions\n(.*?)^## ", re.DOTALL | re.MULTILINE)
_ROW: Final = re.compile(r"^\| ([^|]+\?) \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)

[_TEXT] = _SECTION.findall((ROOT / "docs" / "operating.md").read_text("utf-8"))
QUESTIONS: Final[dict[str, tuple[str, str]]] = {question: (said, rpcs) for question, said, rpcs in _ROW.findall(_TEXT)}
ASKED: Final = (
    "rowcall workers",
    "rowcall tenants",
    "rowcall trace",
    "rowcall spend",
    "rowcall versions",
    "rowcall top",
)
"""What a stranger looked for."""


def test_what_was_asked_is_answered() -> None:
    said = " ".join(said for said, _ in QUESTIONS.values())
    assert [command for command in ASKED if f"`{command}" not in said] == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_a_command_that_tells_it_to_scripts_too(question: str) -> None:
    said, _ = QUESTIONS[question]
    commands = re.findall(r"`rowcall ([^`]+)`", said)
    assert commands
    for command in commands:
        node, words = get_command(app), shlex.split(command)
        while isinstance(node, TyperGroup):
            name = words.pop(0)
            assert name in node.commands, f"rowcall {command}"
            node = node.commands[name]
        flags = {flag for parameter in node.params for flag in parameter.opts}
        assert "--json" in flags, f"rowcall {command}"
        assert {word for word in words if word.startswith("--")} <= flags, f"rowcall {command}"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_an_rpc(question: str) -> None:
    _, said = QUESTIONS[question]
    called = re.findall(r"`(?:(\w+)\.)?(\w+)`", re.sub(r"\(.*?\)", "", said))
    assert called or said == "the same"
    service = ""
    for its, method in called:
        service = its or service
        found = descriptor_pool.Default().FindServiceByName(f"rowcall.v1.{service}")
        assert method in found.methods_by_name, f"{service}.{method}"
