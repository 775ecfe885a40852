"""The sign of life of a worker's process: a file that its event loop touches. `healthcheck` looks at it.

Several processes of one command have a file each, beside the one that the settings name, which then says how many.
A worker has no port to ask. A loop that hangs, or a process that is gone, touches nothing; a shard that cannot be reached
is no reason to restart the worker, so the file says nothing about shards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

EVERY: Final = timedelta(seconds=1)
"""How often the file is touched."""
STALE_AFTER: Final = timedelta(seconds=10)
"""A file older than this is of a process that hangs or is gone."""


def file_of(file: Path | None, process: int | None) -> Path | None:
    """The file of one of several processes; of the only one where `process` is None."""
    return file if file is None or process is None else file.with_name(f"{file.name}.{process}")


@contextlib.contextmanager
def signs_of_several(file: Path | None, processes: int) -> Iterator[None]:
    """Says in the file, for the length of the block, that so many processes have one each; None: does nothing.

    Raises:
        OSError: The file cannot be made.
    """
    if file is None:
        yield
        return
    file.write_text(f"{processes}\n", "ascii")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def files_of(file: Path) -> Sequence[Path]:
    """The files that must all be fresh: what stands in this one says whether it is this one.

    Raises:
        OSError: It is not there.
    """
    said = file.read_text("ascii", "replace").strip()
    if not said.isdecimal():
        return (file,)
    return [file.with_name(f"{file.name}.{process}") for process in range(1, int(said) + 1)]


@contextlib.asynccontextmanager
async def sign_of_life(file: Path | None) -> AsyncIterator[None]:
    """Touches the file for the length of the block, then removes it; None: does nothing.

    Raises:
        OSError: The file cannot be made.
    """
    if file is None:
        yield
        return
    # Emptied: one that was killed may have left another word there.
    await asyncio.to_thread(file.write_bytes, b"")
    touching = asyncio.create_task(_touch(file), name="sign of life")
    try:
        yield
    finally:
        touching.cancel()
        await asyncio.gather(touching, return_exceptions=True)
        await asyncio.to_thread(file.unlink, missing_ok=True)


async def _touch(file: Path) -> None:
    while True:
        await asyncio.sleep(EVERY.total_seconds())
        # A full disk must not end the worker; the check then says what it sees.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(file.touch)
