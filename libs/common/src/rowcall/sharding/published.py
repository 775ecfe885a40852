"""Images that were published: kept in the catalogue, where every gateway reads them. Part of the router.

Nobody else than gateways asks: `after` once a second, which tells the catalogue too that the gateway lives; the others for admins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from rowcall.audit.model import Act
from rowcall.sharding.revocations import Fetch


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """The latest revision of a name."""

    name: str
    """What it is published under."""
    revision: int
    """Counted from 1 by name."""
    digest: str
    """SHA-256 of its content, in hexadecimal digits."""
    number: int
    """Higher than that of everything that was published earlier."""


@dataclass(frozen=True, slots=True)
class Publication(PublishedImage):
    """A revision, with what people want to know of it."""

    published_at: datetime
    """When."""
    actor: str | None
    """By whom."""
    note: str | None
    """What for."""
    latest: bool
    """Whether it is what is served."""


@dataclass(frozen=True, slots=True)
class LivingGateway:
    """A gateway that was seen lately."""

    name: str
    """Its host and process."""
    version: str
    """Its release."""
    deployed: str | None
    """Of what it runs, as whoever deploys it calls that."""
    number: int
    """It serves what was published up to this one."""
    started_at: datetime
    """When it was seen first."""
    seen_at: datetime
    """When."""


@dataclass(frozen=True, slots=True)
class ImageContent:
    """A revision's content."""

    revision: int
    """Counted from 1."""
    digest: str
    """SHA-256 of the content."""
    content: bytes
    """A serialised google.protobuf.FileDescriptorSet."""


class PublishedImages:
    """The images of the catalogue. Every method raises RowcallError: CATALOGUE_UNAVAILABLE, SCHEMA_MISMATCH or INTERNAL."""

    def __init__(self, fetch: Fetch) -> None:
        """
        Args:
            fetch: Asks the catalogue.
        """
        self._fetch = fetch

    async def after(
        self, number: int, *, gateway_id: UUID, name: str, version: str, deployed: str | None = None
    ) -> Sequence[PublishedImage]:
        """What was published after a number, the earliest first; of each name the latest revision. The catalogue knows
        then that this gateway lives, and serves what was published up to the number."""
        rows = await self._fetch(
            "images_after",
            {"gateway_id": gateway_id, "name": name, "version": version, "deployed": deployed, "number": number},
        )
        return [PublishedImage(*row) for row in rows]

    async def forget(self, gateway_id: UUID) -> None:
        """A gateway has ended: nobody need wait for it."""
        await self._fetch("forget_gateway", {"gateway_id": gateway_id})

    async def gateways(self) -> Sequence[LivingGateway]:
        """The gateways that were seen within 15 s."""
        return [LivingGateway(*row) for row in await self._fetch("living_gateways", {})]

    async def read(self, name: str, revision: int = 0) -> ImageContent | None:
        """A revision of an image, 0: its latest; None: there is none."""
        rows = await self._fetch("read_image", {"name": name, "revision": revision})
        return ImageContent(rows[0][0], rows[0][1], bytes(rows[0][2])) if rows else None

    async def publish(
        self,
        name: str,
        content: bytes,
        digest: str,
        *,
        base: int,
        by: str | None,
        note: str | None,
        rolled_back_to: int | None = None,
        act: Act | None = None,
    ) -> Publication | None:
        """Publishes the next revision of an image; None: another one than `base` (0: none) is the latest by now. Recorded with it
        who did, and to which revision it was rolled back, if it was."""
        rows = await self._fetch(
            "publish_image",
            {
                "name": name,
                "base": base,
                "digest": digest,
                "content": content,
                "actor": by,
                "note": note,
                "rolled_back_to": rolled_back_to,
                "act": None if act is None else act.json(),
            },
        )
        if not rows:
            return None
        revision, number, published_at = rows[0]
        return Publication(name, revision, digest, number, published_at, by, note, latest=True)

    async def page(self, name: str, below: int | None, limit: int) -> Sequence[Publication]:
        """The latest publications, those of a name (empty: of all), below a number (None: all)."""
        rows = await self._fetch("list_images", {"name": name, "below": below, "limit": limit})
        return [Publication(*row) for row in rows]
