"""What `rowcall dev` and `rowcall demo` refuse. Raised by the modules of this package, caught by `commands`."""

from __future__ import annotations


class StandaloneError(Exception):
    """The system cannot be started, or could not do its work; the message says why and what to do."""
