"""Recognising text that a program wrote. Called by the servicer.

Generated code repeats what stands in its source: found beside it, it tells nothing new and takes a source's place.
"""

import re

_HEAD = 2000
_MARK = re.compile(r"@generated|\bdo not (?:edit|modify)\b|\b(?:auto-?|automatically )generated\b", re.IGNORECASE)

AUTHORED_WEIGHT = 1.0
GENERATED_WEIGHT = 0.5


def weight_of(text: str) -> float:
    """What a document counts in a search: half, if its beginning says that it was generated."""
    return GENERATED_WEIGHT if _MARK.search(text, 0, _HEAD) else AUTHORED_WEIGHT
