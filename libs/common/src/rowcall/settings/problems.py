"""What is wrong with the settings, all of it at once, as the person reads it who starts a program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Problem:
    """One setting that is wrong, missing or unknown."""

    where: str
    """The environment variable and the flag: "ROWCALL_CATALOGUE (--catalogue)"."""
    what: str
    """What is wrong with it; never its value."""
    example: str | None = None
    """How it would be right: "ROWCALL_CATALOGUE=postgresql://…"."""


class SettingsError(Exception):
    """A program cannot start with the settings it was given."""

    program: str
    """The program's name."""
    problems: Sequence[Problem]
    """All of them."""

    def __init__(self, program: str, problems: Sequence[Problem]) -> None:
        super().__init__(program, problems)
        self.program = program
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{self.program}: {'a setting is' if count == 1 else f'{count} settings are'} wrong", ""]
        for problem in self.problems:
            lines.append(f"  {problem.where} {problem.what}")
            if problem.example is not None:
                lines.append(f"      e.g. {problem.example}")
        lines += ["", f"All settings: {self.program} --help"]
        return "\n".join(lines)


def refuse(error: SettingsError) -> NoReturn:
    """Ends the program as for a wrong command line: the problems on stderr, exit code 2."""
    sys.stderr.write(f"{error}\n")
    raise SystemExit(2)
