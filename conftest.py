"""For every test of the repository: the folder under tests/ is the marker that `make test-NAME` selects by."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Tests start programs while gRPC's threads run. gRPC's handlers for processes that fork and go on using it are of no use
# to those, and can end them before they begin.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

TESTS = Path(__file__).parent / "tests"

# An example that takes long on a busy machine has found nothing: the time limit of a test is pytest's.
settings.register_profile("rowcall", deadline=None)
settings.load_profile("rowcall")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each test the marker of its folder; a folder that pyproject.toml does not list is an error."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            folder = item.path.relative_to(TESTS).parts[0]
            item.add_marker(getattr(pytest.mark, folder))
