"""What a service that runs as a process tells of itself on its operations port."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.fix_services import ServiceProcess
from tests.support.waiting import until

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def read(url: str) -> tuple[int, str]:
    """A page, whatever its status."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Ops:
    """A service's operations port."""

    def __init__(self, process: ServiceProcess, port: int | None = None) -> None:
        """
        Args:
            process: The service.
            port: Its operations port; None: as its log says.
        """
        self._process = process
        self._port = port

    async def page(self, path: str) -> tuple[int, str]:
        """A page's status and text, once the port is open."""
        await until(lambda: self._port is not None or bool(self._told()))
        where = self._told()[-1] if self._port is None else f"127.0.0.1:{self._port}"
        return await asyncio.to_thread(read, f"http://{where}{path}")

    async def json(self, path: str) -> tuple[int, Any]:
        """A page of JSON."""
        status, text = await self.page(path)
        return status, json.loads(text)

    async def samples(self) -> Samples:
        """What it exposes, as Prometheus reads it."""
        status, text = await self.page("/metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        return {
            (each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples
        }

    def port(self) -> int:
        """Its number, once it is open."""
        return int(self._told()[-1].rpartition(":")[2])

    def _told(self) -> list[str]:
        found = [json.loads(line) for line in list(self._process.log) if '"operations port"' in line]
        return [line["address"] for line in found]


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels; 0 where there are none."""
    wanted = set(labels.items())
    return sum(found for (each, its), found in samples.items() if each == name and wanted <= its)
