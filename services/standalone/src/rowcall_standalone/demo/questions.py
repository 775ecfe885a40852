"""The demo's five questions: written ones for this repository, and for any other directory ones made of its own headings.

Called by `run`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rowcall_standalone.demo.corpus import Corpus, Document

COUNT = 5
"""How many questions are asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and where its answer stands."""

    text: str
    """In plain words."""
    expected: str
    """The path of a document that answers it."""
    made: bool = False
    """Whether it was made of the document's own words. Nobody knows then that no other document fits as well."""


_OURS = (
    Question("Why is history partitioned by the day of finishing?", "docs/adr/0003-storage.md"),
    Question("Why does embedded Postgres stand behind a directory of binaries?", "docs/adr/0004-embedded-postgres.md"),
    Question("Who mints job ids, the gateway or the database?", "docs/adr/0005-job-ids.md"),
    Question("What happens to the idempotency key of a deleted operation?", "docs/adr/0006-deleted-operations.md"),
    Question("Where do Buf's lint rules and the AIPs contradict each other?", "docs/adr/0002-buf-against-aip.md"),
)

_HEADING = re.compile(r"^(?:#{1,6}|=+|\*+|//+!?|--|;+|\"\"\")\s*(\S.*)$")
_WORD = re.compile(r"[^\W\d_]{3,}")
_MAX_LINES = 200
_WORDS = (4, 2, 1)


def questions_for(corpus: Corpus) -> Sequence[Question]:
    """Five questions over a corpus; fewer only where it has not five lines that can be asked about."""
    paths = {document.path for document in corpus.documents}
    if all(question.expected in paths for question in _OURS):
        return _OURS
    return _made_of(corpus.documents)


def _made_of(documents: Sequence[Document]) -> Sequence[Question]:
    """Asks about lines of enough words; of fewer where a small corpus has no such lines."""
    asked: Sequence[Question] = []
    for words in _WORDS:
        asked = _asking_about(documents, words)
        if len(asked) == COUNT:
            break
    return asked


def _asking_about(documents: Sequence[Document], words: int) -> list[Question]:
    """Asks for what a document says under a heading, or in a line, that no other document has."""
    phrases_of = {document.path: _phrases(document, words) for document in documents}
    common = Counter(phrase for phrases in phrases_of.values() for phrase in phrases)
    asked: list[Question] = []
    used: set[str] = set()
    # Round by round over the documents, so that no single one is asked about as long as another is left.
    candidates = {path: [one for one in phrases if common[one] == 1] for path, phrases in phrases_of.items()}
    while len(asked) < COUNT and any(candidates.values()):
        for path, phrases in candidates.items():
            if not phrases or len(asked) == COUNT:
                continue
            phrase = phrases.pop(0)
            if phrase.lower() not in used:
                used.add(phrase.lower())
                asked.append(Question(f"What is said about: {phrase.rstrip(' .,:;!?')}?", path, made=True))
    return asked


def _phrases(document: Document, words: int) -> list[str]:
    """What a document could be asked about: its headings, then its first lines, of so many different words."""
    lines = [line.strip() for line in document.text.splitlines()[:_MAX_LINES]]
    headings = [match[1].strip('#=*/-;" ') for line in lines if (match := _HEADING.match(line))]
    others = [line for line in lines if not _HEADING.match(line)]
    unique = dict.fromkeys(phrase[:200] for phrase in [*headings, *others] if len(set(_WORD.findall(phrase))) >= words)
    return list(unique)
