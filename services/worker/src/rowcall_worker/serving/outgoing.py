"""Where a handler is in its trace, for whom it calls: `rowcall_worker.telemetry`, whose name this is."""

from __future__ import annotations

from rowcall import context


def trace_headers() -> dict[str, str]:
    """What a handler sends along with a call of its own, so that whom it calls goes on in the same trace: W3C's `traceparent`, and
    `tracestate` where the caller sent one. For HTTP they are headers, for gRPC metadata:

        await client.get(url, headers=telemetry.trace_headers())
        await stub.Look(request, metadata=tuple(telemetry.trace_headers().items()))

    Known wherever the call is known (`rowcall.context`): in child tasks, in threads of `asyncio.to_thread` and of the event loop's own
    pool. Empty outside of a job's handler: there is nothing to go on with. Takes a microsecond.
    """
    call = context.current()
    if call is None:
        return {}
    headers = {"traceparent": call.trace.traceparent}
    if call.trace.tracestate is not None:
        headers["tracestate"] = call.trace.tracestate
    return headers
