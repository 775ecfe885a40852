"""rowcall.v1.AccessService: what admins do about credentials."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from google.rpc.error_details_pb2 import BadRequest

from rowcall.errors import RowcallError
from rowcall.sharding.revocations import Revocations, SaidRevocation
from rowcall.v1.access_service_pb2 import (
    ListRevocationsRequest,
    ListRevocationsResponse,
    Revocation,
    RevokeCredentialsRequest,
    RevokeCredentialsResponse,
)
from rowcall.v1.access_service_pb2_grpc import AccessServiceServicer
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.validation import Validator
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge import incoming
from rowcall_gateway.resources import timestamp
from rowcall_gateway.services.tokens import number_of, number_token

if TYPE_CHECKING:
    from rowcall_gateway.edge.credentials.opening import Credentials

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000

_AHEAD: Final = timedelta(minutes=1)
"""By how much a caller's clock may be ahead of ours."""


class Access(AccessServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, revocations: Revocations, credentials: Credentials | None) -> None:
        """
        Args:
            validator: Of requests.
            revocations: The catalogue's.
            credentials: What this gateway knows its callers by; None where they are believed.
        """
        self._validator = validator
        self._revocations = revocations
        self._credentials = credentials

    async def RevokeCredentials(  # noqa: N802
        self,
        request: RevokeCredentialsRequest,
        context: Any,  # noqa: ARG002
    ) -> RevokeCredentialsResponse:
        """Refuses tokens that were issued before a time: here at once, by the other gateways within two seconds."""
        self._validator.check(request)
        for text, name in ((request.issuer, "issuer"), (request.subject, "subject"), (request.note, "note")):
            check_text(text, name)
        self._check_issuer(request.issuer)
        said = await self._revocations.revoke(
            request.issuer,
            request.subject,
            _before(request),
            by=incoming.current().principal.actor,
            note=request.note or None,
            act=incoming.current().act,
        )
        if self._credentials is not None and self._credentials.revocations is not None:
            await self._credentials.revocations.look()
        return RevokeCredentialsResponse(revocation=_revocation(said))

    async def ListRevocations(  # noqa: N802
        self,
        request: ListRevocationsRequest,
        context: Any,  # noqa: ARG002
    ) -> ListRevocationsResponse:
        """What was revoked, the latest first."""
        self._validator.check(request)
        check_text(request.issuer, "issuer")
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        found = await self._revocations.page(request.issuer, number_of(request.page_token), size + 1)
        shown = found[:size]
        return ListRevocationsResponse(
            revocations=map(_revocation, shown),
            next_page_token=number_token(shown[-1].number) if len(found) > size else "",
        )

    def _check_issuer(self, issuer: str) -> None:
        """Refuses what would have no effect: a typo must not look like a revocation."""
        trusted = None if self._credentials is None else self._credentials.issuers
        if trusted is not None and issuer not in trusted:
            raise RowcallError(
                ErrorReason.ERROR_REASON_NOT_KNOWN,
                "This gateway takes no tokens of that issuer, so none would be refused. It must be written letter for letter "
                "as in the settings' file.",
                metadata={"name": issuer},
            )


def _before(request: RevokeCredentialsRequest) -> datetime | None:
    if not request.HasField("before_time"):
        return None
    try:
        before = request.before_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        before = None
    if before is None or before > datetime.now(UTC) + _AHEAD:
        violation = BadRequest.FieldViolation(field="before_time", description="is later than now, or no time")
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_REQUEST,
            "before_time is later than now, or no time: what is issued after a revocation is meant to be good.",
            details=[BadRequest(field_violations=[violation])],
        )
    return before


def _revocation(said: SaidRevocation) -> Revocation:
    return Revocation(
        issuer=said.issuer,
        subject=said.subject,
        before_time=timestamp(datetime.fromtimestamp(said.before, UTC)),
        create_time=timestamp(said.said_at),
        actor=said.actor or "",
        note=said.note or "",
    )
