"""From the queue to a slot: which jobs this process takes, when, and how many.

Here: `claimer` (takes ready jobs for free slots, and some ahead), `intake` (starts what was taken, or hands it back), `shares` (how queues share
the slots), `wakes` (looks that are asked for in SQL); and of jobs whose workers died `quarantine` (another process runs them), `groups` (in
that process), `suspects` and `solitude` (without one: they run alone in this one). Put together by `rowcall_worker.shard`.

Uses `membership`, `upkeep`, `settling`, `running` and `serving`; none of them imports it.
"""
