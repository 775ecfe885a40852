"""What is said of a credential that is not taken: what is wrong, never what it was. Raised by all of `credentials`."""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import Final

from rowcall.errors import RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason


class Problem(enum.StrEnum):
    """What is wrong with a token: the key "problem" of TOKEN_INVALID."""

    FORMAT = "format"
    ALGORITHM = "algorithm"
    ISSUER = "issuer"
    KEY = "key"
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    TIME = "time"
    CLAIMS = "claims"


_AGAIN: Final = timedelta(seconds=1)


def token_required() -> RowcallError:
    """None was sent."""
    return RowcallError(
        ErrorReason.ERROR_REASON_CREDENTIALS_REQUIRED,
        'This gateway knows its callers by tokens: send one as metadata "authorization: Bearer …".',
    )


def certificate_required() -> RowcallError:
    """The connection has none."""
    return RowcallError(
        ErrorReason.ERROR_REASON_CREDENTIALS_REQUIRED,
        "This gateway knows its callers by client certificates: connect over TLS with one.",
    )


def token_invalid(problem: Problem, what: str, *, retry_after: timedelta | None = None) -> RowcallError:
    """It is no token that this gateway takes.

    Args:
        problem: Of what kind.
        what: The sentence after "The token", without a full stop; nothing of the token itself.
        retry_after: When the same token may be taken after all.
    """
    return RowcallError(
        ErrorReason.ERROR_REASON_TOKEN_INVALID,
        f"The token {what}.",
        metadata={"problem": problem.value},
        retry_after=retry_after,
    )


def token_expired() -> RowcallError:
    """Its time is over."""
    return RowcallError(
        ErrorReason.ERROR_REASON_TOKEN_EXPIRED, "The token's time is over: get a new one and call again."
    )


def token_revoked() -> RowcallError:
    """Somebody said so."""
    return RowcallError(
        ErrorReason.ERROR_REASON_TOKEN_REVOKED,
        "The token was issued before its subject's tokens were revoked: get a new one, if you may.",
    )


def certificate_unknown() -> RowcallError:
    """No rule names it."""
    return RowcallError(
        ErrorReason.ERROR_REASON_CERTIFICATE_UNKNOWN,
        "No rule of this gateway says who the client certificate is; its names are looked for in ROWCALL_CERTIFICATES.",
    )


def credentials_mismatch() -> RowcallError:
    """Token and certificate do not go together."""
    return RowcallError(
        ErrorReason.ERROR_REASON_CREDENTIALS_MISMATCH,
        "The client certificate may not act for the tenant that the token is for.",
    )


def keys_unavailable(issuer: str) -> RowcallError:
    """There are no keys to check it with."""
    return RowcallError(
        ErrorReason.ERROR_REASON_KEYS_UNAVAILABLE,
        "The keys of the token's issuer could not be had, so that the token cannot be checked. Call again later.",
        metadata={"issuer": issuer},
        retry_after=_AGAIN,
    )
