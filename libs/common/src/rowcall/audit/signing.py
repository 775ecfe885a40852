"""The signature that a chain has where retention cut it: HMAC-SHA256 by a key that the database does not have.

Workers sign as they cut, gateways verify: both are given the key in a file (`ROWCALL_AUDIT_KEY_FILE`).
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from pathlib import Path
from typing import Final

from rowcall.audit.model import Checkpoint

LEAST_BYTES: Final = 32
"""Of a key."""


def read_key(path: Path) -> bytes:
    """The key in a file, without the white space around it.

    Raises:
        ValueError: It cannot be read, or is too short.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if len(key) < LEAST_BYTES:
        raise ValueError(
            f"{path} has a key of {len(key)} bytes; it must have {LEAST_BYTES} at least, such as `openssl rand -hex 32` makes"
        )
    return key


def sign(key: bytes, tenant: str, place: int, hash_: bytes, made_at: datetime) -> bytes:
    """The signature of a checkpoint."""
    said = f"rowcall audit checkpoint 1\n{tenant}\n{place}\n{hash_.hex()}\n{made_at.timestamp():.6f}\n"
    return hmac.digest(key, said.encode(), hashlib.sha256)


def is_signed(key: bytes, tenant: str, at: Checkpoint) -> bool:
    """Whether a checkpoint has the signature that it should."""
    return hmac.compare_digest(sign(key, tenant, at.place, at.hash, at.made_at), at.signature)
