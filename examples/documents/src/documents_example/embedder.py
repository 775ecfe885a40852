"""Vectors that stand for texts: what makes them, as the servicer and the index know it."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

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
