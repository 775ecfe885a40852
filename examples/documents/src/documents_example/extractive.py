"""The answer model that needs nothing: it quotes. The `Model` of the servicer unless another is given.

It joins the quotes of the best sources that add something. It cannot say anything that the documents do not, nor
anything in other words.
"""

from collections.abc import Sequence

from documents_example.sources import Found
from documents_example.terms import terms

_SOURCES = 3
"""How many sources it quotes at most."""
_WORTH = 0.7
"""A further source is quoted if it has this part of what the best one has of the question."""
_NEW = 0.5
"""And if this part of its words was not said yet."""

NO_ANSWER = "The documents hold no answer to this."


class ExtractiveModel:
    """Quotes the sources, each with its number, the one that has most of the question first."""

    async def answer(self, question: str, found: Sequence[Found]) -> str:  # noqa: ARG002  the quotes were chosen by it
        """Up to three quotes."""
        numbered = sorted(enumerate(found[:_SOURCES], start=1), key=lambda pair: -pair[1].worth)
        said: list[str] = []
        known: set[str] = set()
        for number, source in numbered:
            words = set(terms(source.quote))
            adds = len(words - known) >= _NEW * len(words)
            if source.worth > 0 and (not said or (adds and source.worth >= _WORTH * numbered[0][1].worth)):
                said.append(f"{source.quote} [{number}]")
                known |= words
        return " ".join(said) or NO_ANSWER
