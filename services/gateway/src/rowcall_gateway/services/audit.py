"""rowcall.v1.AuditService: who did what, listed; where its chains end, and whether they are what they were.

A tenant's chain is on its shard; that of the system is in several pieces, one in each database. What is recorded is recorded by what is
done (`rowcall.queue`, `rowcall.sharding.revocations`) and by `disclosures`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from google.rpc.error_details_pb2 import BadRequest

from rowcall.audit.chain import BEGINNING, ERASE, Fault, FaultKind, Walk
from rowcall.audit.model import SYSTEM, Checkpoint, Content, Entry, Head, Link, Unplaced
from rowcall.audit.signing import is_signed
from rowcall.errors import RowcallError
from rowcall.names import parse_tenant_name, tenant_name
from rowcall.security.roles import ADMIN
from rowcall.sharding.audit import CatalogueAudit
from rowcall.v1.audit_service_pb2 import (
    AuditEntry,
    AuditFault,
    AuditFaultKind,
    AuditHead,
    AuditPlace,
    ListAuditEntriesRequest,
    ListAuditEntriesResponse,
    ListAuditHeadsRequest,
    ListAuditHeadsResponse,
    VerifyAuditChainRequest,
    VerifyAuditChainResponse,
)
from rowcall.v1.audit_service_pb2_grpc import AuditServiceServicer
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.validation import Validator
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge.deadlines import margin
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.edge.identity import tenant_required
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import timestamp
from rowcall_gateway.services.reading import JobReader, call_for
from rowcall_gateway.shards.links import Links, ShardLink

CHAIN_OF_SYSTEM: Final = "system"
CATALOGUE: Final = "catalogue"
"""What the catalogue is called among the databases."""

STRETCH: Final = 1000
"""Places that are read and verified at a time."""

MOST: Final = 50_000
"""Places that one call verifies."""

TOLD: Final = 1000
"""Faults that one call tells."""

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000

_SECONDS: Final = 10.0
"""That a call without a deadline verifies for."""

_KINDS: Final = {
    FaultKind.CHANGED: AuditFaultKind.AUDIT_FAULT_KIND_CHANGED,
    FaultKind.MISSING: AuditFaultKind.AUDIT_FAULT_KIND_MISSING,
    FaultKind.INSERTED: AuditFaultKind.AUDIT_FAULT_KIND_INSERTED,
    FaultKind.REHASHED: AuditFaultKind.AUDIT_FAULT_KIND_REHASHED,
    FaultKind.CUT: AuditFaultKind.AUDIT_FAULT_KIND_CUT,
    FaultKind.REWRITTEN: AuditFaultKind.AUDIT_FAULT_KIND_REWRITTEN,
    FaultKind.UNSIGNED: AuditFaultKind.AUDIT_FAULT_KIND_UNSIGNED,
}


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chain in one database."""

    database: str
    tenant: str
    """SYSTEM: of no tenant."""
    entries: Callable[..., Awaitable[Sequence[Entry]]]
    head: Callable[[], Awaitable[Head]]
    chain: Callable[..., Awaitable[Sequence[Link]]]
    unplaced: Callable[..., Awaitable[Sequence[Unplaced]]]
    checkpoint: Callable[[], Awaitable[Checkpoint | None]]

    @property
    def name(self) -> str:
        """Of the chain."""
        return tenant_name(self.tenant) if self.tenant else CHAIN_OF_SYSTEM


class Audit(AuditServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(
        self, validator: Validator, reader: JobReader, links: Links, catalogue: CatalogueAudit, *, key: bytes | None
    ) -> None:
        """
        Args:
            validator: Of requests.
            reader: Finds a tenant's shard.
            links: Every shard's.
            catalogue: The catalogue's chain.
            key: Of checkpoints; None: their signatures are not looked at.
        """
        self._validator = validator
        self._reader = reader
        self._links = links
        self._catalogue = catalogue
        self._key = key

    async def ListAuditEntries(  # noqa: N802
        self,
        request: ListAuditEntriesRequest,
        context: Any,  # noqa: ARG002
    ) -> ListAuditEntriesResponse:
        """What was done, the latest first."""
        self._validator.check(request)
        for name in ("actor", "action", "target"):
            check_text(getattr(request, name), name)
        pieces = await self._pieces(request.chain)
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        below = _below(request.page_token)

        async def page(piece: _Piece) -> Sequence[Entry]:
            return await piece.entries(
                below=below.get(piece.database),
                limit=size + 1,
                actor=request.actor,
                action=request.action,
                target=request.target,
            )

        given, missing = await _of_each(pieces, page)
        # Each database's in its own order, which is nearly that of time.
        found = sorted(
            ((entry, piece) for piece, entries in given for entry in entries),
            key=lambda each: (each[0].content.at, each[0].number),
            reverse=True,
        )
        shown = found[:size]
        response = ListAuditEntriesResponse(
            entries=[_entry(entry, piece) for entry, piece in shown], unreachable_databases=sorted(missing)
        )
        if len(found) > size:
            for entry, piece in shown:
                below[piece.database] = min(entry.number, below.get(piece.database, entry.number))
            response.next_page_token = _token(below)
        return response

    async def ListAuditHeads(  # noqa: N802
        self,
        request: ListAuditHeadsRequest,
        context: Any,  # noqa: ARG002
    ) -> ListAuditHeadsResponse:
        """Where a chain ends, in each database that has a piece of it."""
        self._validator.check(request)
        given, missing = await _of_each(await self._pieces(request.chain), lambda piece: piece.head())
        return ListAuditHeadsResponse(
            heads=[_head(head, piece) for piece, head in given], unreachable_databases=sorted(missing)
        )

    async def VerifyAuditChain(  # noqa: N802
        self,
        request: VerifyAuditChainRequest,
        context: Any,  # noqa: ARG002
    ) -> VerifyAuditChainResponse:
        """Makes a chain's hashes again, from where the last answer ended, for as long as the call leaves time."""
        self._validator.check(request)
        pieces = await self._pieces(request.chain)
        piece = _chosen(pieces, request)
        call = call_for(request.chain)
        return await self._verify(call, piece, request)

    async def _verify(
        self, call: IncomingCall, piece: _Piece, request: VerifyAuditChainRequest
    ) -> VerifyAuditChainResponse:
        clock = asyncio.get_running_loop().time
        remaining = call.remaining()
        end = clock() + (_SECONDS if remaining is None else max(remaining - margin(remaining), 0) / 2)
        earlier = {each.place: bytes.fromhex(each.hash) for each in request.earlier_heads}
        response = VerifyAuditChainResponse()
        faults: list[Fault] = []
        checkpoint = await piece.checkpoint()
        place, hash_ = 0, BEGINNING
        if request.HasField("start"):
            place, hash_ = request.start.place, bytes.fromhex(request.start.hash)
        elif checkpoint is not None:
            place, hash_ = checkpoint.place, checkpoint.hash
            faults += self._at_checkpoint(piece, checkpoint, earlier)
        walk = Walk(piece.tenant, place=place, hash_=hash_, erasures=await _erasures(piece))
        if checkpoint is not None:
            response.checkpoint = checkpoint.place
            response.checkpoint_verified = self._key is not None
            response.gone_places.extend(sorted(place for place in earlier if place < checkpoint.place))
        begun = walk.place
        more = True
        while more:
            links = await piece.chain(after=walk.place, limit=STRETCH)
            for link in links:
                faults += walk.over([link])
                if link.hash != earlier.get(link.place, link.hash):
                    faults.append(_rewritten(link.place))
            response.checked += len(links)
            more = len(links) == STRETCH
            if response.checked >= MOST or clock() >= end or len(faults) >= TOLD:
                break
        if not more:
            faults += await _at_the_end(piece, walk.place, [place for place in earlier if place > begun])
        response.more = more
        response.erased = walk.erased
        response.faults.extend(
            AuditFault(kind=_KINDS[fault.kind], place=fault.place, description=fault.description)
            for fault in faults[:TOLD]
        )
        if walk.place:
            response.end.CopyFrom(AuditPlace(place=walk.place, hash=walk.hash.hex()))
        return response

    def _at_checkpoint(self, piece: _Piece, checkpoint: Checkpoint, earlier: Mapping[int, bytes]) -> list[Fault]:
        faults = []
        if self._key is not None and not is_signed(self._key, piece.tenant, checkpoint):
            faults.append(
                Fault(
                    FaultKind.UNSIGNED,
                    checkpoint.place,
                    f"Up to place {checkpoint.place} entries were cut off, and that is not signed with this gateway's key.",
                )
            )
        if checkpoint.hash != earlier.get(checkpoint.place, checkpoint.hash):
            faults.append(_rewritten(checkpoint.place))
        return faults

    async def _pieces(self, chain: str) -> list[_Piece]:
        """The pieces of a chain that the caller may see.

        Raises:
            RowcallError: INVALID_NAME, NOT_KNOWN, MISSING_ROLE, TENANT_REQUIRED, or what the router raises.
        """
        call = call_for(chain)
        if chain == CHAIN_OF_SYSTEM:
            if not call.principal.has_role((ADMIN,)):
                raise RowcallError(
                    ErrorReason.ERROR_REASON_MISSING_ROLE,
                    "The chain system is of all tenants, and for callers with the role admin; leave chain out for your own tenant's.",
                    metadata={"method": "rowcall.v1.AuditService", "roles": ADMIN},
                )
            return [*(_on_shard(link, SYSTEM) for link in self._links), _of_catalogue(self._catalogue)]
        if chain and parse_tenant_name(chain) is None:
            raise RowcallError(
                ErrorReason.ERROR_REASON_INVALID_NAME,
                "There is no such chain: it is tenants/{tenant}, system, or empty for the caller's tenant.",
                metadata={"name": chain},
            )
        if not call.tenant:
            raise tenant_required()
        if chain not in ("", tenant_name(call.tenant)):
            raise not_known("tenant", chain)
        link = await self._reader.link(call)
        # Who never submitted anything has nothing that could have been acted upon.
        return [] if link is None else [_on_shard(link, call.tenant)]


def _on_shard(link: ShardLink, tenant: str) -> _Piece:
    admin = link.admin
    return _Piece(
        link.name,
        tenant,
        partial(admin.audit_entries, tenant),
        partial(admin.audit_head, tenant),
        partial(admin.audit_chain, tenant),
        partial(admin.audit_unplaced, tenant),
        partial(admin.audit_checkpoint, tenant),
    )


def _of_catalogue(catalogue: CatalogueAudit) -> _Piece:
    async def unplaced(*, limit: int) -> Sequence[Unplaced]:  # noqa: ARG001 - as shards'
        # An entry without a place cannot be there.
        return []

    async def checkpoint() -> Checkpoint | None:
        # It is small, and kept whole.
        return None

    return _Piece(CATALOGUE, SYSTEM, catalogue.entries, catalogue.head, catalogue.chain, unplaced, checkpoint)


async def _of_each(
    pieces: Sequence[_Piece], question: Callable[[_Piece], Awaitable[T]]
) -> tuple[list[tuple[_Piece, T]], list[str]]:
    """What each piece's database says, and the databases that do not answer. Raises RowcallError where none does."""

    async def ask(piece: _Piece) -> T | RowcallError:
        try:
            return await question(piece)
        except RowcallError as error:
            return error

    answers = await asyncio.gather(*map(ask, pieces))
    given: list[tuple[_Piece, T]] = []
    missing: list[str] = []
    for piece, answer in zip(pieces, answers, strict=True):
        if isinstance(answer, RowcallError):
            missing.append(piece.database)
            if len(missing) == len(pieces):
                raise answer
        else:
            given.append((piece, answer))
    return given, missing


def _chosen(pieces: Sequence[_Piece], request: VerifyAuditChainRequest) -> _Piece:
    """The piece to verify. Raises RowcallError: NOT_KNOWN, INVALID_REQUEST."""
    if request.database:
        found = next((piece for piece in pieces if piece.database == request.database), None)
        if found is None:
            raise not_known("database", request.database)
        return found
    if not pieces:
        raise not_known("chain", request.chain or "of the caller's tenant")
    if len(pieces) > 1:
        names = ", ".join(sorted(piece.database for piece in pieces))
        violation = BadRequest.FieldViolation(field="database", description=f"is empty; it is one of {names}")
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_REQUEST,
            f"The chain system is in several databases, each with its own: say in database which of {names}.",
            details=[BadRequest(field_violations=[violation])],
        )
    return pieces[0]


async def _erasures(piece: _Piece) -> list[Content]:
    """The entries that say what was erased: they come behind it, and are few."""
    found: list[Entry] = []
    while page := await piece.entries(below=found[-1].number if found else None, limit=STRETCH, action=ERASE):
        found += page
        if len(page) < STRETCH:
            break
    return [entry.content for entry in found]


async def _at_the_end(piece: _Piece, place: int, earlier: Sequence[int]) -> list[Fault]:
    """What is wrong with the end of a chain: earlier heads beyond it, entries without a place."""
    faults = [
        Fault(FaultKind.CUT, each, f"The chain ends at place {place}; earlier it went to place {each} at least.")
        for each in sorted(earlier)
        if each > place
    ]
    faults += [
        Fault(
            FaultKind.INSERTED,
            0,
            f"An entry of {each.at.isoformat(sep=' ', timespec='seconds')} ({each.action} of {each.target}) has no place, "
            "though all of its time were given one.",
        )
        for each in await piece.unplaced(limit=STRETCH)
    ]
    return faults


def _rewritten(place: int) -> Fault:
    return Fault(
        FaultKind.REWRITTEN,
        place,
        f"The hash of place {place} is not what it was earlier: an entry up to there was changed, and the chain hashed anew.",
    )


def _entry(entry: Entry, piece: _Piece) -> AuditEntry:
    return audit_entry(entry, chain=piece.name, database=piece.database)


def audit_entry(entry: Entry, *, chain: str, database: str) -> AuditEntry:
    """An entry of a chain, and of a database, by their names."""
    content = entry.content
    return AuditEntry(
        chain=chain,
        database=database,
        place=entry.place or 0,
        create_time=timestamp(content.at),
        actor=content.actor or "",
        credential=content.credential or "",
        roles=[] if content.roles is None else content.roles.split(","),
        action=content.action,
        target=content.target,
        before=content.before or "",
        after=content.after or "",
        reason=content.reason or "",
        trace_id=content.trace_id or "",
        hash="" if entry.hash is None else entry.hash.hex(),
    )


def _head(head: Head, piece: _Piece) -> AuditHead:
    return AuditHead(
        chain=piece.name,
        database=piece.database,
        place=head.place,
        hash=head.hash.hex(),
        seal_time=timestamp(head.sealed_at),
        checkpoint=head.checkpoint,
        unsealed=head.unsealed,
        unsealed_since=timestamp(head.unsealed_since),
    )


def _token(below: Mapping[str, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(below, separators=(",", ":")).encode()).decode()


def _below(token: str) -> dict[str, int]:
    """Below which number to go on, by database. It keeps nothing secret: whoever may list may list all."""
    if not token:
        return {}
    try:
        below = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        below = None
    if not isinstance(below, dict) or not all(type(each) is int and 0 <= each < 2**63 for each in below.values()):
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_PAGE_TOKEN,
            "The page token is not one that this list gave out; send next_page_token back as it was, or none for the first page.",
        )
    return below
