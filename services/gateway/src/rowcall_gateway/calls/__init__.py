"""The life of one call of a job method: decoded, checked, made a row, waited for, answered.

Here: `generic` serves every job method by its descriptor; `drafts` makes of what came what can be submitted; `submissions`
takes it to its tenant's shard; `job_calls` is the call from its row to its answer; `background` is what outlives it.
Put together by `rowcall_gateway.server`; `services.jobs` submits through it too.

Uses `shards` and `edge`. It imports no service (`services`) and knows no job type by name.
"""
