"""`python -m rowcall_worker.healthcheck`: whether the worker of this container is alive, by its sign of life. Of several processes
(--processes), all must be.

Reads ROWCALL_HEALTH_FILE as the worker does. One line, exit code 0 or 1.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

from rowcall_worker.membership.signs import STALE_AFTER, files_of

VARIABLE: Final = "ROWCALL_HEALTH_FILE"


def main() -> int:
    """Looks, says what it saw, and returns the exit code."""
    name = os.environ.get(VARIABLE)
    if not name:
        return _say(f"{VARIABLE} is not set; give worker and check the same file, such as /tmp/rowcall-worker.alive", 1)
    try:
        for file in files_of(Path(name)):
            age = time.time() - file.stat().st_mtime
            if age > STALE_AFTER.total_seconds():
                return _say(f"no sign of life for {age:.0f} s: {file}", 1)
    except OSError as error:
        return _say(f"no sign of life: {error.filename}: {error.strerror}", 1)
    return _say("is alive", 0)


def _say(line: str, exit_code: int) -> int:
    sys.stdout.write(f"rowcall-worker: {line}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
