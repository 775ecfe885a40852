"""Several processes of one command, with a small program in the place of a service."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rowcall.processes import Child, Member, kill_children
from rowcall.processes.member import READY, introduced
from tests.support.waiting import until

END_SECONDS = 30.0

PROGRAM = """\
import asyncio, os, subprocess, sys
from pathlib import Path

from rowcall import logs
from rowcall.processes import Member, supervise

member = Member.from_environment()
folder = Path(sys.argv[1])
logs.configure("info", "json", "program", process=None if member is None else member.number)
if member is None:
    sys.exit(supervise("program", int(sys.argv[2]), ready_line="program: ready", kill_after=float(sys.argv[3]), told="what was told"))


def does(what):
    file = folder / f"{member.number}-{what}"
    return int(file.read_text()) if file.exists() else None


async def serve():
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    member.on_end(lambda: loop.call_soon_threadsafe(ended.set))
    if does("refuses") is not None:
        print(f"process {member.number} refuses", file=sys.stderr)
        return does("refuses")
    (folder / f"{member.number}-serves-{os.getpid()}").write_text(member.told)
    member.ready()
    # Bounded: a test that fails leaves nobody behind for ever.
    await asyncio.wait_for(ended.wait(), 120)
    if does("stays") is not None:
        (folder / f"{member.number}-hears").touch()
        await asyncio.sleep(120)
    (folder / f"{member.number}-drained").touch()
    return does("ends") or 0


sys.exit(asyncio.run(serve()))
"""


class Program:
    """The program, running."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self._folder = folder

    def pids(self, number: int) -> set[int]:
        """Of the processes that have served in a place."""
        return {int(file.name.rpartition("-")[2]) for file in self._folder.glob(f"{number}-serves-*")}

    def has(self, name: str) -> bool:
        return (self._folder / name).exists()

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "program: ready\n"

    def ended(self) -> tuple[int, str]:
        """Waits until all of its processes have: each of them holds its stderr. Exit code and stderr."""
        out, err = self.process.communicate(timeout=END_SECONDS)
        assert not out, "one ready line"
        return self.process.returncode, err


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the program as so many processes; `does` says which one does what, with which exit code."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with ExitStack() as stack:

        def started(processes: int, *, kill_after: float = 2 * END_SECONDS, **does: int) -> Program:
            for what, code in does.items():
                _, number, verb = what.split("_")
                (tmp_path / f"{number}-{verb}").write_text(str(code))
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, program, tmp_path, str(processes), str(kill_after)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    process_group=0,
                )
            )
            stack.callback(process.kill)
            return Program(process, tmp_path)

        yield started


def test_all_are_told_are_ready_and_drain(start: Start, tmp_path: Path) -> None:
    program = start(3)
    program.ready()
    assert [len(program.pids(number)) for number in (1, 2, 3)] == [1, 1, 1], "ready means all of them"
    assert [file.read_text() for file in tmp_path.glob("*-serves-*")] == ["what was told"] * 3

    program.process.terminate()
    code, err = program.ended()

    assert code == 0, err
    assert all(program.has(f"{number}-drained") for number in (1, 2, 3))


async def test_one_that_dies_is_replaced_and_the_others_do_not_notice(start: Start) -> None:
    program = start(2)
    program.ready()
    (first,), (other,) = program.pids(1), program.pids(2)

    os.kill(first, signal.SIGKILL)
    await until(lambda: len(program.pids(1)) == 2)

    assert program.pids(2) == {other}
    assert not program.has("2-drained")
    program.process.terminate()
    code, err = program.ended()
    assert code == 0, err
    (line,) = [json.loads(line) for line in err.splitlines() if "ended by itself" in line]
    assert (line["process"], line["signal"], line["level"]) == (1, "SIGKILL", "error")
    assert "unlisted" not in err


def test_what_no_process_can_start_with_is_said_once(start: Start) -> None:
    code, err = start(3, p_1_refuses=2, p_2_refuses=2, p_3_refuses=2).ended()
    assert code == 2
    assert err.count("refuses") == 1


def test_one_that_cannot_start_ends_the_others_in_order(start: Start) -> None:
    program = start(2, p_2_refuses=1)
    code, err = program.ended()
    assert code == 1, err
    assert program.has("1-drained")


def test_the_exit_code_is_the_worst_of_all(start: Start) -> None:
    program = start(3, p_2_ends=3, p_3_ends=1)
    program.ready()
    program.process.send_signal(signal.SIGINT)
    code, err = program.ended()
    assert code == 3, err


async def test_a_second_signal_ends_all_at_once(start: Start) -> None:
    program = start(2, p_1_stays=0, p_2_stays=0)
    program.ready()
    program.process.terminate()
    await until(lambda: program.has("1-hears") and program.has("2-hears"))

    program.process.send_signal(signal.SIGINT)

    code, err = program.ended()
    assert code == 128 + signal.SIGINT, err
    assert not program.has("1-drained")


def test_one_that_does_not_end_is_killed(start: Start, tmp_path: Path) -> None:
    program = start(2, kill_after=1, p_1_stays=0)
    program.ready()
    program.process.send_signal(signal.SIGTERM)
    code, err = program.ended()
    assert code == 128 + signal.SIGKILL
    [told] = [line for line in err.splitlines() if "does not end" in line]
    assert json.loads(told)["process"] == 1
    assert program.has("2-drained"), "the others end in order"


def test_a_killed_supervisor_leaves_nobody_behind(start: Start) -> None:
    program = start(2)
    program.ready()

    program.process.kill()

    program.ended()
    assert program.has("1-drained")
    assert program.has("2-drained")


async def test_no_other_takes_the_place_of_one_that_dies_during_the_drain(start: Start) -> None:
    program = start(2, p_1_stays=0)
    program.ready()
    program.process.terminate()
    await until(lambda: program.has("1-hears"))

    os.kill(min(program.pids(1)), signal.SIGKILL)

    code, err = program.ended()
    assert code == 128 + signal.SIGKILL, err
    assert len(program.pids(1)) == 1


def test_ctrl_c_reaches_the_supervisor_alone(start: Start) -> None:
    program = start(2)
    program.ready()

    # As a terminal does it: to every process of the group.
    os.killpg(program.process.pid, signal.SIGINT)

    code, err = program.ended()
    assert code == 0, err
    assert program.has("1-drained")
    assert program.has("2-drained")


def test_a_process_that_nobody_supervises_is_no_member() -> None:
    assert Member.from_environment({"PATH": "/bin"}) is None


def test_what_a_member_starts_is_no_member() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        environment = introduced(3, "what was told", theirs)
        line = theirs.detach()
        os.set_inheritable(line, True)  # as it comes from the supervisor
        member = Member.from_environment(environment)
        assert member is not None
        with member._line:
            assert (member.number, member.told) == (3, "what was told")
            assert not os.get_inheritable(line)
            assert environment == dict(os.environ)
            member.ready()
            assert ours.recv(16) == READY


async def test_what_a_member_tells_last_is_known_when_it_has_died() -> None:
    program = (
        "import os; from rowcall.processes import Member; member = Member.from_environment(); member.ready()\n"
        "for number in range(20_000): member.tell(f'at {number}')\n"
        "import time; time.sleep(0.5); member.tell('at the end'); os._exit(7)"
    )
    child = await Child.start([sys.executable, "-c", program], number=1, told="", leads=False)
    assert await child.ready()
    child.listen()
    assert await asyncio.wait_for(child.ended(), END_SECONDS) == 7
    assert child.said == "at the end"


async def test_a_member_that_tells_nothing_has_said_nothing_and_one_is_drained_by_the_end_of_its_line() -> None:
    program = (
        "import asyncio; from rowcall.processes import Member; member = Member.from_environment()\n"
        "async def main():\n"
        "    ended = asyncio.Event(); loop = asyncio.get_running_loop()\n"
        "    member.on_end(lambda: loop.call_soon_threadsafe(ended.set)); member.ready(); await ended.wait()\n"
        "asyncio.run(main())"
    )
    child = await Child.start([sys.executable, "-c", program], number=0, told="", leads=False)
    assert await child.ready()
    child.listen()
    child.drain()
    assert await asyncio.wait_for(child.ended(), END_SECONDS) == 0
    assert child.said == ""


async def test_whoever_ends_at_once_ends_what_it_has_started() -> None:
    program = "from rowcall.processes import Member; Member.from_environment().ready(); import time; time.sleep(300)"
    child = await Child.start([sys.executable, "-c", program], number=0, told="", leads=False)
    assert await child.ready()
    kill_children()
    assert await asyncio.wait_for(child.ended(), END_SECONDS) == -signal.SIGKILL
    kill_children()


def test_the_command_is_the_one_that_this_program_was_started_with() -> None:
    program = "from rowcall.processes import own_command; print(own_command()[1:])"
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, "--flag"], capture_output=True, check=True, text=True
    )
    assert ended.stdout.strip() == str(["-X", "dev", "-c", program, "--flag"])
