"""The schema of catalogue and shards, and the command's half of applying it: `rowcall migrate`.

Numbered plain SQL in `{catalogue,shard}/{pre,post}`, versions counted beside it in `versions.txt`: `pre` is applied before the new release of the services runs (it
only adds), `post` when the old one is gone (it takes away). Never run at a service's start; services call
`check_schema`. Until the tag v0.1.0-rc.1 a file is edited in place and databases are made anew; from then on a change is a new file,
for its checksum is recorded.

Here: `runner` (applies), `discovery` (which there are), `record` (which were applied), `compatibility` (whether a service fits),
`server` (whether the server does), `roles` (which must be there, and who makes them), `failures` and `errors` (what is said when
it ends badly), `history` (how far ahead days of history are made).
"""

from rowcall.migrations.compatibility import check_schema
from rowcall.migrations.discovery import Kind, Migration, Phase, discover
from rowcall.migrations.errors import MigrationError, UnreachableError
from rowcall.migrations.history import HISTORY_DAYS
from rowcall.migrations.roles import Lacks, Target
from rowcall.migrations.roles import script as roles_script
from rowcall.migrations.runner import Status, lacks, migrate, status

__all__ = [
    "HISTORY_DAYS",
    "Kind",
    "Lacks",
    "Migration",
    "MigrationError",
    "Phase",
    "Status",
    "Target",
    "UnreachableError",
    "check_schema",
    "discover",
    "lacks",
    "migrate",
    "roles_script",
    "status",
]
