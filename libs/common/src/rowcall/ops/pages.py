"""The pages of the operations port: /metrics, /healthz, /readyz, /scale/{queue}. Each is made of what is in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from rowcall.ops.http import JSON, Page
from rowcall.ops.standing import Service
from rowcall.queue.depths import KnownDepths, scale_of
from rowcall.telemetry import metrics
from rowcall.telemetry.exposition import CONTENT_TYPE, exposition
from rowcall.telemetry.process import process_tallies
from rowcall.telemetry.tallies import Labels, Tally, all_of

_INDEX: Final = """\
/metrics         what this process has counted and measured, for Prometheus
/healthz         whether it lives
/readyz          whether anything should be sent to it, and why not
/scale/{queue}   how busy the workers of a queue are, for KEDA's metrics-api
"""

_SCALE: Final = "/scale/"
_QUEUE: Final = re.compile(r"[a-z0-9_-]{1,63}")


class OpsPages:
    """The pages of a process."""

    def __init__(self, services: Sequence[Service]) -> None:
        """`services`: what runs in it, a gateway or workers or both."""
        self._services = services
        self.tallies: tuple[Tally, ...] = (*all_of(vars(metrics)), *process_tallies())
        """All that there is to tell of this process."""

    def __call__(self, path: str) -> Page:
        """The page of a path."""
        if path == "/metrics":
            return Page(exposition(self.tallies), content_type=CONTENT_TYPE)
        if path == "/healthz":
            # That it is answered is the answer: it comes from the event loop that everything else runs in.
            return Page("alive\n")
        if path == "/readyz":
            return self._ready()
        if path.startswith(_SCALE):
            return self._scale(unquote(path.removeprefix(_SCALE)))
        if path == "/":
            return Page(_INDEX)
        return Page(f"there is no such page; there are:\n{_INDEX}", HTTPStatus.NOT_FOUND)

    def ready(self) -> Mapping[Labels, float]:
        """What metrics.READY stands at."""
        found: dict[Labels, float] = {}
        for service in self._services:
            standing = service.standing()
            for check, trouble in {"ready": standing.refusal, **standing.checks}.items():
                labels = (service.service, check)
                found[labels] = min(found.get(labels, 1.0), 0.0 if trouble else 1.0)
        return found

    def _ready(self) -> Page:
        services: dict[str, object] = {}
        # Before there is any, as while the databases of `rowcall dev` are made, nothing is ready.
        ready = bool(self._services)
        for service in self._services:
            standing = service.standing()
            ready = ready and not standing.refusal
            services[_free(service.service, services)] = {
                "ready": not standing.refusal,
                **({"reason": standing.refusal} if standing.refusal else {}),
                "checks": {name: trouble or "ok" for name, trouble in standing.checks.items()},
            }
        return _json({"ready": ready, "services": services}, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _scale(self, queue: str) -> Page:
        if not _QUEUE.fullmatch(queue):
            return _json(
                {"error": "this is no name of a queue: lower-case letters, digits, - and _, 63 at most"},
                HTTPStatus.BAD_REQUEST,
            )
        # Gateway and workers of one process see the same shards, and one of them may have seen more.
        shards: dict[str, KnownDepths] = {}
        for known in (each for service in self._services for each in service.depths):
            if known.shard not in shards or shards[known.shard].depths is None:
                shards[known.shard] = known
        if not shards:
            return _json({"error": "no shard was joined yet; ask again"}, HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            scale = scale_of(queue, list(shards.values()))
        except LookupError as error:
            return _json(
                {"error": f"what waits is not known everywhere: {error.args[0]}"}, HTTPStatus.SERVICE_UNAVAILABLE
            )
        if scale is None:
            return _json(
                {"error": f"no shard has a queue {queue!r}; it is there as soon as a gateway offers a method of it"},
                HTTPStatus.NOT_FOUND,
            )
        return _json(asdict(scale))


def _free(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number behind it where it is the second of its kind."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name} {number}"
    return found


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Page:
    return Page(json.dumps(value) + "\n", status, JSON)
