"""Bytes in a request's JSON that are no base64: protobuf's parser drops what it does not know and sends the rest.

Called by `reflection` on JSON that the parser has taken, hence of the message's shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]*|[A-Za-z0-9_-]*)={0,2}")
"""Either alphabet, padded or not, as the JSON mapping of protobuf has it. Lengths are the parser's to judge."""

_OWN_JSON: Final = "google.protobuf."
"""The well-known types have a JSON of their own."""


def not_base64(value: object, kind: Descriptor, path: str = "") -> Iterator[str]:
    """The paths of bytes fields whose text is no base64.

    Args:
        value: The message's JSON, as `json.loads` gives it.
        kind: The message's type.
        path: Of the message within the request.
    """
    if not isinstance(value, Mapping) or kind.full_name.startswith(_OWN_JSON):
        return
    fields = {name: field for field in kind.fields for name in (field.json_name, field.name)}
    for name, content in value.items():
        field = fields.get(name)
        if field is not None:
            yield from _of_field(content, field, f"{path}.{name}" if path else name)


def _of_field(content: object, field: FieldDescriptor, path: str) -> Iterator[str]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        if isinstance(content, Mapping):
            for key, each in content.items():
                yield from _of_field(each, kind.fields_by_name["value"], f"{path}[{key}]")
    elif isinstance(content, list):
        for index, each in enumerate(content):
            yield from _of_field(each, field, f"{path}[{index}]")
    elif kind is not None:
        yield from not_base64(content, kind, path)
    elif field.type == FieldDescriptor.TYPE_BYTES and isinstance(content, str) and not _BASE64.fullmatch(content):
        yield path
