"""`rowcall versions`: which versions of gateways and workers live and since when, through CatalogueService and WorkerService."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1.catalogue_service_pb2 import Gateway as LivingGateway
from rowcall.v1.catalogue_service_pb2 import Image, ListGatewaysRequest, ListImagesRequest
from rowcall.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from rowcall.v1.worker_service_pb2 import Worker
from rowcall_cli.answers import as_dict, complete, second_text
from rowcall_cli.gateway import DEFAULT_ADDRESS, DEFAULT_TENANT, RPC_SECONDS, AddressOption, TenantOption, connect
from rowcall_cli.output import WideOption, examples, result_json, result_table
from rowcall_cli.workers import every_worker

EXAMPLES: Final = examples("rowcall versions", "rowcall versions --json")

COLUMNS: Final = ("service", "version", "release", "processes", "first since", "last since", "note")
IMAGE_COLUMNS: Final = ("image", "revision", "published", "by", "note")
_IMAGES: Final = 5


@dataclass(frozen=True, slots=True)
class _Version:
    """A version of a service that lives."""

    service: str
    version: str
    release: str
    since: Sequence[Timestamp]
    """Since when each process runs, the earliest first."""
    note: str


def versions(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
) -> None:
    """Show what changed with the last deployment: the versions of gateways and workers that live, how many of each and since when, and what
    was published last.

    A version is what ROWCALL_DEPLOYED_VERSION tells a process, a release is Rowcall's own. Those that began last come first. Exits with 3 when a shard did not
    answer: workers of it alone are missing then.
    """
    with connect(address, tenant) as gateway:
        stub = CatalogueServiceStub(gateway.channel)
        gateways = stub.ListGateways(ListGatewaysRequest(), timeout=RPC_SECONDS, metadata=gateway.metadata()).gateways
        images = stub.ListImages(
            ListImagesRequest(page_size=_IMAGES), timeout=RPC_SECONDS, metadata=gateway.metadata()
        ).images
        workers, missing = every_worker(gateway)
    found = sorted([*_of_gateways(gateways), *_of_workers(workers)], key=_latest, reverse=True)
    if as_json:
        result_json(
            {
                "versions": [_as_dict(each) for each in found],
                "gateways": [as_dict(each, whole=True) for each in gateways],
                "images": [as_dict(each) for each in images],
                "unreachable_shards": missing,
            }
        )
    else:
        result_table(COLUMNS, map(_row, found), wide=wide)
        if images:
            result_table(IMAGE_COLUMNS, map(_image, images), wide=wide, prose=("note",))
    complete(missing)


def _of_gateways(gateways: Iterable[LivingGateway]) -> list[_Version]:
    by_version: dict[tuple[str, str], list[LivingGateway]] = {}
    for each in gateways:
        by_version.setdefault((each.version, each.release), []).append(each)
    return [
        _Version("gateway", *version, _sorted(each.start_time for each in same), _behind(same))
        for version, same in by_version.items()
    ]


def _of_workers(workers: Iterable[Worker]) -> list[_Version]:
    by_version: dict[tuple[str, str], list[Worker]] = {}
    for each in workers:
        by_version.setdefault((each.version, each.release), []).append(each)
    return [
        _Version("worker", *version, _sorted(each.start_time for each in same), "")
        for version, same in by_version.items()
    ]


def _behind(gateways: Sequence[LivingGateway]) -> str:
    behind = sum(not each.current for each in gateways)
    return f"{behind} do not serve what was published last" if behind else ""


def _sorted(times: Iterable[Timestamp]) -> list[Timestamp]:
    return sorted(times, key=lambda each: each.ToNanoseconds())


def _latest(version: _Version) -> tuple[int, str]:
    return version.since[-1].ToNanoseconds(), version.service


def _row(version: _Version) -> tuple[str, ...]:
    return (
        version.service,
        version.version,
        version.release,
        str(len(version.since)),
        second_text(version.since[0]),
        second_text(version.since[-1]),
        version.note,
    )


def _image(image: Image) -> tuple[str, ...]:
    return (image.name, str(image.revision), second_text(image.publish_time), image.actor, image.note)


def _as_dict(version: _Version) -> dict[str, object]:
    return {
        "service": version.service,
        "version": version.version,
        "release": version.release,
        "processes": len(version.since),
        "first_since": version.since[0].ToJsonString(),
        "last_since": version.since[-1].ToJsonString(),
    }
