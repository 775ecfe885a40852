"""`rowcall jobs list`, `failures`, `cancel`, `retry` and `resolve` against a running system: one job, and many."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code

from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import job_service_pb2, job_service_pb2_grpc
from tests.fix_commands import ROWCALL, Ran, environment
from tests.fix_dev import CHANNEL_OPTIONS, Dev

RUN = "rowcall.probe.v1.ProbeService/Run"
NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class System:
    """A running system, and a tenant on it that is the test's own."""

    address: str
    tenant: str
    rowcall: Callable[..., Ran]
    stub: job_service_pb2_grpc.JobServiceStub

    @property
    def variables(self) -> dict[str, str]:
        """How a person tells commands of it."""
        return {"ROWCALL_ADDRESS": self.address, "ROWCALL_TENANT": self.tenant}

    def run(self, *arguments: str, **more: str) -> Ran:
        """Runs `rowcall jobs ARGUMENTS`."""
        return self.rowcall("jobs", *arguments, **{**self.variables, **more})

    def submit(self, *requests: probe_pb2.RunRequest, later: bool = False, **fields: Any) -> list[str]:
        """Names of new jobs."""
        specs = []
        for request in requests:
            spec = job_service_pb2.JobSpec(method=RUN, **fields)
            spec.request.Pack(request)
            if later:
                tomorrow = Timestamp()
                tomorrow.FromDatetime(datetime.now(UTC) + timedelta(days=1))
                spec.run_time.CopyFrom(tomorrow)
            specs.append(spec)
        batch = job_service_pb2.BatchSubmitRequest(jobs=specs)
        answer = self.stub.BatchSubmit(batch, timeout=20, metadata=(("rowcall-tenant", self.tenant),))
        return [each.operation.name for each in answer.results]

    def waiting(self, count: int) -> list[str]:
        """Names of new jobs that wait for tomorrow."""
        return self.submit(*[probe_pb2.RunRequest()] * count, later=True)

    def failed(self, code: Code.ValueType = Code.NOT_FOUND) -> str:
        """The name of a job that has failed."""
        request = json.dumps({"failCode": Code.Name(code)})
        ran = self.rowcall("submit", RUN, "--json", request, "--wait", "20", **self.variables)
        assert ran.code == 1, ran.err
        name: str = ran.json["name"]
        return name


@pytest.fixture
def system(rowcall: Callable[..., Ran], standing_dev: Dev) -> Iterator[System]:
    with grpc.insecure_channel(standing_dev.address, options=CHANNEL_OPTIONS) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        yield System(standing_dev.address, f"operator-{next(NUMBERS)}", rowcall, stub)


def names(ran: Ran) -> list[str]:
    """The jobs that a list printed."""
    assert ran.code == 0, ran.err
    return [line.split()[0] for line in ran.out.splitlines() if line.startswith("tenants/")]


def test_jobs_are_listed_newest_first_and_narrowed(system: System) -> None:
    failed = system.failed()
    first, second = system.waiting(2)
    [red] = system.submit(probe_pb2.RunRequest(), later=True, labels={"colour": "red"})

    assert names(system.run("list")) == [red, second, first, failed]
    assert names(system.run("list", "--state", "failed")) == [failed]
    assert names(system.run("list", "--state", "failed", "--state", "scheduled", "--label", "colour=red")) == [red]
    assert names(system.run("list", "--method", RUN, "--queue", "probe", "--since", "1h")) == [
        red,
        second,
        first,
        failed,
    ]
    assert names(system.run("list", "--until", "1h")) == []
    assert names(system.run("list", "--finished-since", "1h", "--finished-until", "2999-01-01")) == [failed]
    assert names(system.run("list", "--actor", "nobody")) == []
    nothing = system.run("list", "--key", "unknown")
    assert f"No job of the tenant {system.tenant} matches." in nothing.err

    part = system.run("list", "--limit", "3", "--json")
    assert [job["name"] for job in part.json["jobs"]] == [red, second, first]
    assert part.json["jobs"][0]["labels"] == {"colour": "red"}
    rest = system.run("list", "--limit", "3", "--json", "--page-token", part.json["next_page_token"])
    assert [(job["name"], job["error"]["code"]) for job in rest.json["jobs"]] == [(failed, Code.NOT_FOUND)]
    assert rest.json["next_page_token"] == ""
    assert "--page-token" in system.run("list", "--limit", "3").err


@pytest.mark.parametrize(("flags", "whole"), [((), True), (("--wide",), False)])
def test_a_list_fits_a_narrow_terminal_with_names_whole(system: System, flags: tuple[str, ...], whole: bool) -> None:
    jobs = system.waiting(2)
    terminal, its_end = pty.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as reader:
        variables = {**environment(system.variables), "COLUMNS": "90", "TERM": "xterm"}
        process = subprocess.Popen([ROWCALL, "jobs", "list", *flags], stdout=its_end, env=variables)
        os.close(its_end)
        shown = b""
        while (part := _read(reader)) != b"":
            shown += part
        assert process.wait(60) == 0

    lines = re.sub(rb"\x1b\[[0-9;]*m", b"", shown).decode().splitlines()
    for name in jobs:
        [line] = [line for line in lines if name in line]
        assert (line.split() == ["name", name]) is whole
    assert (max(map(len, lines)) <= 90) is whole


def _read(terminal: io.FileIO) -> bytes:
    """What was printed; nothing once nobody holds the terminal's other end."""
    try:
        return terminal.read(65536)
    except OSError:
        return b""


def test_dead_letters_are_counted_and_their_jobs_run_again(system: System) -> None:
    alike = [system.failed() for _ in range(2)]
    other = system.failed(Code.PERMISSION_DENIED)

    groups = system.run("failures", "--since", "1h", "--json").json["groups"]
    assert [(int(group["job_count"]), group["error"]["code"]) for group in groups] == [
        (2, Code.NOT_FOUND),
        (1, Code.PERMISSION_DENIED),
    ]
    fingerprint = groups[0]["error_fingerprint"]
    assert fingerprint in system.run("failures").out
    assert fingerprint in system.run("show", alike[0]).out
    assert names(system.run("list", "--fingerprint", fingerprint)) == alike[::-1]
    assert "No dead letter" in system.run("failures", "--method", "a.B/C").err

    dry = system.run("retry", "--fingerprint", fingerprint, "--dry-run")
    assert names(dry) == alike[::-1]
    assert "2 jobs would be ready again. Nothing was done." in dry.err
    unasked = system.run("retry", "--fingerprint", fingerprint)
    assert unasked.code == 2
    assert "2 jobs match; nothing was done. Say --yes to retry them" in unasked.err
    assert names(system.run("list", "--state", "failed")) == [other, *alike[::-1]]
    done = system.run("retry", "--fingerprint", fingerprint, "--yes", "--json")
    assert done.code == 0, done.err
    assert (done.json["matched"], done.json["done"], done.json["more"]) == (2, 2, False)
    assert done.json["sample"] == alike[::-1]


def test_one_job_runs_again_or_is_marked_as_handled(system: System) -> None:
    name = system.failed()
    again = system.run("retry", name)
    assert (again.code, again.err) == (0, f"{name} is ready again.\n")

    handled = system.failed()
    resolved = system.run("resolve", handled, "--note", "by hand", "--json")
    assert resolved.code == 0, resolved.err
    assert (resolved.json["state"], resolved.json["resolution"]["note"]) == ("JOB_STATE_RESOLVED", "by hand")
    assert "by hand" in system.run("show", handled).out
    late = system.run("retry", handled)
    assert late.code == 1
    assert "JOB_NOT_FAILED: The job is RESOLVED" in late.err


def test_more_than_the_limit_has_an_exit_code_of_its_own(system: System) -> None:
    waiting = system.waiting(5)

    part = system.run("cancel", "--all", "--limit", "3", "--yes")
    assert part.code == 4, part.err
    assert "3 jobs are cancelled, or marked where they run." in part.err
    rest = system.run("cancel", "--state", "scheduled", "--yes", "--json")
    assert rest.code == 0, rest.err
    assert rest.json["sample"] == waiting[1::-1]
    nothing = system.run("cancel", "--all")
    assert nothing.code == 0, nothing.err
    assert "0 jobs are cancelled" in nothing.err


def test_named_jobs_that_are_refused_are_told_with_why(system: System) -> None:
    failed, waiting = system.failed(), system.waiting(2)
    foreign = f"tenants/{system.tenant}x/operations/01890000-0000-7000-8000-000000000000"

    ran = system.run("cancel", failed, *waiting, foreign)

    assert ran.code == 1
    assert "2 jobs are cancelled, or marked where they run." in ran.err
    assert "2 of the named jobs were refused." in ran.err
    why = {line.split()[0]: line for line in ran.out.splitlines() if line.startswith("tenants/")}
    assert "JOB_FINISHED: The job is FAILED" in why[failed]
    assert "JOB_NOT_FOUND" in why[foreign]
    dry = system.run("resolve", failed, "--dry-run", "--json")
    assert (dry.code, dry.json["matched"], dry.json["done"]) == (0, 1, 0)
    assert names(system.run("list", "--state", "failed")) == [failed]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("cancel",), "Say which jobs: NAMEs, flags that match them, or --all."),
        (("retry", "--yes"), "Say which jobs"),
        (("retry", "tenants/a/operations/01890000-0000-7000-8000-000000000000", "--all"), "not both"),
        (("resolve", "tenants/a/operations/01890000-0000-7000-8000-000000000000", "--queue", "q"), "not both"),
        (("cancel", "operations/1"), "'operations/1' is not a job's name"),
        (("cancel", "operations/1", "operations/2"), "'operations/1' is not a job's name"),
        (("list", "--since", "soon"), "--since 'soon' is no time"),
        (("list", "--until", "2031-13-01"), "--until '2031-13-01' is no time"),
        (("failures", "--since", "999999d"), "is no time"),
        (("list", "--label", "colour"), "--label 'colour' is no label: write KEY=VALUE."),
        (("list", "--state", "done"), "'done' is not one of"),
        (("cancel", "--all", "--limit", "0"), "--limit"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_asked(
    system: System, arguments: tuple[str, ...], told: str
) -> None:
    ran = system.run(*arguments, ROWCALL_ADDRESS="127.0.0.1:1")

    assert ran.code == 2, ran.err
    assert told in ran.err
    assert "Traceback" not in ran.err


def test_a_filter_that_the_gateway_refuses_is_told(system: System) -> None:
    ran = system.run("list", "--method", "Run")

    assert ran.code == 1
    assert "INVALID_FILTER: filter.method is no method; write package.Service/Method." in ran.err


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 2)])
def test_a_person_is_asked(system: System, answer: str, code: int, left: int) -> None:
    system.waiting(2)
    terminal, its_end = pty.openpty()
    try:
        os.write(terminal, answer.encode())
        ran = subprocess.run(
            [ROWCALL, "jobs", "cancel", "--all"],
            stdin=its_end,
            capture_output=True,
            check=False,
            env=environment(system.variables),
            text=True,
            timeout=60,
        )
    finally:
        os.close(its_end)
        os.close(terminal)

    assert "cancel 2 jobs? [y/N]" in ran.stderr
    assert ran.returncode == code, ran.stderr
    assert len(names(system.run("list", "--state", "scheduled"))) == left


def test_every_command_has_help_with_an_example(system: System) -> None:
    for word in ("list", "show", "cancel", "retry", "resolve", "failures"):
        ran = system.run(word, "--help")
        assert ran.code == 0
        assert f"Example:\n    rowcall jobs {word}" in ran.out
