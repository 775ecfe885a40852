"""From passages to sources: each document once, with the place in it that fits the question best. Called by the servicer."""

from collections.abc import Sequence
from dataclasses import dataclass

from documents_example.excerpts import best, weigh
from documents_example.index import Passage

_PASSAGES_EACH = 3
"""In how many of a document's passages its best place is looked for."""


@dataclass(frozen=True, slots=True)
class Found:
    """A document that was found, and the place in it."""

    path: str
    """The document."""
    quote: str
    """What stands there."""
    worth: float
    """How much of the question the quote has; 0 if no word of it."""
    score: float
    """How well the document fits, up to 1."""
    first_line: int
    """Where the quote begins in the document, from 1."""
    last_line: int
    """Where it ends."""


def locate(question: str, passages: Sequence[Passage], *, limit: int, longest: int) -> list[Found]:
    """The documents of the passages, the best first, `limit` at most, with quotes of `longest` characters at most."""
    documents: dict[str, list[Passage]] = {}
    for passage in passages:
        documents.setdefault(passage.path, []).append(passage)
    chosen = [found[:_PASSAGES_EACH] for found in list(documents.values())[:limit]]
    weights = weigh(question, (passage.chunk.text for found in chosen for passage in found))
    return [_place(found, weights, longest) for found in chosen]


def _place(passages: Sequence[Passage], weights: dict[str, float], longest: int) -> Found:
    quotes = [(best(passage.chunk.text, weights, longest=longest), passage) for passage in passages]
    # The passage's own rank decides between quotes that have as much of the question.
    quote, passage = max(quotes, key=lambda pair: pair[0].score * pair[1].score)
    line = passage.chunk.first_line
    return Found(
        passage.path,
        quote.text,
        quote.score,
        passages[0].score,
        line + quote.first_line,
        min(line + quote.last_line, passage.chunk.last_line),
    )
