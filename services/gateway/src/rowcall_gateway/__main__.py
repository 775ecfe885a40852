"""The command rowcall-gateway, and `python -m rowcall_gateway`: signals first, then everything else."""

from __future__ import annotations

from rowcall.signals import end_on_signals


def main() -> None:
    """Runs a gateway; see `rowcall_gateway.main`."""
    end_on_signals()
    # Takes a second, in which a signal may come.
    from rowcall_gateway.main import main as run

    run()


if __name__ == "__main__":
    main()
