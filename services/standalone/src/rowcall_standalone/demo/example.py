"""Where the documents example is: its image, its servicer and its prices, by name. Nothing of ours imports it. Called by `run`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rowcall_standalone.errors import StandaloneError

SERVICER = "documents_example.servicer:register"
"""What the worker is started with."""
DSN_VARIABLE = "DOCUMENTS_DSN"
"""Where the example looks for its own database."""
DATABASE = "documents"
"""That database's name on the embedded server."""
INGEST = "documents.v1.DocumentService/IngestDocument"
ASK = "documents.v1.DocumentService/AskDocuments"

_PACKAGE = "documents_example"


def image() -> Path:
    """The example's descriptor image.

    Raises StandaloneError when the example is not installed.
    """
    return _file("documents.binpb")


def prices() -> Path:
    """What the example's models cost.

    Raises StandaloneError when the example is not installed.
    """
    return _file("prices.toml")


def _file(name: str) -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(place) / name
        if path.is_file():
            return path
    raise StandaloneError(
        "The documents example is not installed, and the demo runs it: install rowcall-example-documents, or run "
        "make demo in a clone of the repository."
    )
