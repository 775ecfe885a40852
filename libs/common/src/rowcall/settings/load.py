"""Reads a program's settings at its start, from environment and flags, or refuses with everything that is wrong.

Called by the programs' `main`. Flags go before environment variables. The `rowcall` command, most of whose sub-commands read no
class of settings, asks for `unknown_settings` itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from rowcall.settings.flags import environment_name, flag_name, place_of, read_flags
from rowcall.settings.model import Settings
from rowcall.settings.names import known_names, nearest, unknown_names
from rowcall.settings.problems import Problem, SettingsError, refuse
from rowcall.settings.values import is_mapping

S = TypeVar("S", bound=Settings)


def load_settings(settings: type[S], argv: Sequence[str] | None = None) -> S:
    """A program's settings from the environment and from `argv` (without the program's name; None: of this process).

    Raises:
        SystemExit: Code 2, everything that is wrong on stderr; code 0 after --help.
    """
    try:
        return read_settings(settings, sys.argv[1:] if argv is None else argv)
    except SettingsError as error:
        refuse(error)


def read_settings(settings: type[S], argv: Sequence[str]) -> S:
    """Like `load_settings`, for whoever handles the error.

    Raises:
        SettingsError: Everything that is wrong, at once.
        SystemExit: Code 0, after --help.
    """
    epilog = f"For example:\n  {settings.usage_example}" if settings.usage_example else ""
    flags, problems = read_flags(settings, argv, program=settings.program, epilog=epilog)
    problems += unknown_settings(os.environ)
    try:
        result = settings(**{**EnvSettingsSource(settings)(), **flags})
    except ValidationError as error:
        told = {problem.where for problem in problems}
        found = [_problem(settings, detail) for detail in error.errors(include_url=False)]
        problems = [problem for problem in found if problem.where not in told] + problems
    else:
        if not problems:
            return result
    raise SettingsError(settings.program, problems)


def unknown_settings(environment: Mapping[str, str]) -> list[Problem]:
    """The variables that begin with ROWCALL_ and are nobody's, each with the name that was probably meant."""
    known = known_names()
    problems = []
    for name in unknown_names(environment):
        near = nearest(name, known)
        problems.append(
            Problem(name, "is not a setting of ours." + (f" Did you mean {near}?" if near else " Unset it."))
        )
    return problems


def _problem(settings: type[Settings], detail: Mapping[str, Any]) -> Problem:
    field, *inner = detail["loc"] or ("",)
    info = settings.model_fields.get(str(field))
    if info is None:
        return Problem(str(field) or settings.program, _sentence(detail))
    part = "".join(f" {step!r}" for step in inner if step != "[key]")
    return Problem(place_of(str(field), info) + part, _sentence(detail), _example(str(field), info))


def _sentence(detail: Mapping[str, Any]) -> str:
    """What is wrong, to be read after the setting's name. The value itself may be secret and is left out."""
    if detail["type"] == "missing":
        return "is not set."
    if detail["type"] == "value_error":
        return f"{detail['ctx']['error']}."
    message = detail["msg"]
    return f"is wrong: {message[:1].lower()}{message[1:]}."


def _example(field: str, info: FieldInfo) -> str | None:
    if not info.examples:
        return None
    example = str(info.examples[0])
    flag = flag_name(field, info)
    if not is_mapping(info.annotation):
        return f"{environment_name(field)}={example}"
    flags = " ".join(f"{flag} {name}={value}" for name, value in json.loads(example).items())
    return f"{environment_name(field)}='{example}' or {flags}"
