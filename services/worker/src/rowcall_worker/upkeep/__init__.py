"""What comes round beside the work, on every shard.

Here: `chores` (how something comes round), `maintenance` (what every worker does: due jobs made ready, those of dead workers taken
back), `maintainer` (what one worker of a shard does for all) with `sealing` (who did what,
chained), `presence` (the shard is told what this worker serves), `room` (how much of it could run). Made by
`rowcall_worker.shard`; `claiming` hands over what it finds.

Imports no other room: it asks the queue, and tells whoever it was given.
"""
