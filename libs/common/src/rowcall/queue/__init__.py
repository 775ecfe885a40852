"""The queue: jobs as rows, submitted by gateways, claimed and settled by workers.

Here is the interface, which services are written against: `protocol` (a shard's queue, from `QueueProvider` on), `transactions` and
`hints` (what belongs to it), `model` (jobs and what becomes of them, as values), `spend` (what their calls of others cost), `actions` (what belongs to one trace), `tally` (what happens to jobs, counted), `tenants` (what is kept of one: exported, erased), `statuses` and `faults` (what is said of failures),
`marks` and `turns` (how claims and tenants go on fairly), `sweeps` (from when on what comes round looks), `depths` (what shards stand at, kept for gauges). None of it knows a database.

`postgres` is the one implementation. `choice` is the one place that chooses it: services import neither.
"""
