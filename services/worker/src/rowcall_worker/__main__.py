"""The command rowcall-worker, and `python -m rowcall_worker`: signals first, then everything else."""

from __future__ import annotations

from rowcall.signals import end_on_signals


def main() -> None:
    """Runs a worker; see `rowcall_worker.main`."""
    end_on_signals()
    # Takes a while, in which a signal may come.
    from rowcall_worker.main import main as run

    run()


if __name__ == "__main__":
    main()
