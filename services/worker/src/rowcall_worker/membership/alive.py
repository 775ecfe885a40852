"""The sign of life of a worker's process: a file (`signs`) that its event loop touches. `healthcheck` looks at it.

A worker has no port to ask. A loop that hangs, or a process that is gone, touches nothing; a shard that cannot be reached
is no reason to restart the worker, so the file says nothing about shards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

EVERY: Final = timedelta(seconds=1)
"""How often the file is touched."""


@contextlib.asynccontextmanager
async def sign_of_life(file: Path | None) -> AsyncIterator[None]:
    """Touches the file for the length of the block, then removes it; None: does nothing.

    Raises:
        OSError: The file cannot be made.
    """
    if file is None:
        yield
        return
    # A thread of its own: asyncio's are the handlers', who may keep all of them.
    thread = ThreadPoolExecutor(1, "rowcall-alive")
    run = partial(asyncio.get_running_loop().run_in_executor, thread)
    # Emptied: one that was killed may have left another word there.
    await run(file.write_bytes, b"")
    touching = asyncio.create_task(_touch(partial(run, file.touch)), name="sign of life")
    try:
        yield
    finally:
        touching.cancel()
        await asyncio.gather(touching, return_exceptions=True)
        await run(partial(file.unlink, missing_ok=True))
        thread.shutdown(wait=False)


async def _touch(touch: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(EVERY.total_seconds())
        # A full disk must not end the worker; the check then says what it sees.
        with contextlib.suppress(OSError):
            await touch()
