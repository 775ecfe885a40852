"""Making one ranking of several. Called by the index.

Reciprocal rank fusion: what stands at rank r of a list gets 1 / (k + r), summed over the lists. Scores of different
searches need not be comparable for that (Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet
and individual Rank Learning Methods", 2009, which found k = 60 to serve well).
"""

from collections.abc import Hashable, Sequence
from typing import TypeVar

K = 60

Key = TypeVar("Key", bound=Hashable)


def fuse(rankings: Sequence[tuple[Sequence[Key], float]]) -> list[tuple[Key, float]]:
    """Each key with its score, the best first. Every ranking comes with its weight; ties keep the order of arrival.

    Scores are parts of the best one there can be: 1 is the first of every ranking.
    """
    scores: dict[Key, float] = {}
    best = sum(weight for _, weight in rankings) / (K + 1)
    for ranking, weight in rankings:
        for rank, key in enumerate(ranking, start=1):
            scores[key] = scores.get(key, 0.0) + weight / (K + rank) / best
    return sorted(scores.items(), key=lambda scored: -scored[1])
