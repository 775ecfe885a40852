"""The schema of log lines: what is checked in is what the fields say, and units are in names."""

from __future__ import annotations

import json

from rowcall.logs import FIELDS, LEVELS
from tools.log_schema import MADE, REQUIRED, TYPES, schema, written


def test_what_is_checked_in_is_what_the_fields_say() -> None:
    assert MADE.read_text("utf-8") == written(), "run make generate"


def test_what_is_said_of_a_field_is_said_of_one_that_there_is() -> None:
    assert set(TYPES) <= FIELDS
    assert set(REQUIRED) <= set(TYPES)
    assert set(LEVELS) <= set(TYPES["level"]["enum"])


def test_a_field_with_a_unit_is_a_number_in_it() -> None:
    properties = schema()["properties"]
    for name in FIELDS:
        unit = {"_ms": "Milliseconds.", "_bytes": "Bytes."}.get(f"_{name.rpartition('_')[2]}")
        if unit is not None:
            assert properties[name] == {"type": ["number", "null"], "description": unit}
    assert "message" not in json.dumps(properties["exception"]["anyOf"])
