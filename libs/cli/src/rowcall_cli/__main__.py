"""The command rowcall, and `python -m rowcall_cli`: signals first, then everything else."""

from __future__ import annotations

import os
import sys

from rowcall.signals import end_on_signals, interrupt
from rowcall.starting import importing


def main() -> int:
    """Runs a command; see `rowcall_cli.main`."""
    end_on_signals()
    # gRPC writes lines of its own to stderr about connections that fail; commands say it in words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Takes a while, in which a signal may come.
    with importing():
        from rowcall_cli.main import main as run

    # Ctrl-C ends a command in order: it may have something to say. SIGTERM has its own handler in `dev` and `demo` only.
    interrupt()
    return run()


if __name__ == "__main__":
    sys.exit(main())
