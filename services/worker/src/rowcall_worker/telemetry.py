"""What calls of models and providers cost, recorded by the handler that makes them: docs/spend.md.

from rowcall_worker import telemetry

async with telemetry.model_call("openai", "gpt-7") as call:
    answer = await client.responses.create(model="gpt-7", input=question)
    call.tokens(input=answer.usage.input_tokens, output=answer.usage.output_tokens)
"""

from __future__ import annotations

from rowcall_worker.serving.model_calls import (
    MeteredCall,
    ModelCall,
    ProviderCall,
    flush,
    flush_in_thread,
    model_call,
    provider_call,
)

__all__ = [
    "MeteredCall",
    "ModelCall",
    "ProviderCall",
    "flush",
    "flush_in_thread",
    "model_call",
    "provider_call",
]
