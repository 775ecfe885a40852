"""docker-compose.yml as processes: the same commands, environment, order and health checks, without a Docker engine.

Commands are the Dockerfiles' entry points with Compose's arguments; only hosts and ports are put in for what Compose's
network would resolve.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.fix_commands import environment
from tests.fix_services import ServiceProcess
from tests.support.places import ROOT
from tests.support.waiting import until

BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]


def dockerfile(service: str, instruction: str) -> list[str]:
    """The JSON list of an instruction (ENTRYPOINT, or HEALTHCHECK's CMD) in a service's Dockerfile."""
    text = (ROOT / SERVICES[service]["build"]["dockerfile"]).read_text("utf-8")
    found = re.search(rf"^{instruction} .*?(\[.*\])$", text, re.MULTILINE)
    assert found is not None, f"{service}: no {instruction}"
    command: list[str] = json.loads(found[1])
    return command


def command(service: str) -> list[str]:
    """What a container of the service runs, below its init."""
    init, end, *entry = dockerfile(service, "ENTRYPOINT")
    assert (init, end) == ("tini", "--"), "process 1 is an init's place"
    return [*entry, *SERVICES[service].get("command", [])]


def on_this_machine(value: str, database: Callable[[str], str]) -> str:
    """A setting with the databases on the run's Postgres instead of the host "postgres"."""
    value = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value)
    return re.sub(r"postgresql://rowcall:rowcall@postgres:5432/(\w+)", lambda match: database(match[1]), value)


@pytest.fixture
def databases_by_name(database: Callable[[], str]) -> Callable[[str], str]:
    """An empty database for each name that Compose's settings use."""
    made: dict[str, str] = {}

    def dsn(name: str) -> str:
        if name not in made:
            made[name] = database()
        return made[name]

    return dsn


@pytest.fixture
def run(
    databases_by_name: Callable[[str], str], tmp_path: Path
) -> Iterator[Callable[[str], tuple[ServiceProcess, Mapping[str, str]]]]:
    """Starts a service of docker-compose.yml; with its environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:

        def start(service: str) -> tuple[ServiceProcess, Mapping[str, str]]:
            variables = {
                name: on_this_machine(value, databases_by_name).replace(":50051", f":{port}")
                for name, value in SERVICES[service]["environment"].items()
            }
            if "ROWCALL_HEALTH_FILE=" in (ROOT / SERVICES[service]["build"]["dockerfile"]).read_text("utf-8"):
                variables["ROWCALL_HEALTH_FILE"] = str(tmp_path / f"{service}.alive")
            program, *arguments = command(service)
            process = ServiceProcess(program, tuple(arguments), variables)
            stack.enter_context(process.process)
            stack.callback(process.process.kill)
            return process, variables

        yield start


def healthy(service: str, variables: Mapping[str, str]) -> bool:
    """What the container's health check says."""
    program, *arguments = dockerfile(service, "HEALTHCHECK")
    checked = subprocess.run([BIN / program, *arguments], env=environment(variables), capture_output=True, check=False)
    return checked.returncode == 0


def test_settings_are_dsns_once_compose_has_filled_them_in() -> None:
    shards = json.loads(on_this_machine(SERVICES["gateway"]["environment"]["ROWCALL_SHARDS"], lambda name: name))
    assert shards == {"a": "rowcall_a", "b": "rowcall_b"}
    for name in ("migrate", "gateway", "worker"):
        assert conninfo_to_dict(re.sub(r"\$\{.*?\}", "x", SERVICES[name]["environment"]["ROWCALL_CATALOGUE"]))


@pytest.mark.timeout(300)
async def test_the_composed_system_comes_up_healthy_answers_and_drains(
    run: Callable[[str], tuple[ServiceProcess, Mapping[str, str]]],
) -> None:
    for service in ("gateway", "worker"):
        assert SERVICES[service]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    migrate, _ = run("migrate")
    assert migrate.process.wait(60) == 0, "".join(migrate.log)

    gateway, at_gateway = run("gateway")
    worker, at_worker = run("worker")
    await until(lambda: healthy("gateway", at_gateway), seconds=90, every=0.5)
    await until(lambda: healthy("worker", at_worker), seconds=90, every=0.5)

    port = at_gateway["ROWCALL_LISTEN"].rpartition(":")[2]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await probe_pb2_grpc.ProbeServiceStub(channel).Echo(
            probe_pb2.EchoRequest(payload=b"composed"), metadata=[("rowcall-tenant", "acme")], timeout=20
        )
    assert answer.payload == b"composed"

    assert worker.end() == 0, "".join(worker.log)
    assert not healthy("worker", at_worker)
    assert gateway.end() == 0, "".join(gateway.log)
    assert not healthy("gateway", at_gateway)
