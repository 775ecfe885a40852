"""Which embedder the environment chooses. Called by the servicer."""

import importlib
from collections.abc import Callable
from typing import cast

from documents_example.embedder import Embedder, EmbedderError


def choose(name: str) -> Embedder:
    """The embedder called "hashed" or "e5", or made by "module:function".

    Raises:
        EmbedderError: there is none of that name, or its extra is not installed.
    """
    if name == "hashed":
        from documents_example.hashed import HashedEmbedder

        return HashedEmbedder()
    if name == "e5":
        from documents_example.e5 import E5Embedder

        return E5Embedder()
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise EmbedderError(f'no embedder is called {name!r}: it is "hashed", "e5" or "module:function"')
    try:
        factory = cast("Callable[[], Embedder]", getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise EmbedderError(f"the embedder {name!r} cannot be loaded: {error}") from error
    return factory()
