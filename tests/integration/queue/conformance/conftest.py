"""Which implementation of the queue the conformance suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.probe import Implementation
from tests.support.queues import Queue, opened


@pytest.fixture
def implementation(postgres_implementation: Implementation) -> Implementation:
    """What is held to the suite: the queue on Postgres.

    To hold another one to it, write its `Implementation` and its `Probe` (`tests.support.probe` says what each of their
    calls must do), give it a fixture beside those of `tests.fix_queue`, and answer with that here. Nothing else in this
    folder knows which one it is.
    """
    return postgres_implementation


@pytest.fixture
async def queue(implementation: Implementation) -> AsyncIterator[Queue]:
    """The queue of a shard, with the tenants acme and bolt."""
    async with opened(implementation) as made:
        yield made
