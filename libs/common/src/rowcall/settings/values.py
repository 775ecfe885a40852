"""How settings are written: durations, and lists and mappings as environment variables and repeated flags have them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator

_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*")
_UNITS: Final = {
    None: timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def _readable(files: tuple[Path, ...]) -> tuple[Path, ...]:
    closed = [f"{str(file)!r} ({why})" for file in files if (why := unreadable(file)) is not None]
    if closed:
        raise ValueError(f"names what cannot be read: {', '.join(closed)}")
    return files


def unreadable(file: Path) -> str | None:
    """Why a file cannot be read; None if it can."""
    # Not opened: it may be a pipe, which can be read once.
    try:
        if stat.S_ISDIR(file.stat().st_mode):
            return "a directory"
    except OSError as error:
        return error.strerror or type(error).__name__
    return None if os.access(file, os.R_OK) else "no permission"


ReadableFiles = Annotated[tuple[Path, ...], AfterValidator(_readable)]
"""The type of a setting that names files to read, so that those that are missing are told with everything else."""


def _readable_file(file: Path) -> Path:
    return _readable((file,))[0]


ReadableFile = Annotated[Path, AfterValidator(_readable_file)]
"""The type of a setting that names one such file."""


def parse_duration(value: object) -> object:
    """A duration as people write it: "500ms", "30s", "5m", "2h", "7d"; a bare number is seconds.

    Raises:
        ValueError: The text is none of these, or longer than can be counted.
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError("is not a duration; write 500ms, 30s, 5m, 2h or 7d")
    try:
        return float(match[1]) * _UNITS[match[2]]
    except OverflowError:
        raise ValueError("is a longer duration than can be counted") from None


def format_duration(duration: timedelta) -> str:
    """A duration as `parse_duration` reads it: "30s", "500ms"."""
    milliseconds = duration // timedelta(milliseconds=1)
    for unit in ("d", "h", "m", "s"):
        size = _UNITS[unit] // timedelta(milliseconds=1)
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
"""The type of a setting that is a duration."""


def is_mapping(annotation: object) -> bool:
    """Whether a setting of this type is written NAME=VALUE, several times."""
    return _container(annotation) is Mapping


def is_sequence(annotation: object) -> bool:
    """Whether a setting of this type is written several times."""
    return _container(annotation) is Sequence


def parse_container(value: str, annotation: object) -> object:
    """What an environment variable or a repeated flag says, as the list or mapping that its setting is.

    A list is JSON or separated by commas. A mapping is a JSON object, or a JSON array of "name=value".

    Raises:
        ValueError: The text is neither, or names something twice.
    """
    if is_mapping(annotation):
        return _parse_mapping(value)
    if is_sequence(annotation):
        if value.lstrip().startswith("["):
            return _parse_json(value)
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _container(annotation: object) -> type | None:
    if get_origin(annotation) in (Union, UnionType):
        arguments = [argument for argument in get_args(annotation) if argument is not NoneType]
        return _container(arguments[0]) if len(arguments) == 1 else None
    if get_origin(annotation) is Annotated:
        return _container(get_args(annotation)[0])
    origin = get_origin(annotation) or annotation
    if not isinstance(origin, type) or issubclass(origin, (str, bytes)):
        return None
    if issubclass(origin, Mapping):
        return Mapping
    if issubclass(origin, (Sequence, set, frozenset)):
        return Sequence
    return None


def _parse_mapping(value: str) -> dict[str, object]:
    decoded = _parse_json(value)
    if isinstance(decoded, list):
        pairs = []
        for item in decoded:
            name, equals, rest = str(item).partition("=")
            if not equals:
                raise ValueError("has a part without a name; write name=value")
            pairs.append((name.strip(), rest))
        return _once(pairs)
    if not isinstance(decoded, dict):
        raise ValueError("is not a JSON object of names and values")  # noqa: TRY004 - pydantic collects ValueErrors
    return decoded


def _parse_json(value: str) -> Any:
    try:
        return json.loads(value, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        # The document itself is not repeated: it may hold passwords.
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos + 1}") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"names {name!r} twice")
        result[name] = value
    return result
