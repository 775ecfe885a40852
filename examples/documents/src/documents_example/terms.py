"""Words of a text as search sees them. Called by the embedder, the index and the answer model.

Identifiers are taken apart (`IngestDocument`, `max_attempts`, `ERROR_REASON_STILL_RUNNING`), so that code is found by a
question in plain words.
"""

import functools
import re
import threading
from importlib.resources import files

import snowballstemmer

_INSIDE_IDENTIFIER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")

_STOP_WORDS = frozenset(files("documents_example").joinpath("stop_words.txt").read_text("utf-8").split())

_stemmer = snowballstemmer.stemmer("english")
# It keeps the word it works on in itself, and documents are prepared in threads.
_stemming = threading.Lock()


def words(text: str) -> list[str]:
    """The words in order, in lower case, identifiers taken apart."""
    joined = _APOSTROPHE.sub("", text)
    return [word.lower() for word in _WORD.findall(_INSIDE_IDENTIFIER.sub(" ", joined))]


def terms(text: str) -> list[str]:
    """The words that carry meaning, in order, as stems."""
    return [stem(word) for word in words(text) if len(word) > 1 and word not in _STOP_WORDS]


@functools.lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The stem of an English word, by the Snowball algorithm."""
    with _stemming:
        return str(_stemmer.stemWord(word))
