"""The roles that a credential may give a caller. What each may do is in the access rules of the methods.

Asked by the gateway, which reads them from credentials and holds them against the rules, and by the commands.
"""

from __future__ import annotations

from typing import Final

CALLER: Final = "caller"
"""Calls job methods, and looks at what it called, within its tenant."""

OPERATOR: Final = "operator"
"""Looks after its tenant's jobs: cancels, replays, resolves, pauses."""

VIEWER: Final = "viewer"
"""Reads, without payloads."""

PAYLOAD_VIEWER: Final = "payload-viewer"
"""Sees payloads where it reads."""

ADMIN: Final = "admin"
"""Acts for any tenant, which it names, and for the system as a whole."""

ROLES: Final = frozenset({CALLER, OPERATOR, VIEWER, PAYLOAD_VIEWER, ADMIN})
"""All of them."""
