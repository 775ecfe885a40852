"""From the queue to a slot: which jobs this process takes, when, and how many.

Here: `claimer` (takes ready jobs for free slots, and some ahead), `intake` (starts what was taken, or hands it back), `shares` (how queues share
the slots), `suspects` and `solitude` (jobs whose worker died run alone). Put together by `rowcall_worker.shard`.

Uses `membership`, `upkeep`, `settling`, `running` and `serving`; none of them imports it.
"""
