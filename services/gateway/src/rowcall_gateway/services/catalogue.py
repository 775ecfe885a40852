"""rowcall.v1.CatalogueService: what is served, the images that it is of, and what operators do to methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from google.rpc.code_pb2 import Code

from rowcall.audit.model import Act
from rowcall.catalogue.changes import Change
from rowcall.catalogue.changes import Kind as ChangeKind
from rowcall.catalogue.grants import MethodAccess
from rowcall.catalogue.images import LoadedImage
from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.model import Policy as MethodPolicy
from rowcall.errors import RowcallError
from rowcall.options.v1.access_pb2 import AccessRule
from rowcall.options.v1.job_pb2 import JobOptions
from rowcall.sharding.published import LivingGateway, Publication, PublishedImages
from rowcall.v1.catalogue_service_pb2 import (
    Gateway,
    Image,
    ImageChange,
    ImageChangeKind,
    ListGatewaysRequest,
    ListGatewaysResponse,
    ListImagesRequest,
    ListImagesResponse,
    ListMethodsRequest,
    ListMethodsResponse,
    Method,
    PauseMethodRequest,
    PauseMethodResponse,
    PublishImageRequest,
    PublishImageResponse,
    ResumeMethodRequest,
    ResumeMethodResponse,
    RollbackImageRequest,
    RollbackImageResponse,
)
from rowcall.v1.catalogue_service_pb2_grpc import CatalogueServiceServicer
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.validation import Validator
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.deadlines import margin
from rowcall_gateway.edge.offered import Offered
from rowcall_gateway.resources import timestamp
from rowcall_gateway.services.changes import Changes
from rowcall_gateway.services.publishing import PATIENCE, Proposal, Publishing
from rowcall_gateway.services.tokens import number_of, number_token
from rowcall_gateway.shards.everywhere import ask_everywhere
from rowcall_gateway.shards.links import Links, ShardLink

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000
_KINDS: Final = {
    ChangeKind.ADDED: ImageChangeKind.IMAGE_CHANGE_KIND_ADDED,
    ChangeKind.WIRE: ImageChangeKind.IMAGE_CHANGE_KIND_WIRE,
    ChangeKind.POLICY: ImageChangeKind.IMAGE_CHANGE_KIND_POLICY,
}


class Methods(CatalogueServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(
        self,
        validator: Validator,
        changes: Changes,
        *,
        offered: Offered,
        images: PublishedImages,
        publishing: Publishing,
        links: Links,
    ) -> None:
        """
        Args:
            validator: Of requests.
            changes: Pauses methods.
            offered: What is served.
            images: What was published, as the catalogue has it.
            publishing: What was published, as this gateway serves it.
            links: The shards, which know who serves what.
        """
        self._validator = validator
        self._changes = changes
        self._offered = offered
        self._images = images
        self._publishing = publishing
        self._links = links

    async def ListMethods(self, request: ListMethodsRequest, context: Any) -> ListMethodsResponse:  # noqa: ARG002, N802
        """What this gateway serves, and which workers do."""
        self._validator.check(request)
        answers = await ask_everywhere(self._links, _serving, incoming.current())
        workers: dict[str, set[str]] = {}
        for found in answers.given.values():
            for name, names in found.items():
                workers.setdefault(name, set()).update(names)
        catalogue, table = self._offered.catalogue, self._offered.table
        owners = {name: image for image in reversed(catalogue.images) for name in image.methods}
        return ListMethodsResponse(
            methods=[
                _method(method, table.methods[name], owners[name], workers.get(name, ()))
                for name, method in sorted(catalogue.methods.items())
            ],
            unreachable_shards=sorted(answers.missing),
        )

    async def ListImages(self, request: ListImagesRequest, context: Any) -> ListImagesResponse:  # noqa: ARG002, N802
        """What was published, the latest first."""
        self._validator.check(request)
        check_text(request.name, "name")
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        found = await self._images.page(request.name, number_of(request.page_token), size + 1)
        shown = found[:size]
        gateways = await self._images.gateways()
        return ListImagesResponse(
            images=[_image(each, gateways) for each in shown],
            next_page_token=number_token(shown[-1].number) if len(found) > size else "",
        )

    async def ListGateways(self, request: ListGatewaysRequest, context: Any) -> ListGatewaysResponse:  # noqa: ARG002, N802
        """The gateways that live, by name."""
        self._validator.check(request)
        latest = await self._images.page("", None, 1)
        newest = latest[0].number if latest else 0
        return ListGatewaysResponse(gateways=[_gateway(each, newest) for each in await self._images.gateways()])

    async def PublishImage(self, request: PublishImageRequest, context: Any) -> PublishImageResponse:  # noqa: ARG002, N802
        """Publishes an image, if it breaks nobody, or that is allowed."""
        self._validator.check(request)
        check_text(request.note, "note")
        proposal = await self._publishing.publish(
            request.name,
            request.content,
            by=incoming.current().principal.actor,
            note=request.note or None,
            act=_act(request.note),
            allow_breaking=request.allow_breaking,
            only_say=request.validate_only,
        )
        return PublishImageResponse(image=await self._published(proposal), changes=map(_change, proposal.changes))

    async def RollbackImage(self, request: RollbackImageRequest, context: Any) -> RollbackImageResponse:  # noqa: ARG002, N802
        """Publishes an earlier revision again."""
        self._validator.check(request)
        check_text(request.name, "name")
        check_text(request.note, "note")
        latest = await self._images.read(request.name)
        revision = request.revision or (0 if latest is None else latest.revision - 1)
        earlier = await self._images.read(request.name, revision) if revision else None
        if earlier is None:
            raise RowcallError(
                ErrorReason.ERROR_REASON_NOT_KNOWN,
                "There is no such revision of an image of this name; the last twenty of each are kept.",
                metadata={"name": request.name},
            )
        proposal = await self._publishing.publish(
            request.name,
            earlier.content,
            by=incoming.current().principal.actor,
            note=request.note or f"rolled back to revision {earlier.revision}",
            act=_act(request.note),
            allow_breaking=request.allow_breaking,
            rolled_back_to=earlier.revision,
        )
        return RollbackImageResponse(image=await self._published(proposal), changes=map(_change, proposal.changes))

    async def PauseMethod(self, request: PauseMethodRequest, context: Any) -> PauseMethodResponse:  # noqa: ARG002, N802
        """Pauses a method on every shard."""
        self._validator.check(request)
        await self._changes.pause(incoming.current(), "method", request.name.removeprefix("/"), request.note)
        return PauseMethodResponse()

    async def ResumeMethod(  # noqa: N802
        self,
        request: ResumeMethodRequest,
        context: Any,  # noqa: ARG002
    ) -> ResumeMethodResponse:
        """Ends a method's pause on every shard."""
        self._validator.check(request)
        await self._changes.resume(incoming.current(), "method", request.name.removeprefix("/"))
        return ResumeMethodResponse()

    async def _published(self, proposal: Proposal) -> Image | None:
        """What was published, once the gateways serve it."""
        publication = proposal.publication
        if publication is None:
            return None
        remaining = incoming.current().remaining()
        patience = PATIENCE if remaining is None else max(remaining - margin(remaining), 0)
        return _image(publication, await self._publishing.awaited(publication.number, patience))


def _act(note: str) -> Act:
    """Who does it; what for is the request's note, where it has one."""
    act = incoming.current().act
    return replace(act, reason=note) if note else act


async def _serving(link: ShardLink) -> dict[str, list[str]]:
    return await link.admin.method_serving()


def _method(method: JobMethod, access: MethodAccess, image: LoadedImage, workers: Iterable[str]) -> Method:
    rule = access.rule
    return Method(
        name=method.name,
        request_type=method.request_type,
        response_type=method.response_type,
        returns_operation=method.returns_operation,
        policy=_policy(method.policy),
        access=AccessRule(roles=sorted(rule.roles), scopes=sorted(rule.scopes), public=rule.public),
        access_source=access.source,
        image=image.label,
        image_digest=image.digest,
        workers=sorted(workers),
    )


def _policy(policy: MethodPolicy) -> JobOptions:
    made = JobOptions(
        queue=policy.queue,
        max_attempts=policy.max_attempts,
        retry_codes=[Code.Name(Code.ValueType(code)) for code in policy.retry_codes],
    )
    made.priority = policy.priority  # type: ignore[assignment]
    made.retention = policy.retention  # type: ignore[assignment]
    made.on_abandon = policy.on_abandon  # type: ignore[assignment]
    made.backoff.initial.FromTimedelta(policy.backoff_initial)
    made.backoff.maximum.FromTimedelta(policy.backoff_maximum)
    made.backoff.multiplier = policy.backoff_multiplier
    made.timeout.FromTimedelta(policy.timeout)
    made.wait.FromTimedelta(policy.wait)
    if policy.deadline is not None:
        made.deadline.FromTimedelta(policy.deadline)
    return made


def _image(published: Publication, gateways: Sequence[LivingGateway]) -> Image:
    made = Image(
        name=published.name,
        revision=published.revision,
        digest=published.digest,
        publish_time=timestamp(published.published_at),
        actor=published.actor or "",
        note=published.note or "",
        latest=published.latest,
    )
    if published.latest:
        made.gateways.extend(each.name for each in gateways if each.number >= published.number)
        made.gateways_behind.extend(each.name for each in gateways if each.number < published.number)
    return made


def _gateway(gateway: LivingGateway, newest: int) -> Gateway:
    return Gateway(
        name=gateway.name,
        version=gateway.deployed or "",
        release=gateway.version,
        start_time=timestamp(gateway.started_at),
        see_time=timestamp(gateway.seen_at),
        current=gateway.number >= newest,
    )


def _change(change: Change) -> ImageChange:
    return ImageChange(
        kind=_KINDS[change.kind],
        subject=change.subject,
        rule=change.rule,
        description=change.description,
        breaking=change.breaking,
    )
