"""A call's request of a job method: decoded, and told apart from others by its fingerprint.

Used by the gateway for calls, and by the worker for the jobs that handlers submit.
"""

from __future__ import annotations

import hashlib
from typing import Final

from google.protobuf.message import DecodeError, Message

from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason

FORMAT: Final = b"\x01"
"""What a fingerprint begins with: the number of the way in which it is made, another one whenever that changes. A key that
has a fingerprint of another format is compared by the stored request: see `rowcall.queue.protocol.JobStore.kept_fingerprint`."""

_HASH_BYTES: Final = 16


def decode(method: JobMethod, data: bytes) -> Message:
    """The request of a call, of the method's request type. Fields that the type does not know are kept.

    Raises:
        RowcallError: UNDECODABLE_REQUEST.
    """
    try:
        message = method.request_class.FromString(data)
    except DecodeError as error:
        raise _undecodable(method, "the bytes are not such a message") from error
    if not message.IsInitialized():
        raise _undecodable(method, "a required field is missing")
    return message


def fingerprint(key: bytes, message: Message) -> bytes:
    """What is the same for two calls only if their requests are: the format's number and a keyed hash, 17 bytes.

    The message is serialised anew, so that clients that order map entries or fields differently agree. What is inside an Any
    is taken by its bytes, for another gateway may not know its type: whether requests with different fingerprints are
    different is asked of the shard.

    Args:
        key: The shard's key.
        message: The decoded request.
    """
    data = message.SerializeToString(deterministic=True)
    # A hash that Postgres has too: rowcall.submit_v1 makes the same one. Cut off, it cannot be prolonged.
    return FORMAT + hashlib.sha256(key + data).digest()[:_HASH_BYTES]


def _undecodable(method: JobMethod, what: str) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST,
        f"{method.name} takes a {method.request_type}, and {what}; generate the client from the proto that the "
        "gateway serves.",
        metadata={"type": method.request_type},
    )
