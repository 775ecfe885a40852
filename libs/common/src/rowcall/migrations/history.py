"""How far ahead a shard's history is made. Used by the migration runner, and by the shard's maintainer afterwards."""

from __future__ import annotations

from typing import Final

HISTORY_DAYS: Final = 14
"""How many days of history are made ahead: by a migration first, then by the shard's maintainer."""
