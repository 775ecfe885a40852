"""The RPC services that are ours, one a module, with their helpers beside them.

Here: `jobs` (rowcall.v1.JobService), `operations` (google.longrunning.Operations) and `queues` (rowcall.v1.QueueService).
`job_lists`, `filters`, `selections` and `actions` serve `jobs`; `listing` serves `operations`; `reading` and `tokens` serve
several. Made and registered by `rowcall_gateway.server`, and by nobody else; a later service is one more module here.

Uses `calls`, `shards` and `edge`. None of those imports it, and it never imports the settings: the server gives values.
"""
