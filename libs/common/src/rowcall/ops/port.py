"""The operations port of one process: opened before its services start, closed when they have ended. Called by `main` of each, and by
standalone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog

from rowcall.address import Address, is_loopback
from rowcall.ops.http import HttpPort
from rowcall.ops.pages import OpsPages
from rowcall.ops.standing import Service
from rowcall.telemetry import metrics, tallies
from rowcall.telemetry.tallies import watch_all

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def ops_port(
    address: Address | None, services: Sequence[Service], *, deployed_version: str | None = None
) -> AsyncIterator[HttpPort | None]:
    """For an `async with` block in which a process tells of itself.

    Args:
        address: Where; None: nowhere.
        services: What runs in it. More may be put into it later.
        deployed_version: What whoever deployed it calls its version; None: they did not say.

    Raises:
        OSError: The address cannot be listened on.
    """
    if address is None:
        yield None
        return
    tallies.keep()
    for what in metrics.DROPPED:
        metrics.TELEMETRY_DROPPED.add(0, what)
    metrics.TRACES_LIMITED.add(0)
    pages = OpsPages(services)
    port = HttpPort(address, pages)
    await port.start()
    build = (version("rowcall"), deployed_version or "")
    leave = watch_all(((metrics.READY, pages.ready), (metrics.BUILD, lambda: {build: 1.0})))
    where = str(Address(address.host, port.port))
    if is_loopback(address.host):
        _log.info("operations port", address=where)
    else:
        _log.warning("the operations port asks nobody who they are: whoever reaches it reads it", address=where)
    try:
        yield port
    finally:
        leave()
        await port.stop()
