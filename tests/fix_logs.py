"""Fixtures: logs that a test configures as a process does, and its end with nothing of it left."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from rowcall import logs


@pytest.fixture
def restored_logs() -> Iterator[None]:
    """Puts the log's handlers and level, and structlog, back as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logs.flush()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
