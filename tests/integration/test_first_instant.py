"""SIGTERM while a program is still starting, as process 1 too: it ends, and starts nothing up after it was told to end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rowcall import signals
from tests.fix_cluster import Cluster
from tests.fix_commands import environment
from tests.fix_services import END_SECONDS

UNSHARE = shutil.which("unshare")
NAMESPACE = ("--pid", "--fork", "--mount-proc", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
"""What makes a program process 1, as a container's is."""


def can_unshare() -> bool:
    """Whether this machine lets a process be process 1 of a namespace of its own."""
    return UNSHARE is not None and not subprocess.run([UNSHARE, *NAMESPACE, "true"], check=False).returncode


def first_child(pid: int) -> int:
    """The first process that another one started, once there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + END_SECONDS
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(found[0])


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(not can_unshare(), reason="this machine gives no process namespaces")
@pytest.mark.parametrize(
    "command",
    [
        ("rowcall-gateway", "--listen", "127.0.0.1:0"),
        ("rowcall-worker",),
        ("rowcall-worker", "--processes", "2"),
        ("rowcall", "dev", "--listen", "127.0.0.1:0"),
        ("rowcall", "serve", "--listen", "127.0.0.1:0"),
        ("rowcall", "demo"),
    ],
    ids=" ".join,
)
def test_process_1_ends_when_it_is_told_to_while_it_starts(
    cluster: Cluster, tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert UNSHARE is not None
    program, *arguments = command
    variables = {} if program == "rowcall" else cluster.variables
    with subprocess.Popen(
        [UNSHARE, *NAMESPACE, "--kill-child", Path(sys.executable).with_name(program), *arguments],
        cwd=tmp_path,
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as outside:
        try:
            inside = first_child(outside.pid)
            deadline = time.monotonic() + END_SECONDS
            while not catches(inside, signal.SIGTERM):
                assert time.monotonic() < deadline, "nothing hears of the signal"
                time.sleep(0.001)
            os.kill(inside, signal.SIGTERM)
            said, _ = outside.communicate(timeout=END_SECONDS)
        finally:
            outside.kill()
    assert (outside.returncode, said) == (128 + signal.SIGTERM, ""), "before it served, or logged that it would"
    assert not list(tmp_path.iterdir()), "it had begun to start"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_else_ends_the_process(number: signal.Signals) -> None:
    """SIGINT too, without Python's traceback."""
    code = (
        f"from rowcall import signals; signals.end_on_signals(); import os; os.kill(os.getpid(), {number}); print('on')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=END_SECONDS
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", "")
    assert Path(signals.__file__).read_text().count("\nimport ") == 2, "it imports next to nothing: it is to be first"
