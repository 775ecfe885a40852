"""What a program does not import: half of its start was that, and it is paid at each rolling restart, for each process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fix_commands import environment
from tests.fix_images import ImageBuilder
from tests.fix_services import END_SECONDS, ServiceProcess, Services

NEVER = {"rich", "pygments", "typer"}
"""What only the command line needs, which a development environment has installed beside the services."""
REPLACED = {"google.protobuf.internal.python_message", "google.protobuf.text_format"}
"""Protobuf's messages in Python, which those in C replace."""
RULED = """
syntax = "proto3";
package shop.v1;
import "buf/validate/validate.proto";
import "rowcall/options/v1/job.proto";
service ShopService { rpc Buy(BuyRequest) returns (BuyResponse) { option (rowcall.options.v1.job) = {}; } }
message BuyRequest { string item = 1 [(buf.validate.field).string.max_len = 8]; }
message BuyResponse {}
"""
"""Rules that a gateway compiles at its start."""


def imported(service: ServiceProcess) -> set[str]:
    """The modules within packages that a service has imported until it was ready, and the packages that they are in."""
    service.ready()
    assert service.end() == 0
    lines = [line.rpartition("|")[2].strip() for line in service.log if line.startswith("import time:")]
    # One that was asked for in vain is there too, by its name alone.
    found = {part for line in lines for part in (line.partition(".")[0], line.rpartition(".")[0], line) if "." in line}
    assert {"rowcall", "psycopg"} <= found, "the interpreter tells what it imports"
    return found


def test_a_worker_starts_without_what_it_may_never_need(services: Services, build_image: ImageBuilder) -> None:
    image = build_image({"shop/v1/shop.proto": RULED})
    found = imported(services.worker("--image", str(image), PYTHONPROFILEIMPORTTIME="1"))
    assert not found & (NEVER | REPLACED | {"protovalidate", "opentelemetry"})


def test_a_gateway_starts_without_what_it_may_never_need(services: Services) -> None:
    found = imported(services.gateway(PYTHONPROFILEIMPORTTIME="1"))
    assert not found & (
        NEVER | REPLACED | {"opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation"}
    )


def test_the_command_line_does_not_load_the_services_for_its_help() -> None:
    modules = _imported_by("-m", "rowcall_cli", "--help")
    assert not {"rowcall_gateway", "rowcall_worker", "psycopg_pool", "opentelemetry"} & modules


@pytest.mark.parametrize("variable", [{}, {"ROWCALL_HEALTH_FILE": "/nowhere/rowcall-worker.alive"}])
def test_a_health_check_of_a_worker_imports_nothing_of_it(variable: dict[str, str]) -> None:
    """A container runs it every five seconds."""
    modules = _imported_by("-m", "rowcall_worker.healthcheck", **variable)
    assert not {"asyncio", "grpc", "google", "psycopg", "pydantic", "structlog"} & modules


def _imported_by(*arguments: str, **variables: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        check=False,
        env=environment(variables),
        text=True,
        timeout=END_SECONDS,
    )
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines() if "|" in line}
