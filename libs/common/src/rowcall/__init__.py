"""Rowcall's common library: the contract, the error envelope, the queue on Postgres and what services share.

Packages: `queue` (jobs as rows), `catalogue` (job methods), `sharding` (tenants and connections), `migrations` (the schema),
`settings`, `security` (roles, passwords of Postgres), `audit` (who did what), `incidents` (what went wrong), `telemetry` (what a process counts of itself), `ops` (the port that tells it), `embedded` (Postgres for development), `processes` (several of one command); `v1`, `options` and `probe` are generated.

Modules: `errors` (the error envelope), `context` (who calls, bound to the code that runs), `tracing` (trace context), `logs`,
`stderr` (which nobody waits for), `validation` (a message held to its proto's rules), `starting` (what imports need not do),
`signals` (before a service's own handlers are there), `ending` (that a process ends when it is told to), `forks` (what becomes of
a child that a handler forks), `names` (of tenants and operations), `address` (where a service listens), `bounds` (how much is let in, as values), `liveness` (of an idle connection), `sessions` (what one of
Postgres must be to serve), `garbage` (what the collector need not look at), `heaps` (that
threads share), `apart` (threads that handlers cannot keep), `rounds` (what comes round, and goes on).

It imports no service.
"""
