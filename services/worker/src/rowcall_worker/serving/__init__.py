"""What a servicer's author touches: how servicers are registered, the context, what can be said and asked for in a handler.

Here: `handlers`, `descriptors` (what was registered, and what is known of it); `context` over `attempt` (gRPC's context, and the
job's); `outcome_values` and `operations` (what a handler answers with), `served` (the same behind a plain gRPC server);
`abilities`, which are `children`, `progress` and `transaction`; `model_calls` (what calls of models and providers cost),
`prices` (what is asked for them), `spending` (what is not written yet) and `direct` (whether a handler is served without a worker);
`outgoing` (where it is in its trace, for whom it calls) with `instrumented` (clients that tell of their calls). The public names of all this are `rowcall_worker`'s own.

The lowest room: it imports no other one, nor the settings.
"""
