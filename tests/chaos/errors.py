"""Errors as a line of a verdict: code, reason and message, whether a caller got them or a row keeps them."""

from __future__ import annotations

from typing import Final

import grpc
from google.rpc.status_pb2 import Status

from rowcall.errors import grpc_code, read_envelope, status_of

_LONGEST: Final = 300
"""Characters of a message that are shown."""


def of_call(error: grpc.aio.AioRpcError) -> str:
    """The error of a call: "INTERNAL HANDLER_ERROR: what it says". What has no reason is not of ours."""
    return of_status(status_of(error))


def of_status(status: Status) -> str:
    """An envelope."""
    info = read_envelope(status)
    return f"{grpc_code(status).name} {info.reason if info else 'without a reason'}: {status.message[:_LONGEST]}"
