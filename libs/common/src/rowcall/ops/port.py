"""Where one process tells of itself: its operations port, and its metrics over OTLP. Opened before its services start, closed when they have
ended. Called by `main` of each, and by standalone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from rowcall.address import Address, is_loopback
from rowcall.ops.http import HttpPort
from rowcall.ops.pages import OpsPages
from rowcall.ops.standing import Service
from rowcall.telemetry import metrics, tallies
from rowcall.telemetry.tallies import watch_all

if TYPE_CHECKING:
    from rowcall.telemetry.push import MetricsPush

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def ops_port(
    address: Address | None,
    services: Sequence[Service],
    *,
    deployed_version: str | None = None,
    push: MetricsPush | None = None,
) -> AsyncIterator[HttpPort | None]:
    """For an `async with` block in which a process tells of itself.

    Args:
        address: Where; None: nowhere.
        services: What runs in it. More may be put into it later.
        deployed_version: What whoever deployed it calls its version; None: they did not say.
        push: What sends its metrics; None: nobody wants them sent.

    Raises:
        OSError: The address cannot be listened on.
    """
    if address is None and push is None:
        yield None
        return
    tallies.keep()
    for what in metrics.DROPPED:
        metrics.TELEMETRY_DROPPED.add(0, what)
    metrics.TRACES_LIMITED.add(0)
    pages = OpsPages(services)
    build = (version("rowcall"), deployed_version or "")
    async with AsyncExitStack() as stack:
        port = None if address is None else await _listening(address, pages, stack)
        stack.callback(watch_all(((metrics.READY, pages.ready), (metrics.BUILD, lambda: {build: 1.0}))))
        if push is not None:
            push.start(pages.tallies)
            stack.push_async_callback(push.end)
        yield port


async def _listening(address: Address, pages: OpsPages, stack: AsyncExitStack) -> HttpPort:
    port = HttpPort(address, pages)
    await port.start()
    stack.push_async_callback(port.stop)
    where = str(Address(address.host, port.port))
    if is_loopback(address.host):
        _log.info("operations port", address=where)
    else:
        _log.warning("the operations port asks nobody who they are: whoever reaches it reads it", address=where)
    return port
