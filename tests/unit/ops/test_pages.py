"""What the operations port tells, of services whose standing the test knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import pytest

from rowcall.errors import RowcallError
from rowcall.ops.pages import OpsPages
from rowcall.ops.standing import DRAINING, Standing
from rowcall.queue.depths import NOT_YET, KnownDepths
from rowcall.queue.model import Depths, LaneDepth, WorkerLoad
from rowcall.v1.error_reason_pb2 import ErrorReason

AWAY = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "Shard 'b' does not answer. Call again.")


class OneService:
    """A service that stands as the test says."""

    def __init__(self, service: str, standing: Standing, depths: Sequence[KnownDepths] = ()) -> None:
        self.service = service
        self.depths = depths
        self._standing = standing

    def standing(self) -> Standing:
        return self._standing


def service(name: str = "gateway", refusal: str = "", checks: Mapping[str, str] | None = None) -> OneService:
    return OneService(name, Standing(refusal, checks or {}))


def depths(ready: int, *workers: WorkerLoad) -> Depths:
    oldest = timedelta(seconds=3)
    return Depths(timedelta(0), [LaneDepth("documents", 1, ready, 7, 9, oldest)], workers, None)


async def known(shard: str, found: Depths | RowcallError | None) -> KnownDepths:
    async def look(_: timedelta) -> Depths | None:
        if isinstance(found, RowcallError):
            raise found
        return found

    made = KnownDepths(shard, look)
    await made.look()
    return made


def told(pages: OpsPages, path: str) -> tuple[HTTPStatus, Any]:
    page = pages(path)
    return page.status, json.loads(page.body)


def test_it_is_ready_where_every_service_is_and_names_what_is_wrong_all_the_same() -> None:
    checks = {"shard a": "", "shard b": "does not answer"}
    pages = OpsPages([service(checks=checks), service("worker"), service("worker")])
    assert told(pages, "/readyz") == (
        HTTPStatus.OK,
        {
            "ready": True,
            "services": {
                "gateway": {"ready": True, "checks": {"shard a": "ok", "shard b": "does not answer"}},
                "worker": {"ready": True, "checks": {}},
                "worker 2": {"ready": True, "checks": {}},
            },
        },
    )
    assert pages.ready() == {
        ("gateway", "ready"): 1,
        ("gateway", "shard a"): 1,
        ("gateway", "shard b"): 0,
        ("worker", "ready"): 1,
    }


def test_it_is_not_ready_where_one_service_is_not_and_says_why() -> None:
    pages = OpsPages([service(), service("worker", DRAINING)])
    status, page = told(pages, "/readyz")
    assert (status, page["ready"]) == (HTTPStatus.SERVICE_UNAVAILABLE, False)
    assert page["services"]["worker"] == {"ready": False, "reason": "draining", "checks": {}}
    assert pages.ready()["worker", "ready"] == 0
    assert pages("/healthz").status is HTTPStatus.OK, "it lives all the same"


def test_nothing_is_ready_before_there_is_a_service() -> None:
    assert told(OpsPages([]), "/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, {"ready": False, "services": {}})


async def test_how_busy_a_queue_is_adds_shards_up_and_counts_slots_once() -> None:
    """A worker has the same slots for all shards, and tells each of them."""
    shards = [
        await known("a", depths(30, WorkerLoad("documents", 20, 5), WorkerLoad("ask", 4, 4))),
        await known("b", depths(10, WorkerLoad("documents", 20, 15))),
    ]
    # Gateway and worker of one process know the same; a worker that was not let in yet knows nothing.
    other = [await known("a", None), await known("b", depths(10, WorkerLoad("documents", 20, 15)))]
    pages = OpsPages([OneService("gateway", Standing("", {}), shards), OneService("worker", Standing("", {}), other)])
    assert told(pages, "/scale/documents") == (
        HTTPStatus.OK,
        {"queue": "documents", "ready": 40, "running": 20, "slots": 20, "value": 3.0},
    )


async def test_without_a_worker_every_job_counts_as_a_slots() -> None:
    """Whoever scales from zero needs a figure above it."""
    pages = OpsPages([OneService("gateway", Standing("", {}), [await known("a", depths(3))])])
    assert told(pages, "/scale/documents")[1] == {
        "queue": "documents", "ready": 3, "running": 0, "slots": 0, "value": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize("found", [AWAY, None], ids=["away", "not yet"])
async def test_half_of_the_figure_is_none(found: RowcallError | None) -> None:
    shards = [await known("a", depths(3)), await known("b", found)]
    status, page = told(OpsPages([OneService("gateway", Standing("", {}), shards)]), "/scale/documents")
    assert status is HTTPStatus.SERVICE_UNAVAILABLE
    assert page["error"].startswith("what waits is not known everywhere: shard b: ")
    assert (AWAY.message if found else NOT_YET) in page["error"]


async def test_what_a_shard_stood_at_is_told_for_a_while_when_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Depths | RowcallError] = [depths(3), AWAY]

    async def look(_: timedelta) -> Depths | None:
        answer = answers.pop(0)
        if isinstance(answer, RowcallError):
            raise answer
        return answer

    made = KnownDepths("a", look)
    assert made.trouble == NOT_YET
    await made.look()
    await made.look()
    assert made.trouble == AWAY.message
    pages = OpsPages([OneService("gateway", Standing("", {}), [made])])
    assert told(pages, "/scale/documents")[0] is HTTPStatus.OK
    monkeypatch.setattr("rowcall.queue.depths.KNOWN_FOR", 0.0)
    assert told(pages, "/scale/documents")[0] is HTTPStatus.SERVICE_UNAVAILABLE


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/scale/nosuch", HTTPStatus.NOT_FOUND, "no shard has a queue 'nosuch'"),
        ("/scale/", HTTPStatus.BAD_REQUEST, "no name of a queue"),
        ("/scale/Not%20One", HTTPStatus.BAD_REQUEST, "no name of a queue"),
        ("/scale/" + "x" * 64, HTTPStatus.BAD_REQUEST, "no name of a queue"),
        ("/metricz", HTTPStatus.NOT_FOUND, "/metrics"),
        ("/..", HTTPStatus.NOT_FOUND, "there is no such page"),
    ],
)
async def test_what_there_is_not_is_told_with_what_there_is(path: str, status: HTTPStatus, said: str) -> None:
    page = OpsPages([OneService("gateway", Standing("", {}), [await known("a", depths(3))])])(path)
    assert page.status is status
    assert said in page.body


async def test_before_a_shard_is_joined_nothing_is_known() -> None:
    assert told(OpsPages([service()]), "/scale/documents")[0] is HTTPStatus.SERVICE_UNAVAILABLE
