"""What the environment says. Read once, when the servicer is registered."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the documents example."""

    dsn: str = field(repr=False)
    """DOCUMENTS_DSN: the database of the index, as a libpq connection string or URL. May carry a password."""
    embedder: str
    """DOCUMENTS_EMBEDDER: "hashed" (the default), "e5" or "module:function"."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The settings in these variables.

        Raises:
            SettingsError: DOCUMENTS_DSN is missing or no connection string.
        """
        dsn = environment.get("DOCUMENTS_DSN", "")
        if not dsn:
            raise SettingsError(
                "DOCUMENTS_DSN is not set: name the database of the documents index, such as postgresql://localhost/documents"
            )
        try:
            conninfo_to_dict(dsn)
        except ProgrammingError:
            # The cause would show the string, and with it the password.
            raise SettingsError(
                "DOCUMENTS_DSN is no connection string: write it as postgresql://user@host:5432/database"
            ) from None
        return cls(dsn, environment.get("DOCUMENTS_EMBEDDER") or "hashed")
