"""The embedder that needs nothing: feature hashing of words and their parts. Chosen by `embedders`.

Each stem, each pair of neighbours and each run of characters in a word is hashed to one of the dimensions, with a sign
from the same hash, so that collisions cancel out on average (Weinberger et al., "Feature Hashing for Large Scale
Multitask Learning", 2009). It knows no meanings; runs of characters bring it past typing errors and word forms. How
rare a word is in the corpus is the business of the index's word search.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from documents_example.embedder import Vector
from documents_example.terms import terms

_WORD_WEIGHT = 1.0
_PAIR_WEIGHT = 0.6
_RUN_WEIGHT = 0.35
_RUN = 4


class HashedEmbedder:
    """Signed feature hashing, deterministic on every machine."""

    def __init__(self, dimensions: int = 512) -> None:
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        """The kind, its version and the dimensions."""
        return f"hashed-1-{self._dimensions}"

    @property
    def weight(self) -> float:
        """Little: it sees the same words as the word search, without their rarity, and adds their parts."""
        return 0.3

    def passages(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text."""
        return [self._embed(text) for text in texts]

    def question(self, text: str) -> Vector:
        """The same as for a passage."""
        return self._embed(text)

    def _embed(self, text: str) -> Vector:
        vector = [0.0] * self._dimensions
        for (feature, weight), count in Counter(_features(terms(text))).items():
            place = _hash(feature)
            # The second "deadline" in a text says less than the first.
            value = weight * (1 + math.log(count))
            vector[(place >> 1) % self._dimensions] += value if place & 1 else -value
        length = math.sqrt(sum(value * value for value in vector))
        return [value / length for value in vector] if length else vector


def _features(stems: Sequence[str]) -> Iterator[tuple[str, float]]:
    for stem in stems:
        yield stem, _WORD_WEIGHT
        padded = f"<{stem}>"
        for at in range(len(padded) - _RUN + 1):
            yield f"#{padded[at : at + _RUN]}", _RUN_WEIGHT
    for first, second in itertools.pairwise(stems):
        yield f"{first} {second}", _PAIR_WEIGHT


@lru_cache(maxsize=262_144)
def _hash(feature: str) -> int:
    return int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
