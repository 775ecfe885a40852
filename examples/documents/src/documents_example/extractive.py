"""The answer model that needs nothing: it quotes. The `Model` of the servicer unless another is given.

It picks the run of sentences in each of the best sources that is about the question, and joins what adds something.
It cannot say anything that the documents do not, nor anything in other words.
"""

from collections.abc import Sequence

from documents_example.excerpts import best, weigh
from documents_example.index import Passage

_SOURCES = 3
"""From how many sources it quotes at most."""
_QUOTE = 360
"""How many characters it quotes from one."""
_WORTH = 0.6
"""A further source is quoted if it has this part of what the best one has of the question."""

NO_ANSWER = "The documents hold no answer to this."


class ExtractiveModel:
    """Quotes the sources' sentences, each with the number of its source."""

    async def answer(self, question: str, sources: Sequence[Passage]) -> str:
        """The sentences of up to three sources that have the question's terms."""
        quoted = sources[:_SOURCES]
        weights = weigh(question, (passage.chunk.text for passage in quoted))
        excerpts = [best(passage.chunk.text, weights, longest=_QUOTE) for passage in quoted]
        top = max((excerpt.score for excerpt in excerpts), default=0.0)
        if top == 0:
            return NO_ANSWER
        said: dict[str, int] = {}
        for number, excerpt in enumerate(excerpts, start=1):
            if excerpt.score >= _WORTH * top:
                said.setdefault(excerpt.text, number)
        return " ".join(f"{text} [{number}]" for text, number in said.items())
