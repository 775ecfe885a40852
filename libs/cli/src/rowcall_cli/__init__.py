"""The `rowcall` command: operators' commands, and the development system when it is installed.

Here: `__main__` and `main` (the entry); the sub-commands `jobs` (with `job_actions`, `job_filters`, `job_names`, `job_output`), `queues`,
`methods` and `tenants` (with `pausing`, `tenant_data`), `workers`, `versions`, `top`, `images`, `admission`, `revocations`, `audit`, `incidents`, `spend`, `trace` (with `waterfall`), `submit`, `probe`, `access`, `migrate`; `gateway` (how commands
reach it), `reach/` (over TLS,
with a token), `reflection` (types this command does not know), `redaction` (secret fields masked), `base64_fields`; `flags` (times,
labels), `output`, `answers` (what the answers of several services have in common), `errors` (exit codes).

Commands call the gateway's RPCs, but for `access`, which reads images; only `migrate` knows a database, and none holds SQL.
"""
