"""How much is let in: bounds that operators set, asked before a call costs anything and before there is a row of it.

Here: `admission` is the whole of it, made by `rowcall_gateway.server`, asked by `calls` and by `services.jobs`; `known` has the bounds, read
from the catalogue and left on the shards; `passes` is a call by all the bounds on it; `meters` is how much of one bound this gateway lets in; `lines` is who waits a moment for a turn;
`shares` is the arithmetic;
`leases` tells each shard once a second what this gateway needs, and hears what the others do; `refusals` is what a caller is told, and
what is counted of it.

Nothing of it is asked by operators' RPCs, health checks and settling, which get through when callers do not. It imports neither `calls` nor
`shards`: it is handed each shard's `AdmissionStore`.
"""
