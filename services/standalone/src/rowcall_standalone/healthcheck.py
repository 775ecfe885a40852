"""`python -m rowcall_standalone.healthcheck`: whether `rowcall serve` in this container serves and lives, for container health.

Asks the gateway's port, and looks at the workers' sign of life where ROWCALL_HEALTH_FILE says that there is one; each says a
line. Exit code 0 where all is well, 1 otherwise.
"""

from __future__ import annotations

import os
import sys

from rowcall_gateway import healthcheck as gateway
from rowcall_worker import healthcheck as worker


def main() -> int:
    """Looks, has both say what they saw, and returns the exit code."""
    serves = gateway.main()
    lives = worker.main() if os.environ.get(worker.VARIABLE) else 0
    return max(serves, lives)


if __name__ == "__main__":
    sys.exit(main())
