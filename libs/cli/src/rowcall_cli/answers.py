"""What the answers of several services have in common: times, messages for scripts, and who has not answered. Used by the commands."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall_cli.errors import CommandError, ExitCode


def second_text(time: Timestamp) -> str:
    """A time in the terminal's own zone, to the second."""
    return time.ToDatetime(tzinfo=UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def as_dict(message: Message) -> dict[str, object]:
    """A message for scripts: protobuf's JSON, with the names that the proto has."""
    found: dict[str, object] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def complete(missing: Collection[str]) -> None:
    """Holds an answer to be all of it.

    Args:
        missing: Shards and databases that have not answered.

    Raises:
        CommandError: UNREACHABLE, where there are any.
    """
    if missing:
        raise CommandError(f"Not all of it: no answer from {', '.join(sorted(missing))}.", ExitCode.UNREACHABLE)
