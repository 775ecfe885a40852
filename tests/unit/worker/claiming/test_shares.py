"""How queues are chosen: NAME[=WEIGHT[:SLOTS]], and what is said of what cannot be read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rowcall_worker.claiming.shares import QueueChoice, Shares
from rowcall_worker.running.slots import Cap
from rowcall_worker.settings import WorkerSettings

DATABASES = {"catalogue": "postgresql:///c", "shards": {"a": "postgresql:///a"}}


def settings(queues: object) -> WorkerSettings:
    return WorkerSettings.model_validate({**DATABASES, "queues": queues})


def test_a_queue_has_a_weight_and_slots_where_they_are_said() -> None:
    assert settings("documents=3:50,ask,bulk=0.5").queues == (
        QueueChoice("documents", 3, 50),
        QueueChoice("ask", 1, None),
        QueueChoice("bulk", 0.5, None),
    )
    assert settings(["documents=3:50", "ask"]).queues == settings("documents=3:50,ask").queues
    assert settings('["documents=3:50"]').queues == (QueueChoice("documents", 3, 50),)


@pytest.mark.parametrize(
    ("queues", "told"),
    [
        ("Documents", "'Documents', which does not begin with a queue's name"),
        ("=3", "'=3', which does not begin with a queue's name"),
        ("documents:50", "'documents:50', which does not begin with a queue's name"),
        ("documents=", "gives 'documents' the weight ''; a weight is a number from 0.01 to 100"),
        ("documents=much", "gives 'documents' the weight 'much'"),
        ("documents=0", "gives 'documents' the weight '0'"),
        ("documents=nan", "gives 'documents' the weight 'nan'"),
        ("documents=101", "gives 'documents' the weight '101'"),
        ("documents=1:0", "gives 'documents' '0' slots; it is a whole number from 1 up"),
        ("documents=1:", "gives 'documents' '' slots"),
        ("documents=1:1.5", "gives 'documents' '1.5' slots"),
        ("ask,documents,ask=2", "names 'ask' twice"),
    ],
)
def test_what_cannot_be_read_is_named(queues: str, told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(queues)
    assert told in str(refused.value)


def test_queues_that_were_not_chosen_have_no_share() -> None:
    chosen = Shares([QueueChoice("documents", 3, 50), QueueChoice("ask")])
    documents = chosen.of("documents")
    assert documents is not None
    assert (documents.weight, documents.room) == (3, 50)
    assert chosen.of("other") is None
    assert chosen.names == ("ask", "documents")
    every = Shares([])
    assert every.of("documents") is every.of("other") is not None
    assert every.names == ()


def test_whoever_waits_for_a_full_queue_is_woken() -> None:
    cap, woken = Cap(2), []
    cap.when_freed(lambda: woken.append(cap.free))
    cap.take(2)
    cap.give(0)
    assert woken == []
    cap.give(1)
    cap.give(1)
    assert woken == [1]
    assert cap.free == 2
