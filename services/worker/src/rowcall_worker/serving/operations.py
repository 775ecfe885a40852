"""What a handler of an Operation-returning method answers with, and how a test or a caller reads it.

Used by servicers (`finished`), by whoever holds an operation (`response`), and by the worker, which checks what
handlers answered.
"""

from __future__ import annotations

from typing import TypeVar

from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

_ResponseT = TypeVar("_ResponseT", bound=Message)


class OperationFailed(Exception):
    """The operation is done, and its result is an error: `status` has code, message and details."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.message} (code {status.code})")
        self.status = status


def finished(response: Message) -> Operation:
    """A finished operation with this response: what a handler of an Operation-returning method returns.

    Its name and metadata are filled in by the gateway. The worker checks the response's type against the method's
    `google.longrunning.operation_info`.
    """
    operation = Operation(done=True)
    operation.response.Pack(response)
    return operation


def response(operation: Operation, response_class: type[_ResponseT]) -> _ResponseT:
    """The response in a finished operation.

    Args:
        operation: As a handler, a call or WaitOperation returned it.
        response_class: The generated class of the method's response type.

    Raises:
        ValueError: The operation is not done.
        OperationFailed: It is done and failed.
        TypeError: Its response is of another type.
    """
    if not operation.done:
        raise ValueError(f"{operation.name or 'the operation'} is not done: await it with WaitOperation")
    if operation.HasField("error"):
        raise OperationFailed(operation.error)
    unpacked = response_class()
    if not operation.response.Unpack(unpacked):
        raise TypeError(
            f"the operation holds {packed_type(operation) or 'no response'}, not {response_class.DESCRIPTOR.full_name}"
        )
    return unpacked


def packed_type(operation: Operation) -> str:
    """The full name of the type of an operation's response; empty if it has none."""
    return operation.response.type_url.rpartition("/")[2]
