"""Outcomes to the shard, many to a commit; and inside a job's own transaction where its handler has begun one.

Here: `settler`, `figures` (what is counted of them), `traces` and `attempt_line` (what is told of them). Made by `rowcall_worker.shard`; `membership.registration` hands the outcomes on.

Uses `running` and `serving`. It decides nothing of an outcome: that is `running.outcomes`'.
"""
