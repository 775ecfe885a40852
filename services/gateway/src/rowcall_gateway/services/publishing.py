"""Images that were published, as this gateway serves them: read from the catalogue once a second, checked, and taken without a restart.

Made and started by the server, which says what it takes to serve them; asked by `catalogue` to publish.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from uuid import UUID

import structlog

from rowcall.apart import in_thread
from rowcall.audit.model import Act
from rowcall.catalogue.changes import Change, changes
from rowcall.catalogue.images import ImageError, LoadedImage, load_image
from rowcall.errors import RowcallError
from rowcall.garbage import release
from rowcall.rounds import come_round
from rowcall.sharding.published import LivingGateway, Publication, PublishedImage, PublishedImages
from rowcall.v1.error_reason_pb2 import ErrorReason

LOOK_EVERY: Final = 1.0
"""Seconds between two looks: every gateway serves what was published within two."""

PATIENCE: Final = 10.0
"""Seconds that a publication waits for the other gateways."""

_AGAIN: Final = 0.2
"""Seconds between two questions who serves it by now."""

_FIRST_LOOK: Final = 2.0
"""Seconds that the start waits for what was published."""

_log = structlog.get_logger(__name__)

Serve = Callable[[Sequence[LoadedImage]], Awaitable[None]]
"""Serves published images beside the gateway's own. Raises ImageError where they do not go together; then nothing has changed."""

Check = Callable[[Sequence[LoadedImage]], None]
"""Raises ImageError where published images do not go together with the gateway's own."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What publishing an image would do."""

    changes: Sequence[Change]
    """To what is published under its name."""
    publication: Publication | None
    """What was published; None: nothing."""


class Publishing:
    """The published images of one gateway."""

    def __init__(
        self,
        images: PublishedImages,
        *,
        gateway_id: UUID,
        name: str,
        version: str,
        deployed: str | None = None,
        check: Check,
        serve: Serve,
    ) -> None:
        """
        Args:
            images: The catalogue's.
            gateway_id: Who this gateway is.
            name: Its host and process, for people.
            version: Its release.
            deployed: Of what it runs, as whoever deploys it calls that.
            check: Says whether images can be served.
            serve: Serves them.
        """
        self._images = images
        self._gateway_id = gateway_id
        self._name = name
        self._version = version
        self._deployed = deployed
        self._check = check
        self._serve = serve
        self._served: dict[str, LoadedImage] = {}
        self._revisions: dict[str, int] = {}
        self._number = 0
        self._told = 0
        """The number of the last image that could not be served, and was said to be."""
        self._away = False
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def revisions(self) -> Mapping[str, int]:
        """What of each name is served here."""
        return MappingProxyType(self._revisions)

    async def start(self) -> None:
        """Looks once, if that takes no time, and then again and again."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="published images")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK):
                await self.look()

    async def close(self) -> None:
        """Stops, and lets the others know that nobody need wait for this gateway."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(RowcallError, TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK):
                await self._images.forget(self._gateway_id)

    async def look(self) -> None:
        """Serves what was published since the last look. Where the catalogue is away, what is served stays."""
        async with self._looking:
            try:
                while found := await self._after():
                    before = self._number
                    await self._take(found)
                    if self._number == before:
                        break
            except RowcallError as error:
                if not self._away:
                    self._away = True
                    _log.warning("published images cannot be read, what is served stays", error=error.message)
                return
            if self._away:
                self._away = False
                _log.info("published images are read again")

    async def publish(
        self,
        name: str,
        content: bytes,
        *,
        by: str | None,
        note: str | None,
        act: Act | None = None,
        allow_breaking: bool,
        only_say: bool = False,
        rolled_back_to: int | None = None,
    ) -> Proposal:
        """Publishes an image, if it can be served and breaks nobody, or that is allowed, and serves it.

        Args:
            name: Its name.
            content: A serialised FileDescriptorSet.
            by: Who publishes it.
            note: What for.
            act: Recorded with it.
            allow_breaking: Publish it though it breaks callers.
            only_say: Publish nothing, only say what it would change.
            rolled_back_to: The earlier revision that it is; None: it is a new one.

        Raises:
            RowcallError: INVALID_REQUEST: it cannot be served; CONFLICT: somebody else published just then; what the catalogue
                raises.
        """
        digest = hashlib.sha256(content).hexdigest()
        current = await self._images.read(name)
        try:
            image = await in_thread(load_image, content, name)
            # What everybody serves goes by the catalogue; this gateway has it, or a moment later.
            self._check([*(each for key, each in self._served.items() if key != name), image])
        except ImageError as error:
            raise _unservable(error) from error
        if not image.methods:
            raise _unservable(ImageError([f"{name}: has no job method, so nothing of it would be served"]))
        old = None if current is None else await self._loaded(name, current.digest, current.content)
        found = changes(old, image)
        same = current is not None and current.digest == digest
        if only_say or same or (not allow_breaking and any(each.breaking for each in found)):
            return Proposal(found, None)
        published = await self._images.publish(
            name,
            content,
            digest,
            base=0 if current is None else current.revision,
            by=by,
            note=note,
            rolled_back_to=rolled_back_to,
            act=act,
        )
        if published is None:
            raise RowcallError(
                ErrorReason.ERROR_REASON_CONFLICT,
                f"Another revision of {name} was published just then; look what it changed, and call again.",
                metadata={"name": name},
            )
        await self.look()
        return Proposal(found, published)

    async def awaited(self, number: int, patience: float) -> Sequence[LivingGateway]:
        """The gateways that live, once all serve what was published up to a number, or some seconds have passed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(patience, PATIENCE)
        while True:
            gateways = await self._images.gateways()
            if all(each.number >= number for each in gateways) or loop.time() >= until:
                return gateways
            await asyncio.sleep(_AGAIN)

    async def _run(self) -> None:
        await come_round("taking published images", self.look, LOOK_EVERY)

    async def _after(self) -> Sequence[PublishedImage]:
        return await self._images.after(
            self._number,
            gateway_id=self._gateway_id,
            name=self._name,
            version=self._version,
            deployed=self._deployed,
        )

    async def _take(self, found: Sequence[PublishedImage]) -> None:
        """Serves images, one after another: what is wrong with one is no matter to the others."""
        refused = False
        for each in found:
            if self._revisions.get(each.name) != each.revision and not await self._take_one(each):
                refused = True
            if not refused:
                self._number = each.number

    async def _take_one(self, found: PublishedImage) -> bool:
        content = await self._images.read(found.name, found.revision)
        if content is None:
            # A later one took its place meanwhile.
            return False
        try:
            image = await self._loaded(found.name, content.digest, content.content)
            await self._serve(list({**self._served, found.name: image}.values()))
        except ImageError as error:
            if found.number > self._told:
                self._told = found.number
                _log.error(
                    "a published image cannot be served here, what was served stays",
                    image=found.name,
                    revision=found.revision,
                    problems=error.problems,
                )
            return False
        replaced = found.name in self._served
        self._served[found.name] = image
        self._revisions[found.name] = found.revision
        if replaced:
            # What nobody has any more is the former one's pool, classes and rules.
            release()
        _log.info("image taken", image=found.name, revision=found.revision, methods=len(image.methods))
        return True

    async def _loaded(self, name: str, digest: str, content: bytes) -> LoadedImage:
        served = self._served.get(name)
        if served is not None and served.digest == digest:
            return served
        return await in_thread(load_image, content, name)


def _unservable(error: ImageError) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_INVALID_REQUEST,
        f"The image cannot be served, so it was not published: {'; '.join(error.problems[:5])}",
    )
