"""The command rowcall-gateway, and `python -m rowcall_gateway`: signals first, then everything else."""

from __future__ import annotations

from rowcall.signals import end_on_signals
from rowcall.starting import UNUSED_BY_SERVICES, importing


def main() -> None:
    """Runs a gateway; see `rowcall_gateway.main`."""
    end_on_signals()
    # Takes a while, in which a signal may come. structlog would take rich along, for tracebacks that are none of ours.
    with importing(without=("rich",), later=UNUSED_BY_SERVICES):
        from rowcall_gateway.main import main as run

    run()


if __name__ == "__main__":
    main()
