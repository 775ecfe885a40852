"""How much an answer holds where what is in it is bounded by nobody else. Called by `exports` and `traces`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from google.protobuf.message import Message

ANSWER_BYTES: Final = 2 * 1024 * 1024
"""What an answer holds, but for the last thing in it: gRPC's clients take 4 MiB by default."""

M = TypeVar("M", bound=Message)


def fitting(messages: Iterable[M]) -> list[M]:
    """As many of these as an answer holds, the first ones first. Those behind them are not made."""
    held: list[M] = []
    size = 0
    for message in messages:
        if size > ANSWER_BYTES:
            break
        held.append(message)
        size += message.ByteSize()
    return held
