"""Making an answer of a question and what was found: the interface. Called by the servicer; see `extractive`."""

from collections.abc import Sequence
from typing import Protocol

from documents_example.index import Passage


class Model(Protocol):
    """Writes an answer. A language model is another class with this method, prompted with the passages."""

    async def answer(self, question: str, sources: Sequence[Passage]) -> str:
        """The answer, in which "[1]" refers to the first source; says so if they hold none."""
        ...
