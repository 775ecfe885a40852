"""Vectors that stand for texts: the interface, and which one the environment chooses. Called by the servicer."""

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, cast

Vector: TypeAlias = list[float]
"""As many numbers as the embedder has dimensions, of length 1 (or 0, for a text without words)."""


class EmbedderError(Exception):
    """The embedder that was asked for cannot be had; the message says why and what to do."""


class Embedder(Protocol):
    """Makes vectors whose cosine says how close two texts are. Its methods may be called in threads."""

    @property
    def name(self) -> str:
        """Says which vectors it makes. Documents are indexed anew when it changes."""
        ...

    @property
    def weight(self) -> float:
        """What its ranking counts beside that of the word search, which counts 1."""
        ...

    def passages(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text of a document."""
        ...

    def question(self, text: str) -> Vector:
        """The vector to search with."""
        ...


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
