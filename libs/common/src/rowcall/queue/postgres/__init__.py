"""The queue on Postgres: one implementation of `rowcall.queue.protocol`, over the pools of one shard.

Here: `provider` (all of it, for one shard); `store`, `work` and `admin` (the gateway's, the worker's and the operators' part), `admission` (what gateways let
in by), `tenants` (what is kept of one), on `submitting`, `settling`, `transaction` and `registry`, which run statements by `session`; `spending` (what was spent, as rows); `tallies` (what happened to jobs); `auditing` (who did
what), `triage` (what went wrong) and `actions` (what belongs to one trace); `hints` (NOTIFY), `renewal` (a lease, from a thread) and `activity` (spans, from a thread) with
connections of their own; `capabilities` (what of the server is done without); `rows` (rows as values), `statements` with `sql/` (one statement a file), `faults` (what an error of the
database means). `wire` is how statements go over the wire. Imported by `rowcall.queue.choice`, and by no service.
"""
