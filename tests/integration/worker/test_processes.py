"""`rowcall-worker --processes 2`: jobs for all, crashes, signals, and the sign of life of each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.membership.signs import STALE_AFTER
from tests.fix_commands import environment
from tests.fix_services import END_SECONDS, Services
from tests.fix_worker import Calls
from tests.support.waiting import until

TWO = ("--processes", "2", "--lease", "2s")


async def test_all_processes_take_jobs_and_drain(calls: Calls, services: Services) -> None:
    worker = services.worker(*TWO, "--slots", "2")
    assert await asyncio.to_thread(worker.ready) == ""

    # Slots are each process's own: four of these run at once.
    jobs = await calls.submit_many("Await", [AwaitRequest(work=Duration(seconds=2))] * 4)
    for job in jobs:
        await calls.until(job, lambda row: row.state != JobState.JOB_STATE_READY)
    rows = [await calls.row(job) for job in jobs]
    assert len({row.worker for row in rows}) == 2

    # As systemd does it, which signals them all. The supervisor passes its signal on: no second one for them.
    worker.process.send_signal(signal.SIGTERM)
    await until(lambda: sum('"worker drains"' in line for line in list(worker.log)) == 2)
    for member in worker.members().values():
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGTERM)

    assert await asyncio.to_thread(worker.process.wait, END_SECONDS) == 0, "".join(worker.log)
    # Those that ran were waited for, by either of them.
    for job in jobs:
        row = await calls.row(job)
        assert row.state == JobState.JOB_STATE_SUCCEEDED
        assert not row.attempts


async def test_a_crash_takes_nothing_from_the_other_and_is_made_good(calls: Calls, services: Services) -> None:
    worker = services.worker(*TWO, "--slots", "1")
    await asyncio.to_thread(worker.ready)
    jobs = await calls.submit_many("Await", [AwaitRequest(work=Duration(seconds=2))] * 2)
    for job in jobs:
        await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING)
    before = worker.members()

    os.kill(before[1], signal.SIGKILL)
    rows = await calls.all_done(jobs)

    await until(lambda: worker.members()[1] != before[1])
    assert worker.members()[2] == before[2]
    assert [row.state for row in rows] == [JobState.JOB_STATE_SUCCEEDED] * 2
    assert sorted([each.outcome for each in row.attempts] for row in rows) == [
        [],
        [AttemptOutcome.ATTEMPT_OUTCOME_LOST],
    ]
    assert await asyncio.to_thread(worker.end) == 0, "".join(worker.log)


async def test_a_killed_supervisor_has_its_workers_drain(calls: Calls, services: Services) -> None:
    worker = services.worker(*TWO)
    await asyncio.to_thread(worker.ready)
    job = await calls.submit("Await", AwaitRequest(work=Duration(seconds=1)))
    await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING)

    worker.process.kill()

    assert await asyncio.to_thread(worker.all_gone)
    row = await calls.row(job)
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert not row.attempts, "it ran to its end"


async def test_a_second_signal_ends_all_at_once(calls: Calls, services: Services) -> None:
    worker = services.worker(*TWO, "--grace", "1h")
    await asyncio.to_thread(worker.ready)
    job = await calls.submit("Await", AwaitRequest(work=Duration(seconds=600)))
    await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING)
    worker.process.send_signal(signal.SIGTERM)
    await until(lambda: any('"stopping"' in line for line in list(worker.log)))

    assert await asyncio.to_thread(worker.end, signal.SIGTERM) == 128 + signal.SIGTERM
    assert await asyncio.to_thread(worker.all_gone)


def test_what_all_would_refuse_is_said_once(services: Services) -> None:
    worker = services.worker(*TWO, "--servicer", "no_such_module:register")
    assert worker.process.wait(END_SECONDS) == 2
    assert worker.all_gone()
    assert "".join(worker.log).count("there is no module no_such_module") == 1


def healthcheck(file: Path) -> tuple[int, str]:
    """Exit code and line."""
    ended = subprocess.run(
        [sys.executable, "-m", "rowcall_worker.healthcheck"],
        env=environment({"ROWCALL_HEALTH_FILE": str(file)}),
        capture_output=True,
        check=False,
        text=True,
        timeout=END_SECONDS,
    )
    return ended.returncode, ended.stdout.strip()


def left(folder: Path) -> list[Path]:
    """What is still in a folder."""
    return list(folder.iterdir())


async def test_a_worker_is_alive_while_all_its_processes_are(calls: Calls, services: Services, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert healthcheck(file) == (1, f"rowcall-worker: no sign of life: {file}: No such file or directory")
    worker = services.worker(*TWO, "--health-file", str(file))
    await asyncio.to_thread(worker.ready)
    assert healthcheck(file) == (0, "rowcall-worker: is alive")

    # One that hangs touches its file no more, whatever the other does.
    frozen = worker.members()[2]
    os.kill(frozen, signal.SIGSTOP)
    long_ago = file.stat().st_mtime - 2 * STALE_AFTER.total_seconds()

    def seems_dead() -> bool:
        os.utime(tmp_path / "alive.2", (long_ago, long_ago))
        return healthcheck(file)[0] == 1

    await until(seems_dead)  # it may have been at it as it was stopped
    _, line = healthcheck(file)
    assert line.startswith("rowcall-worker: no sign of life for ")
    assert line.endswith(f"s: {file}.2")

    os.kill(frozen, signal.SIGCONT)
    await until(lambda: healthcheck(file)[0] == 0)
    await calls.done(await calls.submit("Echo", EchoRequest()))
    assert await asyncio.to_thread(worker.end) == 0, "".join(worker.log)
    assert not left(tmp_path)


async def test_one_alone_has_one_file_whatever_was_there(services: Services, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    file.write_text("2\n")  # left behind by several that were killed
    worker = services.worker("--health-file", str(file))
    await asyncio.to_thread(worker.ready)
    assert healthcheck(file) == (0, "rowcall-worker: is alive")
    assert await asyncio.to_thread(worker.end) == 0
    assert not left(tmp_path)
