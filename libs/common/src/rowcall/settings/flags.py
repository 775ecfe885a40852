"""The command line of a program, made of its settings: pydantic-settings' CliSettingsSource over an argparse parser.

Called by `load`. What pydantic-settings does not do is done here: repeated flags keep their values whole (a connection
string may contain commas), nothing but --help ends the program, and what is wrong is collected.
"""

from __future__ import annotations

import json
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, NoReturn

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, CliSettingsSource

from rowcall.settings.names import PREFIX, nearest
from rowcall.settings.problems import Problem
from rowcall.settings.values import format_duration


def environment_name(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def flag_name(field: str, info: FieldInfo) -> str:
    """The flag of a field: its name in kebab case, or what its extra says."""
    return "--" + (_extra(info, "flag") or field.replace("_", "-"))


def place_of(field: str, info: FieldInfo) -> str:
    """Where a field is set, as problems name it."""
    return f"{environment_name(field)} ({flag_name(field, info)})"


def read_flags(
    settings: type[BaseSettings], argv: Sequence[str], *, program: str, epilog: str
) -> tuple[dict[str, Any], list[Problem]]:
    """The fields that a command line gives, unchecked, and what is wrong with the line itself.

    Raises:
        SystemExit: For --help, with code 0.
    """
    line = _CommandLine(settings, program=program, epilog=epilog)
    source: CliSettingsSource[_Parser] = CliSettingsSource(
        settings,
        cli_prog_name=program,
        cli_parse_args=list(argv),
        root_parser=line.parser,
        parse_args_method=line.parse,
        add_argument_method=line.add_argument,
    )
    return source(), line.problems


class _LineError(Exception):
    """argparse refused the line."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _LineError(message)


class _Help(RawDescriptionHelpFormatter):
    def _format_args(self, action: Action, default_metavar: str) -> str:  # noqa: ARG002 - argparse's signature
        # Every value may be left out as far as argparse knows; that is refused later, with all the rest.
        return "" if action.nargs == 0 else str(action.metavar)


class _CommandLine:
    """The hooks that pydantic-settings calls to build its parser and to parse with it."""

    def __init__(self, settings: type[BaseSettings], *, program: str, epilog: str) -> None:
        self.problems: list[Problem] = []
        self.parser = _Parser(
            prog=program,
            description=settings.__doc__,
            epilog=epilog,
            usage="%(prog)s [--FLAG VALUE …]",
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self._fields = settings.model_fields

    def add_argument(self, parser: ArgumentParser, *_names: str, **kwargs: Any) -> object:
        """Adds a field's flag: under its name in the singular, and with a value that may be forgotten."""
        field = kwargs["dest"]
        info = self._fields[field]
        flag = flag_name(field, info)
        kwargs["help"] = _help_text(field, info).replace("%", "%%")
        kwargs["metavar"] = _metavar(info, kwargs["metavar"])
        if info.annotation is not bool:
            return parser.add_argument(flag, nargs="?", const="", **kwargs)
        parser.add_argument(f"--no-{flag[2:]}", dest=field, action="store_const", const="false", default=SUPPRESS)
        return parser.add_argument(flag, nargs="?", const="true", **kwargs)

    def parse(self, parser: ArgumentParser, args: Sequence[str]) -> Namespace:
        """Parses the line; what argparse refuses or does not know becomes a problem."""
        try:
            namespace, unknown = parser.parse_known_args(list(args))
        except _LineError as error:
            self.problems.append(Problem("the command line", f"cannot be read: {error}."))
            return Namespace()
        self._refuse_unknown(unknown)
        for field, value in list(vars(namespace).items()):
            if value == "" or (isinstance(value, list) and "" in value):
                self.problems.append(Problem(place_of(field, self._fields[field]), "is given without a value."))
                delattr(namespace, field)
            elif isinstance(value, list):
                setattr(namespace, field, json.dumps(value))
        return namespace

    def _refuse_unknown(self, arguments: Sequence[str]) -> None:
        flags = [flag_name(field, info) for field, info in self._fields.items()]
        after_flag = False
        for argument in arguments:
            if argument.startswith("-"):
                # The value, in the same argument or the next, is not repeated: it may hold a password.
                name = argument.partition("=")[0]
                near = nearest(name, flags)
                self.problems.append(Problem(name, "is not a flag." + (f" Did you mean {near}?" if near else "")))
                after_flag = True
            elif after_flag:
                after_flag = False
            else:
                self.problems.append(Problem("the command line", "has a value that belongs to no flag."))


def _help_text(field: str, info: FieldInfo) -> str:
    if info.is_required():
        default = "required"
    elif isinstance(info.default, timedelta):
        default = f"default: {format_duration(info.default)}"
    elif isinstance(info.default, bool):
        default = f"default: {str(info.default).lower()}"
    elif info.default_factory is None and info.default not in (None, (), ""):
        default = f"default: {info.default.value if isinstance(info.default, Enum) else info.default}"
    else:
        default = ""
    return " ".join(filter(None, [info.description, f"[{environment_name(field)}{default and '; ' + default}]"]))


def _metavar(info: FieldInfo, given: str) -> str:
    extra = _extra(info, "metavar")
    if extra is not None:
        return extra
    if info.annotation is timedelta:
        return "DURATION"
    if isinstance(info.annotation, type) and issubclass(info.annotation, Enum):
        return f"{{{','.join(str(member.value) for member in info.annotation)}}}"
    return given if given.startswith("{") else given.upper()


def _extra(info: FieldInfo, key: str) -> str | None:
    extra = info.json_schema_extra
    value = extra.get(key) if isinstance(extra, dict) else None
    return value if isinstance(value, str) else None
