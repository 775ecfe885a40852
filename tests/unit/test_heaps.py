"""Threads share heaps: counted by malloc itself, in processes of their own, since what is set holds for a process's whole life."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from rowcall.heaps import HEAPS
from tests.fix_commands import environment

END_SECONDS = 30.0

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="There is no glibc.")

ALLOCATES = """
import ctypes, sys, threading
from rowcall.heaps import share_heaps
{sets}
libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)
def allocate():
    together.wait()
    libc.malloc(5_000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


def heaps(sets: str, **variables: str) -> int:
    """How many heaps a process has after eight threads that were in it at once have allocated."""
    ended = subprocess.run(
        [sys.executable, "-c", ALLOCATES.format(sets=sets)],
        capture_output=True,
        check=False,
        env=environment(variables),
        text=True,
        timeout=END_SECONDS,
    )
    assert not ended.returncode, ended.stderr
    return ended.stdout.count("<heap nr=")


def test_threads_share_heaps() -> None:
    assert heaps("") > HEAPS
    assert heaps("share_heaps()") == HEAPS


@pytest.mark.parametrize("variables", [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}])
def test_what_the_environment_says_of_them_stays(variables: dict[str, str]) -> None:
    assert heaps("share_heaps()", **variables) == 4
