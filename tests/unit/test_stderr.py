"""Standard error that nobody waits for: readers that stall, go away or cannot keep up; the end; forks; order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rowcall.stderr import LAST_WORDS, Stderr
from tests.support.waiting import until

LINE = "x" * 999 + "\n"


@dataclass
class Pipe:
    """A pipe with a Stderr at its writing end, and nobody who reads yet."""

    stderr: Stderr
    reader: int

    def read(self, size: int = 1 << 20) -> str:
        """What there is, or will be."""
        return os.read(self.reader, size).decode()

    def read_until(self, end: str) -> str:
        """Everything up to this text."""
        told = ""
        while end not in told:
            told += self.read()
        return told


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    made = Pipe(Stderr(writer, lambda count: f"{count} dropped\n", limit=100_000), reader)
    os.close(writer)
    yield made
    # A writer that hangs in the pipe ends with it.
    os.close(made.reader)


def test_what_is_written_is_read_in_order(pipe: Pipe) -> None:
    for number in range(5_000):
        assert pipe.stderr.write(f"{number}\n") == len(f"{number}\n")
        if not number % 100:
            pipe.stderr.flush()
    pipe.stderr.write("ü\udcff end\n")
    assert pipe.read_until("end\n").splitlines() == [*map(str, range(5_000)), "ü\\udcff end"]


def test_a_reader_that_stalls_stops_nobody_and_is_told_what_it_missed(pipe: Pipe) -> None:
    began = time.monotonic()
    for _ in range(1_000):
        pipe.stderr.write(LINE)
    assert time.monotonic() - began < 5, "a megabyte into a pipe of 64 KiB that nobody reads"

    told, kept, dropped = "", 0, 0
    while kept + dropped < 1_000:
        told += pipe.read()
        kept, dropped = told.count(LINE), sum(map(int, re.findall(r"(\d+) dropped\n", told)))
    assert dropped == 1_000 - kept
    assert 90 <= kept <= 200, "what is kept, and what had left already"
    pipe.stderr.write("again\n")
    assert "again\n" in pipe.read_until("again\n")


def test_the_end_waits_a_second_for_a_reader_that_stalls_and_no_more(pipe: Pipe) -> None:
    for _ in range(90):
        pipe.stderr.write(LINE)
    began = time.monotonic()
    for _ in range(3):
        pipe.stderr.flush()
    assert 0.9 * LAST_WORDS < time.monotonic() - began < 4 * LAST_WORDS


def test_the_end_waits_for_a_reader_that_reads(pipe: Pipe) -> None:
    pipe.stderr.write("last words\n")
    pipe.stderr.flush()
    os.set_blocking(pipe.reader, False)
    assert pipe.read() == "last words\n"


async def test_a_reader_that_is_gone_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowcall.stderr._AGAIN_AFTER", 0.01)
    reader, writer = os.pipe()
    stderr = Stderr(writer, lambda count: f"{count} dropped\n", limit=100_000)
    os.close(writer)
    os.close(reader)
    began = time.monotonic()
    for _ in range(1_000):
        stderr.write(LINE)
    await until(lambda: not stderr._bytes)
    stderr.flush()
    assert time.monotonic() - began < 5


async def test_what_a_full_disk_did_not_take_is_told_when_it_takes_again(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall.stderr._AGAIN_AFTER", 0.01)
    log = tmp_path_factory.mktemp("log") / "log"
    full, disk = os.open("/dev/full", os.O_WRONLY), os.open(log, os.O_WRONLY | os.O_CREAT)
    stderr = Stderr(full, lambda count: f"{count} dropped\n")
    stderr.write("one\ntwo\n")
    await until(lambda: not stderr._bytes)
    os.dup2(disk, stderr.fileno())
    stderr.write("three\n")
    stderr.flush()
    for each in (full, disk):
        os.close(each)
    assert log.read_text() == "three\n2 dropped\n"


def test_a_descriptor_that_does_not_block_is_waited_for_by_the_thread_alone() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stderr = Stderr(writer, lambda count: f"{count} dropped\n")
    os.close(writer)
    for _ in range(500):
        stderr.write(LINE)
    stderr.write("end")
    told = ""
    while not told.endswith("end"):
        told += os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert told == LINE * 500 + "end"


def test_writers_in_many_threads_share_it(pipe: Pipe) -> None:
    def write(name: str) -> None:
        for _ in range(200):
            pipe.stderr.write(f"{name}\n")

    threads = [threading.Thread(target=write, args=(name * 9,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.stderr.write("end\n")
    lines = pipe.read_until("end\n").splitlines()
    assert {line: lines.count(line) for line in set(lines)} == {**{name * 9: 200 for name in "abcd"}, "end": 1}


PROGRAM = """
import os, sys, time, warnings
from rowcall import logs
logs.configure("info", "json", "program")
import structlog
{body}
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    """A program whose log is set up as a service's is."""
    program = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.run(program, check=False, text=True, stderr=subprocess.PIPE, timeout=30)


def test_everything_that_a_program_says_goes_this_way() -> None:
    ended = run(
        "assert sys.stderr is not sys.__stderr__\n"
        "structlog.get_logger().info('hello'); print('plainly', file=sys.stderr); warnings.warn('beware')\n"
        "raise ValueError('at the end')"
    )
    assert ended.returncode == 1
    for each in ('"hello"', "plainly", "beware", "ValueError: at the end"):
        assert each in ended.stderr


def test_a_forked_child_writes_what_is_its_own() -> None:
    ended = run(
        "sys.stderr.write('parent\\n')\n"
        "child = os.fork()\n"
        "sys.stderr.write('child\\n' if child == 0 else 'parent again\\n')\n"
        "sys.stderr.flush()\n"
        "os._exit(0) if child == 0 else os.waitpid(child, 0)"
    )
    assert sorted(ended.stderr.splitlines()) == ["child", "parent", "parent again"]


CRASH = "import ctypes, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)"


def test_a_crash_says_where_it_was() -> None:
    ended = run(CRASH)
    assert ended.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in ended.stderr
    assert "in string_at" in ended.stderr


@pytest.mark.parametrize("how", ["stalled", "gone", "full disk"])
def test_a_crash_waits_for_no_reader(how: str) -> None:
    fill = "os.set_blocking(2, False)\nwhile True:\n    try: os.write(2, bytes(4096))\n    except OSError: break\n"
    back = "os.set_blocking(2, True)\n"
    reader, writer = (-1, os.open("/dev/full", os.O_WRONLY)) if how == "full disk" else os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=f"{fill if how == 'stalled' else ''}{back}input()\n{CRASH}")],
        stdin=subprocess.PIPE,
        stderr=writer,
    ) as process:
        try:
            if how == "gone":
                os.close(reader)
            process.communicate(b"\n", timeout=30)
            assert process.returncode == -signal.SIGSEGV
        finally:
            process.kill()
            os.close(writer)
            if how == "stalled":
                os.close(reader)
