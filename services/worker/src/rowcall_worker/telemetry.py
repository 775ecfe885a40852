"""What calls of models and providers cost, recorded by the handler that makes them (docs/spend.md); and where it is in its trace, for whom it
calls (docs/tracing.md).

from rowcall_worker import telemetry

async with telemetry.model_call("openai", "gpt-7") as call:
    answer = await client.responses.create(model="gpt-7", input=question)
    call.tokens(input=answer.usage.input_tokens, output=answer.usage.output_tokens)
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio

from rowcall_worker.serving.model_calls import (
    MeteredCall,
    ModelCall,
    ProviderCall,
    flush,
    flush_in_thread,
    model_call,
    provider_call,
)
from rowcall_worker.serving.outgoing import trace_headers

__all__ = [
    "MeteredCall",
    "ModelCall",
    "ProviderCall",
    "client_interceptors",
    "flush",
    "flush_in_thread",
    "model_call",
    "provider_call",
    "trace_headers",
]


def client_interceptors() -> Sequence[grpc.aio.ClientInterceptor]:
    """Interceptors for a channel that a handler calls others by: each call goes on in the handler's trace, and is a span below its attempt
    where that is recorded.

        channel = grpc.aio.insecure_channel(address, interceptors=telemetry.client_interceptors())

    They are opentelemetry-instrumentation-grpc's, by whose names these spans are described. May be asked for once and anywhere; which trace
    it is, is looked at by each call.
    """
    # With what makes spans, where somebody asks for it.
    from rowcall_worker.serving.instrumented import client_interceptors as made

    return made()
