"""Making an answer of a question and what was found: the interface. Called by the servicer; see `extractive`."""

from collections.abc import Sequence
from typing import Protocol

from documents_example.sources import Found


class Model(Protocol):
    """Writes an answer. A language model is another class with this method, prompted with what was found."""

    async def answer(self, question: str, found: Sequence[Found]) -> str:
        """The answer, in which "[1]" refers to the first that was found; says so if they hold none."""
        ...
