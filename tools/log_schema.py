"""Makes docs/log-line.schema.json, the JSON schema of a line of our logs, or says that it differs (`make generate`, `make check`).

Which fields there are is `rowcall.logs.FIELDS`; here is what those hold that others go by. The rest are words, numbers, lists of them or counts by
name, and what their unit is stands in their names.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rowcall.logs import FIELDS

ROOT: Final = Path(__file__).resolve().parent.parent
MADE: Final = ROOT / "docs" / "log-line.schema.json"

Json = dict[str, Any]

REQUIRED: Final = ("event", "level", "service", "timestamp")
"""What each line has."""

_TEXT: Final[Json] = {"type": "string"}
_TEXT_OR_NOTHING: Final[Json] = {"type": ["string", "null"]}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}

TYPES: Final[Mapping[str, Json]] = {
    "event": {**_TEXT, "minLength": 1, "description": "What happened, in the same words each time."},
    "level": {"enum": ["debug", "info", "warning", "error", "critical"]},
    "timestamp": {
        **_TEXT,
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$",
        "description": "RFC 3339, UTC.",
    },
    "service": {**_TEXT, "description": "gateway, worker, serve or dev: whose line it is."},
    "process": {**_COUNT, "description": "Which of several processes of one command."},
    "part": {**_TEXT, "description": "What this process alone is for."},
    "logger": {**_TEXT, "description": "Of a library's line: its logger."},
    "unlisted": {
        "type": "array",
        "items": _TEXT,
        "description": "Names of fields that were taken out, as they are not on the list; never their values.",
    },
    "trace_id": {
        "type": ["string", "null"],
        "pattern": "^[0-9a-f]{32}$",
        "description": "W3C's; the same in rows, spans and errors.",
    },
    "span_id": {
        "type": ["string", "null"],
        "pattern": "^[0-9a-f]{16}$",
        "description": "W3C's; of the attempt, or of what its handler does in it.",
    },
    "request_id": _TEXT_OR_NOTHING,
    "tenant": _TEXT_OR_NOTHING,
    "actor": _TEXT_OR_NOTHING,
    "credential": _TEXT_OR_NOTHING,
    "job": {**_TEXT_OR_NOTHING, "description": "An operation's name, tenants/…/operations/…, or a job's id."},
    "attempt": _COUNT,
    "method": {**_TEXT, "description": "package.Service/Method"},
    "code": {**_TEXT_OR_NOTHING, "description": "gRPC's, by name."},
    "reason": {**_TEXT_OR_NOTHING, "description": "ErrorInfo.reason, or why."},
    "exception": {
        "description": "A type, or an exception and its causes, outermost first, as types and places; never a message.",
        "anyOf": [
            _TEXT_OR_NOTHING,
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "at"],
                    "properties": {"type": _TEXT, "at": {"type": "array", "items": _TEXT}},
                    "additionalProperties": False,
                },
            },
        ],
    },
}
"""What fields hold that log stores index, and that people search by."""

_NUMBER: Final = re.compile(r".*_(ms|bytes|s)|seconds|days|pid|port")
_UNITS: Final[Mapping[str, str]] = {"ms": "Milliseconds.", "bytes": "Bytes.", "s": "Seconds.", "seconds": "Seconds."}

SCALAR: Final[Json] = {"type": ["string", "number", "boolean", "null"]}
ANY: Final[Json] = {
    "anyOf": [
        SCALAR,
        {"type": "array", "items": SCALAR},
        {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
    ]
}
"""A word, a number, several of them, or counts by name."""


def schema() -> Json:
    """The schema of a line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://rowcall.dev/log-line.schema.json",
        "title": "A line of Rowcall's log",
        "description": "One JSON object a line, where ROWCALL_LOG_FORMAT=json. A line that is none was not written by the log: what a program says "
        "before it has one, and where a process that crashes was.",
        "type": "object",
        "required": list(REQUIRED),
        "properties": {name: TYPES.get(name) or _of(name) for name in sorted(FIELDS)},
        "additionalProperties": False,
        "$defs": {"value": ANY},
    }


def _of(name: str) -> Json:
    if not _NUMBER.fullmatch(name):
        return {"$ref": "#/$defs/value"}
    unit = _UNITS.get(name.rpartition("_")[2])
    return {"type": ["number", "null"], **({"description": unit} if unit else {})}


def written() -> str:
    """The file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Writes the file, or compares it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.log_schema", description=__doc__, epilog="Example: python -m tools.log_schema --check"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; say whether it differs")
    if not parser.parse_args().check:
        MADE.write_text(written(), "utf-8")
        return 0
    if MADE.is_file() and MADE.read_text("utf-8") == written():
        return 0
    print(f"{MADE.relative_to(ROOT)} is not what rowcall.logs.FIELDS says: run make generate")
    return 1


if __name__ == "__main__":
    sys.exit(main())
