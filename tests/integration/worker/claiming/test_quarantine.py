"""`rowcall-worker` has another process run its suspects: started for them, ended after them and with it, and no death of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.probe import EXIT_CODE
from tests.fix_cluster import Cluster
from tests.fix_services import END_SECONDS, ServiceProcess, Services
from tests.fix_worker import Calls, error_of
from tests.support.places import ROOT
from tests.support.suspects import held, make_suspects
from tests.support.waiting import until

BOUND = 120.0
"""Seconds. Three deaths are three starts and three times two missed beats, on a busy machine too."""
STARTED = "process for suspects started"
ENDED = "process for suspects has ended"
DIED = "process for suspects ended by itself"
APART = ("--lease", "2s", "--allow-faults")


def work(seconds: float, count: int = 1, *, dies: bool = False) -> list[AwaitRequest]:
    """Requests that take so long."""
    request = AwaitRequest(work=Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds)), exit_process=dies)
    return [request] * count


def lines(worker: ServiceProcess, event: str) -> list[dict[str, Any]]:
    """What a worker and its processes have logged of an event."""
    parsed = [json.loads(line) for line in list(worker.log) if line.startswith("{")]
    return [line for line in parsed if line["event"].startswith(event)]


async def logged(worker: ServiceProcess, event: str, times: int = 1) -> list[dict[str, Any]]:
    """Waits until it was logged so many times."""
    await until(lambda: len(lines(worker, event)) >= times, seconds=BOUND)
    return lines(worker, event)


def gone(pid: int) -> bool:
    """Whether a process is no more; a child that nobody has waited for yet is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def running(calls: Calls, jobs: Sequence[Any]) -> None:
    """Waits until all of them run."""
    for job in jobs:
        await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING, seconds=BOUND)


async def test_suspects_run_in_a_process_that_is_there_for_them_alone(
    cluster: Cluster, calls: Calls, services: Services, tmp_path: Path
) -> None:
    sign = tmp_path / "alive"
    worker = services.worker(*APART, ROWCALL_HEALTH_FILE=str(sign))
    await asyncio.to_thread(worker.ready)
    ordinary = await calls.submit("Await", work(0)[0])
    assert (await calls.done(ordinary)).worker
    assert not lines(worker, STARTED), "nothing is suspected"

    jobs = await make_suspects(cluster, calls, work(0.2, 5))
    rows = await calls.all_done(jobs, seconds=BOUND)
    assert {row.state for row in rows} == {JobState.JOB_STATE_SUCCEEDED}
    [started] = lines(worker, STARTED)
    assert all(f"-{started['pid']}-" in (row.worker or "") for row in rows)
    # It says of itself what it is, in each line; not that it is ready, and the sign of life is another's.
    assert {(line["part"], line["service"]) for line in lines(worker, "suspects run")} == {("suspects", "worker")}
    assert [line["jobs"] for line in lines(worker, "suspects run")] == [3, 2]
    assert [line.get("part") for line in lines(worker, "worker starts")] == [None, "suspects"]
    # Ordinary work is none of its.
    others = await calls.submit_many("Await", work(0, 20))
    assert all(f"-{started['pid']}-" not in (row.worker or "") for row in await calls.all_done(others))

    await logged(worker, ENDED)
    await until(lambda: gone(started["pid"]), seconds=BOUND)
    assert sign.exists()
    assert await asyncio.to_thread(worker.end) == 0, "".join(worker.log)
    assert worker.process.stdout is not None
    assert worker.process.stdout.read() == "", "one ready line"


async def test_a_death_in_it_is_told_of_and_is_nobody_elses(cluster: Cluster, calls: Calls, services: Services) -> None:
    worker = services.worker(*APART)
    await asyncio.to_thread(worker.ready)
    beside = await calls.submit("Await", work(600)[0])
    await running(calls, [beside])
    (poison,) = await make_suspects(cluster, calls, work(0.1, 1, dies=True))
    died = await logged(worker, DIED, 3)
    row = await calls.done(poison, seconds=BOUND)
    assert row.state == JobState.JOB_STATE_FAILED
    assert "WORKER_LOST" in str(error_of(row))
    assert [(line["exit_code"], line["jobs"], line["operations"]) for line in died] == [
        (EXIT_CODE, 1, [poison.name])
    ] * 3
    # The worker itself has gone on all the time, and what it runs is its own still: it hears of a cancellation.
    await calls.cancel(beside)
    row = await calls.done(beside, seconds=BOUND)
    assert (row.state, row.attempt, row.lost) == (JobState.JOB_STATE_CANCELLED, 1, 0)
    assert f"-{worker.process.pid}-" in (row.worker or "")
    assert worker.process.poll() is None


async def test_a_handler_that_ends_it_as_if_all_were_well_is_found_out(
    cluster: Cluster, calls: Calls, services: Services
) -> None:
    worker = services.worker(
        *APART, "--servicer", "tests.integration.worker.claiming.leaving:register", PYTHONPATH=str(ROOT)
    )
    await asyncio.to_thread(worker.ready)
    (job,) = await make_suspects(cluster, calls, [EchoRequest()])
    row = await calls.done(job, seconds=BOUND)
    assert "WORKER_LOST" in str(error_of(row))
    died = await logged(worker, DIED, 3)
    assert [(line["exit_code"], line["operations"]) for line in died] == [(0, [job.name])] * 3


async def test_it_drains_with_its_worker(cluster: Cluster, calls: Calls, services: Services) -> None:
    worker = services.worker(*APART)
    await asyncio.to_thread(worker.ready)
    jobs = await make_suspects(cluster, calls, work(3))
    await running(calls, jobs)
    [started] = lines(worker, STARTED)
    # Not `end`, which waits for whoever holds its stderr.
    worker.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.process.wait, END_SECONDS) == 0, "".join(worker.log)
    assert gone(started["pid"]), "the worker waited for it"
    row = await calls.row(jobs[0])
    assert (row.state, row.lost) == (JobState.JOB_STATE_SUCCEEDED, 0)


async def test_what_it_runs_beyond_the_grace_is_handed_back_and_not_lost(
    cluster: Cluster, calls: Calls, services: Services
) -> None:
    worker = services.worker(*APART, "--grace", "1s")
    await asyncio.to_thread(worker.ready)
    jobs = await make_suspects(cluster, calls, work(300, 4))
    await until(lambda: lines(worker, "suspects run") != [], seconds=BOUND)
    assert await asyncio.to_thread(worker.end) == 0, "".join(worker.log)
    assert [await held(cluster, job) for job in jobs] == [(JobState.JOB_STATE_READY, 2)] * 4
    rows = await calls.rows(jobs)
    assert {row.lost for row in rows} == {0}
    assert {each.outcome for row in rows for each in row.attempts} == {AttemptOutcome.ATTEMPT_OUTCOME_RELEASED}


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_second_signal_ends_it_too(cluster: Cluster, calls: Calls, services: Services, processes: str) -> None:
    worker = services.worker(*APART, "--grace", "1h", "--processes", processes)
    await asyncio.to_thread(worker.ready)
    jobs = await make_suspects(cluster, calls, work(600))
    await running(calls, jobs)
    [started] = lines(worker, STARTED)
    worker.process.send_signal(signal.SIGTERM)
    await logged(worker, "worker drains", 1 + int(processes))
    assert await asyncio.to_thread(worker.end, signal.SIGTERM) == 128 + signal.SIGTERM
    await until(lambda: gone(started["pid"]))
    assert await asyncio.to_thread(worker.all_gone)


async def test_it_drains_when_its_worker_is_killed(cluster: Cluster, calls: Calls, services: Services) -> None:
    worker = services.worker(*APART)
    await asyncio.to_thread(worker.ready)
    jobs = await make_suspects(cluster, calls, work(2))
    await running(calls, jobs)
    [started] = lines(worker, STARTED)
    worker.process.kill()
    row = await calls.done(jobs[0], seconds=BOUND)
    assert (row.state, row.lost) == (JobState.JOB_STATE_SUCCEEDED, 0)
    await until(lambda: gone(started["pid"]), seconds=BOUND)


async def test_one_worker_of_those_that_serve_the_same_has_such_a_process(
    cluster: Cluster, calls: Calls, services: Services
) -> None:
    several = services.worker(*APART, "--processes", "2")
    single = services.worker(*APART)
    for worker in (several, single):
        await asyncio.to_thread(worker.ready)
    jobs = await make_suspects(cluster, calls, work(1, 9))
    await calls.all_done(jobs, seconds=BOUND)
    started = lines(several, STARTED) + lines(single, STARTED)
    assert len(started) == 1
    pid = started[0]["pid"]
    assert {f"-{pid}-" in (row.worker or "") for row in await calls.rows(jobs)} == {True}
    # The member's number is the process's too.
    assert {line.get("process") for line in lines(several, "suspects run")} <= {1, 2}


async def test_when_it_is_told_to_end_by_somebody_another_one_goes_on(
    cluster: Cluster, calls: Calls, services: Services
) -> None:
    worker = services.worker(*APART)
    await asyncio.to_thread(worker.ready)
    jobs = await make_suspects(cluster, calls, work(1, 4))
    [started] = await logged(worker, STARTED)
    await logged(worker, "suspects run")
    os.kill(started["pid"], signal.SIGTERM)
    rows = await calls.all_done(jobs, seconds=BOUND)
    assert {(row.state, row.lost) for row in rows} == {(JobState.JOB_STATE_SUCCEEDED, 0)}
    assert len(lines(worker, STARTED)) == 2
    assert not lines(worker, DIED)


async def test_a_suspect_that_runs_in_it_is_cancelled(cluster: Cluster, calls: Calls, services: Services) -> None:
    worker = services.worker(*APART)
    await asyncio.to_thread(worker.ready)
    (job,) = await make_suspects(cluster, calls, work(600))
    await running(calls, [job])
    await calls.cancel(job)
    assert (await calls.done(job)).state == JobState.JOB_STATE_CANCELLED


async def test_where_it_cannot_be_started_suspects_run_in_the_worker(
    cluster: Cluster, calls: Calls, services: Services, tmp_path: Path
) -> None:
    # What only one process of a program can have: a port of its own, say.
    worker = services.worker(
        *APART,
        *("--servicer", "tests.integration.worker.claiming.exclusive:register"),
        PYTHONPATH=str(ROOT),
        EXCLUSIVE_FILE=str(tmp_path / "taken"),
    )
    await asyncio.to_thread(worker.ready)
    jobs = await make_suspects(cluster, calls, [EchoRequest(payload=b"a"), EchoRequest(payload=b"b")])
    rows = await calls.all_done(jobs, seconds=BOUND)
    assert {row.state for row in rows} == {JobState.JOB_STATE_SUCCEEDED}
    assert all(f"-{worker.process.pid}-" in (row.worker or "") for row in rows)
    [told] = lines(worker, "no process for suspects could be started")
    assert told["exit_code"] == 2
    assert "taken by another process" in "".join(worker.log)


async def test_a_worker_that_is_part_of_a_program_says_that_suspects_run_in_it(
    cluster: Cluster, calls: Calls, services: Services
) -> None:
    """`rowcall dev`'s are such, and a test's."""
    program = "import asyncio; from rowcall.settings import load_settings; from rowcall import logs\n"
    program += "from rowcall_worker import Worker, WorkerSettings\n"
    program += "logs.configure('info', 'json', 'program')\n"
    program += "async def main():\n    worker = Worker(load_settings(WorkerSettings))\n    await worker.run()\n"
    program += "asyncio.run(main())\n"
    process = services.python(program)
    jobs = await make_suspects(cluster, calls, work(0.1, 3))
    await calls.all_done(jobs, seconds=BOUND)
    told = lines(process, "suspects run alone in this process")
    assert [line["shard"] for line in told] == ["a"]
    assert not lines(process, STARTED)


async def test_the_role_ends_with_its_holder(cluster: Cluster, calls: Calls, services: Services) -> None:
    first, second = services.worker(*APART), None
    await asyncio.to_thread(first.ready)
    jobs = await make_suspects(cluster, calls, work(300))
    await running(calls, jobs)
    [started] = lines(first, STARTED)
    second = services.worker(*APART)
    await asyncio.to_thread(second.ready)
    for pid in (first.process.pid, started["pid"]):
        os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(first.process.wait, END_SECONDS)
    await logged(second, STARTED)
    await running(calls, jobs)
    with psycopg.connect(cluster.shards["a"]) as connection:
        row = connection.execute("select lost, lost_alone from rowcall.job").fetchone()
    assert row == (1, 1)
