"""Whose call it is. Called by the servicer."""

import grpc
import grpc.aio
from google.protobuf.message import Message

from rowcall_worker import JobContext

DEFAULT_TENANT = "default"


def tenant_of(context: grpc.aio.ServicerContext[Message, Message]) -> str:
    """The job's tenant behind the queue, where the gateway has made sure of it.

    Behind a plain gRPC server, which is for tests and development, it is what the metadata says: nobody checks that.
    """
    if isinstance(context, JobContext):
        return context.tenant
    for key, value in context.invocation_metadata() or ():
        if key == "rowcall-tenant" and isinstance(value, str):
            return value
    return DEFAULT_TENANT
