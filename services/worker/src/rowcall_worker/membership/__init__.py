"""Who this process is on a shard, and that it lives.

Here: `registration` (an identity new at each registration, with the attempts that run under it), `lease` (its renewal from a
thread of its own), `looplag` (how late the event loop is), `alive` (the sign of life that `healthcheck` looks at) with `signs` (the
files it is in). Put together by `rowcall_worker.shard`; `looplag` and `alive` are the process's.

Uses `settling`, `running` and `serving`. It claims nothing and imports nothing of `claiming`.
"""
