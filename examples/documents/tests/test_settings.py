"""What the environment says, and how a worker is told what is wrong with it."""

import pytest

from documents_example.settings import Settings, SettingsError

pytestmark = pytest.mark.unit


def test_the_embedder_is_the_hashed_one_by_default() -> None:
    dsn = "postgresql://localhost/documents"

    assert Settings.from_environment({"DOCUMENTS_DSN": dsn}) == Settings(dsn, "hashed")
    assert Settings.from_environment({"DOCUMENTS_DSN": dsn, "DOCUMENTS_EMBEDDER": ""}) == Settings(dsn, "hashed")
    assert Settings.from_environment({"DOCUMENTS_DSN": dsn, "DOCUMENTS_EMBEDDER": "e5"}) == Settings(dsn, "e5")


def test_a_missing_database_is_named_with_a_remedy() -> None:
    with pytest.raises(SettingsError, match="DOCUMENTS_DSN is not set: name the database"):
        Settings.from_environment({})


def test_a_wrong_connection_string_is_named_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="DOCUMENTS_DSN is no connection string") as refused:
        Settings.from_environment({"DOCUMENTS_DSN": "host=db password=hunter2 nonsense"})

    assert "hunter2" not in f"{refused.value}{(refused.value.__context__ and refused.value.__suppress_context__) or ''}"
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(Settings("postgresql://user:hunter2@db/documents", "hashed"))
