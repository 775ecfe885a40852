"""Page tokens, opaque to callers (AIP-158): the last id of a page, and a hash that binds it to what the page is of.

Called by the modules that list.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final
from uuid import UUID

from rowcall.errors import RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason

_HASH_BYTES: Final = 12


def make(key: bytes, about: bytes, last: UUID) -> str:
    """A token for the page after this one.

    Args:
        key: The shard's, so that nobody makes up a token.
        about: Whose list this is and what is in it; the same for each of its pages.
        last: The last id of this page.
    """
    return base64.urlsafe_b64encode(last.bytes + _hash(key, about, last)).decode()


def read(key: bytes, about: bytes, token: str) -> UUID:
    """The last id of the page before.

    Args:
        key: As given to `make`.
        about: As given to `make`.
        token: As the caller sent it.

    Raises:
        RowcallError: INVALID_PAGE_TOKEN.
    """
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) == 16 + _HASH_BYTES:
        last = UUID(bytes=data[:16])
        if hmac.compare_digest(data[16:], _hash(key, about, last)):
            return last
    raise RowcallError(
        ErrorReason.ERROR_REASON_INVALID_PAGE_TOKEN,
        "The page token is not one that this list gave out; send next_page_token back as it was, with the same filter, "
        "or none for the first page.",
    )


def _hash(key: bytes, about: bytes, last: UUID) -> bytes:
    return hashlib.blake2b(last.bytes + about, digest_size=_HASH_BYTES, key=key, person=b"page token").digest()


def make_text(key: bytes, about: bytes, position: str) -> str:
    """`make`, of a page that ends with a text."""
    data = position.encode()
    return base64.urlsafe_b64encode(_hash_of(key, about, data) + data).decode()


def read_text(key: bytes, about: bytes, token: str) -> str:
    """`read`, of a page that ends with a text.

    Raises:
        RowcallError: INVALID_PAGE_TOKEN.
    """
    data = _decoded(token)
    if len(data) > _HASH_BYTES and hmac.compare_digest(data[:_HASH_BYTES], _hash_of(key, about, data[_HASH_BYTES:])):
        return data[_HASH_BYTES:].decode()
    raise _invalid("send next_page_token back as it was, with the same request, or none for the first page.")


def text_token(text: str) -> str:
    """The page token of a list that ends with a text."""
    return base64.urlsafe_b64encode(text.encode()).decode()


def text_of(token: str) -> str:
    """The text that a page token stands for; empty without one. It keeps nothing secret: whoever may list may list all.

    Raises:
        RowcallError: INVALID_PAGE_TOKEN.
    """
    if not token:
        return ""
    try:
        text = _decoded(token).decode()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise _invalid("send next_page_token back as it was, or none for the first page.")
    return text


def _hash_of(key: bytes, about: bytes, position: bytes) -> bytes:
    # Which of both it is of is told apart by their lengths.
    hashed = len(about).to_bytes(4, "big") + about + position
    return hashlib.blake2b(hashed, digest_size=_HASH_BYTES, key=key, person=b"text token").digest()


def _decoded(token: str) -> bytes:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _invalid(todo: str) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_INVALID_PAGE_TOKEN, f"The page token is not one that this list gave out; {todo}"
    )


def number_token(number: int) -> str:
    """The page token of a list that ends with a number."""
    return base64.urlsafe_b64encode(number.to_bytes(8, "big")).decode()


def number_of(token: str) -> int | None:
    """The number that a page token stands for. It keeps nothing secret: whoever may list may list all."""
    if not token:
        return None
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != 8 or data[0] & 0x80:
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_PAGE_TOKEN,
            "The page token is not one that this list gave out; send next_page_token back as it was, or none for the first page.",
        )
    return int.from_bytes(data, "big")
