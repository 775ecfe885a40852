"""Other queues' drivers: what they count is looked at, what hangs is ended, and what cannot be had is told as what it is."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.bench import peers, rivals
from tests.bench.peers import PEERS, NotHad, NoToolchain, Peer
from tests.bench.stage import NotCounted


@pytest.fixture(autouse=True)
def own_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environments are made, and figures kept, in a folder of the test's own."""
    monkeypatch.setattr(peers, "BUILD", tmp_path)
    monkeypatch.setattr(rivals, "missing", {})
    monkeypatch.setattr(rivals, "left_out", {})
    return tmp_path


def driven(folder: Path, code: str) -> Peer:
    """A peer whose driver is this program."""
    driver = folder / "drive.py"
    driver.write_text(textwrap.dedent(code))
    (folder / "bench" / "x").mkdir(parents=True, exist_ok=True)
    return Peer("x", lambda: [sys.executable, str(driver)], lambda: "1.0")


def saying(folder: Path, **what: float) -> Peer:
    return driven(folder, f"print({json.dumps(what)!r})")


async def test_filling_takes_as_long_as_the_driver_says(tmp_path: Path) -> None:
    assert await saying(tmp_path, seconds=2.5, rows=10).fill("dsn", 10) == 2.5


async def test_rows_that_are_missing_behind_filling_are_no_figure(tmp_path: Path) -> None:
    with pytest.raises(NotCounted, match="x: rows in: 10 expected, 9 found"):
        await saying(tmp_path, seconds=2.5, rows=9).fill("dsn", 10)


async def test_a_stream_is_jobs_a_second_of_what_was_done(tmp_path: Path) -> None:
    peer = saying(tmp_path, seconds=4, enqueued=100, done=100, left=0)
    assert await peer.stream("dsn", 3) == 25


async def test_a_stream_of_which_jobs_were_not_run_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(NotCounted, match="x: jobs run: 100 expected, 99 found"):
        await saying(tmp_path, seconds=4, enqueued=100, done=99, left=0).stream("dsn", 3)


async def test_a_stream_whose_rows_do_not_say_done_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(NotCounted, match="x: jobs that are not done: 0 expected, 1 found"):
        await saying(tmp_path, seconds=4, enqueued=100, done=100, left=1).stream("dsn", 3)


async def test_a_driver_is_told_what_to_do_where_and_how_much(tmp_path: Path) -> None:
    code = (
        'import json, sys; print(json.dumps({"seconds": 1, "rows": 7 if sys.argv[1:] == ["fill", "dsn", "7"] else 0}))'
    )
    assert await driven(tmp_path, code).fill("dsn", 7) == 1


async def test_a_driver_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"x, drain: ended with 3: no database"):
        await driven(tmp_path, "import sys; sys.stderr.write('no database'); sys.exit(3)").drain("dsn", 1)


async def test_a_driver_that_hangs_is_ended_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The grandchild holds no pipe of the driver's: nothing but being ended with it stops it.
    peer = driven(
        tmp_path,
        """
        import subprocess, sys, time
        from pathlib import Path
        nothing = subprocess.DEVNULL
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=nothing, stderr=nothing)
        Path("pid.new").write_text(str(child.pid))
        Path("pid.new").rename("pid")
        time.sleep(600)
        """,
    )
    pid = tmp_path / "bench" / "x" / "pid"

    async def once_started(waiting: asyncio.Future[tuple[bytes, bytes]], _: float) -> None:
        reading = asyncio.ensure_future(waiting)
        async with asyncio.timeout(60):
            while not (pid.exists() or reading.done()):  # noqa: ASYNC110  another process's file
                await asyncio.sleep(0.02)
        reading.cancel()
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "wait_for", once_started)
        with pytest.raises(RuntimeError, match=r"x, drain: was not done after 900 s"):
            await peer.drain("dsn", 1)
    async with asyncio.timeout(60):
        while _lives(int(pid.read_text())):  # noqa: ASYNC110  another process's life
            await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tool(folder: Path, name: str, script: str) -> None:
    """A program of this name on PATH, and no other."""
    folder.mkdir(exist_ok=True)
    made = folder / name
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)


def named(name: str) -> Peer:
    [found] = [peer for peer in PEERS if peer.name == name]
    return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def river(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Peer:
    """River as it is measured, its environment in the test's folder."""
    monkeypatch.setattr(peers, "_home", lambda name: tmp_path / "bench" / name)
    return peers._go("river", "river", "github.com/riverqueue/river")


def test_without_go_river_is_left_out(path: Path) -> None:
    with pytest.raises(NoToolchain, match=r"there is no go on PATH; install Go 1\.26\.0 or later"):
        named("river").install()


def test_with_a_go_that_is_too_old_river_is_left_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(path, "go", "echo go1.25.9")
    with pytest.raises(NoToolchain, match=r"is Go 1\.25\.9; install Go 1\.26\.0 or later"):
        river(monkeypatch, tmp_path).install()


def test_river_that_is_not_built_with_the_right_go_is_a_failure(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(path, "go", 'if [ "$1" = env ]; then echo go1.27rc1; else echo "checksum mismatch" >&2; exit 1; fi')
    with pytest.raises(NotHad, match="checksum mismatch") as raised:
        river(monkeypatch, tmp_path).install()
    assert not isinstance(raised.value, NoToolchain)


def test_river_is_built_by_the_toolchain_that_is_there_from_pinned_modules(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(
        path,
        "go",
        'case "$1" in env) echo go1.26.8;; list) echo v0.51.2;; build) echo "$GOTOOLCHAIN $GOFLAGS" > drive;; esac',
    )
    assert river(monkeypatch, tmp_path).install() == "0.51.2"
    home = tmp_path / "bench" / "river"
    assert (home / "drive").read_text() == "local -mod=readonly\n"
    assert (home / "go.sum").read_text() == (peers.HERE / "river" / "go.sum").read_text()


def peer(name: str, error: NotHad | None = None) -> Peer:
    def install() -> str:
        if error is not None:
            raise error
        return "1.0"

    return Peer(name, list, install)


async def test_what_cannot_be_installed_and_what_is_left_out_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rivals, "PEERS", (peer("here"), peer("broken", NotHad("npm failed")), peer("away", NoToolchain("no go")))
    )
    assert list(await rivals.installed()) == ["here"]
    assert rivals.missing == {"broken": "npm failed"}
    assert rivals.left_out == {"away": "no go"}


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [("left_out", 0, "left out: y: why"), ("missing", 1, "NOT MEASURED: y: why")],
    ids=["a toolchain that is not here is no failure", "an installation that fails is one"],
)
def test_the_run_ends_by_what_was_not_measured(
    kind: str, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def nothing(*_: object) -> tuple[list[object], dict[str, str]]:
        getattr(rivals, kind)["y"] = "why"
        return [], {}

    # What it draws with is installed by `make bench` alone.
    plot = ModuleType("tests.bench.plot")
    monkeypatch.setitem(sys.modules, plot.__name__, plot)
    monkeypatch.setattr(plot, "draw", lambda _: None, raising=False)
    monkeypatch.setattr(plot, "PATH", Path("bench.svg"), raising=False)
    bench = import_module("tests.bench.__main__")
    del sys.modules[bench.__name__]
    monkeypatch.setattr(bench, "_measure", nothing)
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "batch"])
    assert bench.main() == code
    assert line in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("each", PEERS, ids=lambda each: str(each.name))
def test_what_a_peer_is_measured_with_is_pinned(each: Peer) -> None:
    folder = peers.HERE / each.name.replace("-", "_")
    pins = {"package-lock.json", "uv.lock", "go.sum"} & {each.name for each in folder.iterdir()}
    assert len(pins) == 1
    assert (folder / pins.pop()).read_text()


def test_every_folder_of_a_driver_is_a_peer() -> None:
    folders = {each.name for each in peers.HERE.iterdir() if (each / "drive.py").exists() or list(each.glob("drive.*"))}
    assert folders == {each.name.replace("-", "_") for each in PEERS}
