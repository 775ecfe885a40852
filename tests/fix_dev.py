"""Fixtures: `rowcall dev` as a process, on a data directory of the test's own, and what tests ask of it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.fix_commands import Running, commands_running
from tests.fix_postgres import await_end_in

CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)


@dataclass(frozen=True, slots=True)
class Dev:
    """A running `rowcall dev` that said it is ready."""

    running: Running
    address: str
    """host:port"""
    data_dir: Path

    def channel(self) -> grpc.aio.Channel:
        """A channel to it; the test closes it."""
        return grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)

    def shard_dsn(self, shard: str) -> str:
        """The connection string of a shard, read from what it tells people."""
        words = self.running.says(f"rowcall: shard {shard}: ").split()
        port, database = words[words.index("-p") + 1], words[words.index("-d") + 1]
        password = (self.data_dir / "postgres" / "superuser_password").read_text()
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/{database}"


@contextmanager
def _dev_directory(run_directory: Path, stopped_data_dir: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=run_directory) as directory:
        subprocess.run(["cp", "-a", stopped_data_dir, Path(directory) / "postgres"], check=True)
        yield Path(directory)
        await_end_in(Path(directory) / "postgres")


@pytest.fixture
def dev_dir(run_directory: Path, stopped_data_dir: Path) -> Iterator[Path]:
    """A data directory for `rowcall dev` with an empty Postgres in it; made by copying, which is faster than initdb."""
    with _dev_directory(run_directory, stopped_data_dir) as directory:
        yield directory


@pytest.fixture
def dev(dev_dir: Path) -> Iterator[Callable[..., Dev]]:
    """Starts `rowcall dev ARGUMENTS` on `dev_dir` and a free port, and returns when it is ready; what still runs after the test is
    killed, before that directory is removed."""
    with commands_running() as running:

        def start(*arguments: str, cwd: Path | None = None, **variables: str) -> Dev:
            return _ready(running, dev_dir, *arguments, cwd=cwd, **variables)

        yield start


@pytest.fixture(scope="module")
def standing_dev(run_directory: Path, stopped_data_dir: Path) -> Iterator[Dev]:
    """A `rowcall dev --shards 2` for all tests of a file that leave it as it is; each has tenants of its own. Beside the files after
    it, it would take a twentieth of a processor, waiting for nothing."""
    with _dev_directory(run_directory, stopped_data_dir) as directory, commands_running() as start:
        yield _ready(start, directory, "--shards", "2")


def _ready(
    start: Callable[..., Running], data_dir: Path, *arguments: str, cwd: Path | None = None, **variables: str
) -> Dev:
    process = start("dev", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir), *arguments, cwd=cwd, **variables)
    return Dev(process, process.address(), data_dir)
