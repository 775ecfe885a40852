"""Where a new tenant goes: weighted rendezvous hashing, so that every gateway comes to the same answer by itself.

Called by the directory. The score of a shard is -weight / ln(h), with h the hash of shard and tenant in (0, 1)
(Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005): shards get tenants in proportion to their
weights, and a shard that is added draws tenants only to itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping


def place(tenant: str, weights: Mapping[str, float]) -> str | None:
    """The shard for a new tenant; None if every weight is 0."""
    scores = {shard: -weight / math.log(_hash(shard, tenant)) for shard, weight in weights.items() if weight > 0}
    return max(sorted(scores), key=lambda shard: scores[shard], default=None)


def _hash(shard: str, tenant: str) -> float:
    digest = hashlib.blake2b(f"{shard}\0{tenant}".encode(), digest_size=8).digest()
    # 53 bits, as many as a float holds; the half keeps it off 0 and 1.
    return ((int.from_bytes(digest, "big") >> 11) + 0.5) / (1 << 53)
