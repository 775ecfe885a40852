"""What the gateway keeps for each shard: one `links.ShardLink` a shard, made at the start by `rowcall_gateway.server`.

Here: `links` (the shard's queue and all that hangs on it), `submitter` (calls into rows, many a commit), `rows` (single reads,
many a statement), `waiters` (calls that wait), `upkeep` (what comes round), `time_limits` (the ends of waits), `everywhere`
(one question to all shards), `looks` (the same, of many who watch), `schema` (whether a shard's is one that this release works with).

Uses `edge` for what refusals say. It imports neither `services` nor `calls`, and no implementation of the queue: what it
gets is `rowcall.queue.protocol`.
"""
