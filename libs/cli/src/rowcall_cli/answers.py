"""What the answers of several services have in common: times, spans, messages for scripts, and who has not answered. Used by the commands."""

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


def span_text(seconds: float) -> str:
    """A span of time, short: "2.5 s", "10 min", "3 h", "2 d"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def as_dict(message: Message, *, whole: bool = False) -> dict[str, object]:
    """A message for scripts: protobuf's JSON, with the names that the proto has.

    Args:
        message: It.
        whole: With what is 0, empty or false, too.
    """
    found: dict[str, object] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=whole
    )
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
