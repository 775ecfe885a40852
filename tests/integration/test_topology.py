"""docker-compose.yml as processes: the same commands, environment, order and health checks, without a Docker engine.

Commands are the Dockerfiles' entry points with Compose's arguments, and the server is made by its own script; only hosts and
ports are put in for what Compose's network would resolve.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from rowcall.embedded import Postgres
from rowcall.migrations import Target, roles_script
from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.fix_commands import environment
from tests.fix_postgres import RestartablePostgres
from tests.fix_services import ServiceProcess
from tests.support.places import ROOT
from tests.support.ports import free_port
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


def filled_in(value: str) -> str:
    """A setting as Compose hands it on where its own environment says nothing."""
    return re.sub(r"\$\{\w+:-(\w*)\}", r"\1", value)


@pytest.fixture
def composed(restartable_postgres: RestartablePostgres) -> Postgres:
    """A server of the test's own, made as Compose's is: its script, run by psql with the container's environment."""
    server = restartable_postgres.server
    psql = server.binaries.program("psql")
    if not psql.is_file():
        pytest.skip("these Postgres binaries have no psql")
    [mounted] = SERVICES["postgres"]["configs"]
    script = ROOT / COMPOSE["configs"][mounted["source"]]["file"]
    variables = {name: filled_in(value) for name, value in SERVICES["postgres"]["environment"].items()}
    done = subprocess.run(
        [psql, "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-f", script, server.dsn("postgres")],
        env=environment(variables),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return server


@pytest.fixture
def run(composed: Postgres, tmp_path: Path) -> Iterator[Callable[[str], tuple[ServiceProcess, Mapping[str, str]]]]:
    """Starts a service of docker-compose.yml; with its environment."""
    port = free_port()
    with ExitStack() as stack:

        def start(service: str) -> tuple[ServiceProcess, Mapping[str, str]]:
            variables = {
                name: filled_in(value)
                .replace("@postgres:5432/", f"@127.0.0.1:{composed.port}/")
                .replace(":50051", f":{port}")
                # A network of its own has each container at the same port.
                .replace("0.0.0.0:9464", "127.0.0.1:0")
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
    passwords = {filled_in(value) for name, value in SERVICES["postgres"]["environment"].items() if "ROWCALL" in name}
    used = set()
    for name in ("migrate", "gateway", "worker"):
        settings = SERVICES[name]["environment"]
        shards = json.loads(filled_in(settings["ROWCALL_SHARDS"]))
        dsns = [conninfo_to_dict(dsn) for dsn in (filled_in(settings["ROWCALL_CATALOGUE"]), *shards.values())]
        assert [dsn["dbname"] for dsn in dsns] == ["rowcall_catalogue", "rowcall_a", "rowcall_b"]
        [(user, password)] = {(dsn["user"], dsn["password"]) for dsn in dsns}
        assert user == {"migrate": "rowcall_migrator"}.get(name, f"rowcall_{name}_login")
        used.add(password)
    provisioned = ROOT / "deploy/grafana/provisioning/datasources/rowcall.yaml"
    of_grafana = {
        filled_in(SERVICES["grafana"]["environment"][each["secureJsonData"]["password"].removeprefix("$")])
        for each in yaml.safe_load(provisioned.read_text("utf-8"))["datasources"]
        if "secureJsonData" in each
    }
    assert used | of_grafana == passwords, "each its own"
    assert not used & of_grafana


def test_the_servers_script_makes_the_roles_that_migrating_needs() -> None:
    """It is what `rowcall migrate --roles=print` prints, for a login that makes none."""
    script = (ROOT / COMPOSE["configs"]["postgres"]["file"]).read_text("utf-8")
    printed = roles_script([Target("catalogue", "c", "user=m"), Target("shard", "a", "user=m")])
    made = printed[printed.index("do $$") : printed.index("$$;") + len("$$;")]
    assert made in script
    assert "createrole" not in script.lower().replace("no createrole", "")


@pytest.mark.timeout(300)
async def test_the_composed_system_comes_up_healthy_answers_and_drains(
    composed: Postgres, run: Callable[[str], tuple[ServiceProcess, Mapping[str, str]]]
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

    # Each with its own rights: nobody else gets in, and neither is more than it must be.
    with psycopg.connect(composed.dsn("postgres")) as admin:
        able = "select rolname from pg_roles where rolcanlogin and (rolsuper or rolcreaterole or rolcreatedb or rolbypassrls)"
        assert admin.execute(able).fetchall() == [("postgres",)]
    stranger = composed.create_login("stranger")
    with pytest.raises(psycopg.OperationalError, match='permission denied for database "rowcall_a"'):
        psycopg.connect(composed.dsn("rowcall_a", stranger))

    assert worker.end() == 0, "".join(worker.log)
    assert not healthy("worker", at_worker)
    assert gateway.end() == 0, "".join(gateway.log)
    assert not healthy("gateway", at_gateway)
