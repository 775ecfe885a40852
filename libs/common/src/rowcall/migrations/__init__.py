"""The schema of catalogue and shards, and the command's half of applying it: `rowcall migrate`.

Numbered plain SQL in `{catalogue,shard}/{pre,post}`: `pre` is applied before the new release of the services runs (it
only adds), `post` when the old one is gone (it takes away). Never run at a service's start; services call
`check_schema`.
"""

from rowcall.migrations.compatibility import check_schema
from rowcall.migrations.discovery import Kind, Migration, Phase, discover
from rowcall.migrations.errors import MigrationError, UnreachableError
from rowcall.migrations.history import HISTORY_DAYS
from rowcall.migrations.runner import Status, migrate, status

__all__ = [
    "HISTORY_DAYS",
    "Kind",
    "Migration",
    "MigrationError",
    "Phase",
    "Status",
    "UnreachableError",
    "check_schema",
    "discover",
    "migrate",
    "status",
]
