"""One attempt, from request to outcome.

Here: `attempt` (one while it runs), `executor` (runs attempts in the process's slots), `outcomes` (what an attempt came to),
`settlements` (of one that failed or was ended, with its log line), `slots` (how many run at once), `timers` (when their time is
over), `reports` (what the log says of them), `locations` (where a handler raised), `handler_spans` (spans that handlers make themselves). The executor is made by `rowcall_worker.worker`, one a process; `claiming` starts
attempts on it.

Uses `serving`. It imports no room above it: outcomes go to a sink that the attempt was started with, and it never asks a
database.
"""
