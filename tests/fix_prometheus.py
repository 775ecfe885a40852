"""Fixtures: promtool, and Prometheus servers that scrape what a test has started."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.places import ROOT
from tests.support.prometheus import programs
from tools.debian import NotHad

DEPLOYMENT = ROOT / "deploy" / "prometheus"
END_SECONDS = 30.0

Promtool = Callable[..., str]


@pytest.fixture(scope="session")
def prometheus_programs() -> Path:
    """The folder of prometheus and promtool."""
    try:
        return programs()
    except NotHad as error:
        pytest.skip(f"NOT TRIED WITH PROMETHEUS: {error}")


@pytest.fixture(scope="session")
def promtool(prometheus_programs: Path) -> Promtool:
    """Runs promtool with arguments; what it says. What it refuses fails the test."""

    def run(*arguments: str | Path, accepts: bool = True) -> str:
        ran = subprocess.run(
            [prometheus_programs / "promtool", *arguments], capture_output=True, check=False, text=True, timeout=60
        )
        said = ran.stdout + ran.stderr
        assert (ran.returncode == 0) is accepts, said
        return said

    return run


class Prometheus:
    """A server."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether it answers."""
        with suppress(OSError), urllib.request.urlopen(f"{self._url}/-/ready", timeout=10) as answer:
            return bool(answer.status == 200)
        return False

    def ask(self, path: str, **arguments: str) -> Any:
        """What its API answers; an error of a query fails the test, in its words."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from None

    def query(self, query: str) -> list[dict[str, Any]]:
        """What a query finds now: one element a series."""
        found: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return found


@pytest.fixture
def prometheus(prometheus_programs: Path, tmp_path: Path) -> Iterator[Callable[[Sequence[str]], Prometheus]]:
    """Starts one with deploy/prometheus as it is, but that it scrapes these addresses, each second."""
    with ExitStack() as stack:

        def start(addresses: Sequence[str]) -> Prometheus:
            configured = yaml.safe_load((DEPLOYMENT / "prometheus.yaml").read_text("utf-8"))
            configured["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
            configured["rule_files"] = [str(DEPLOYMENT / each) for each in configured["rule_files"]]
            [job] = configured["scrape_configs"]
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": list(addresses)}]
            file = tmp_path / "prometheus.yaml"
            file.write_text(yaml.safe_dump(configured))
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            log = stack.enter_context((tmp_path / "prometheus.log").open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    [
                        prometheus_programs / "prometheus",
                        f"--config.file={file}",
                        f"--storage.tsdb.path={tmp_path / 'prometheus'}",
                        f"--web.listen-address=127.0.0.1:{port}",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
            stack.callback(_end, process)
            return Prometheus(port)

        yield start


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
