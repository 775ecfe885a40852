"""Where the signs of life of a worker's processes are: a file each, beside the one that the settings name, which says how many.

Used by `alive`, which touches them, and by `healthcheck`, which looks every few seconds and so must import little.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

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
